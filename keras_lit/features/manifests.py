"""The records of a feature cache: the plan, the finished shards, and the manifest of a split."""

import os
import pathlib
import shutil
from typing import Any

from keras_lit import files
from keras_lit.towers import ImageTower, fingerprints

NAME = "features"
FORMAT = 1
Record = dict[str, Any]


def read(directory: str | os.PathLike, split: str = "train") -> Record:
    """The manifest of a finished split.

    Args:
        directory: where `precompute` wrote.
        split: str.

    Returns:
        {"plan": what was asked for (with the image tower's fingerprint as "tower", and with text
        features "text": {"dim", "tower"}), "pairs", "bytes", "skipped": [{"index", "name",
        "reason"}], "shards": [{"file", "pairs", "bytes", "sha256", ...}]}.

    Raises:
        FileNotFoundError: there is no such split, or it is not finished.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> directory = tempfile.mkdtemp()
    >>> _ = keras_lit.features.precompute(tower, pairs, directory, 4, 2, verbose=False)
    >>> found = keras_lit.features.manifest(directory)
    >>> found["pairs"], len(found["shards"])
    (6, 2)
    """
    path = manifest_path(directory, split)
    if path.exists():
        return read_json(path)
    working = working_directory(directory, split)
    if not working.exists():
        stems = (manifest.stem for manifest in path.parent.glob("manifest-*.json"))
        there = sorted(stem.removeprefix("manifest-") for stem in stems)
        raise FileNotFoundError(
            f"There are no features of split {split!r} in {str(directory)!r}. Splits there: "
            f"{', '.join(there) or 'none'}. Write them with `keras_lit.features.precompute`."
        )
    done = len(list(working.glob("shard-*.json")))
    raise FileNotFoundError(
        f"The features of split {split!r} in {str(directory)!r} are not finished: {done} shards "
        "are. Run `precompute` again with the same arguments to go on, or `merge` where several "
        "jobs wrote."
    )


def of_tokens(tower: ImageTower) -> Record:
    """What a plan says where the features are tokens; others, as earlier ones, say nothing."""
    if len(tower.feature_shape) == 1:
        return {}
    return {"patches": {"grid": tower.grid, "prefix_tokens": tower.prefix_tokens}}


def feature_shape(plan: Record) -> list[int]:
    """[dim], or of tokens [tokens, dim]."""
    if (patches := plan.get("patches")) is None:
        return [plan["dim"]]
    rows, columns = patches["grid"]
    return [patches["prefix_tokens"] + rows * columns, plan["dim"]]


def manifest_path(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """Written last, so that a split which has one is whole."""
    return pathlib.Path(directory) / f"manifest-{split}.json"


def working_directory(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """Holds what is not finished; removed when the split is."""
    return pathlib.Path(directory) / f".precompute-{split}"


def record_path(directory: str | os.PathLike, split: str, shard: int) -> pathlib.Path:
    """The record of a finished shard."""
    return working_directory(directory, split) / f"shard-{shard:05}.json"


def shard_file(split: str, shard: int, shards: int) -> str:
    """The file of a shard, as TensorFlow Datasets names it."""
    return f"{NAME}-{split}.tfrecord-{shard:05}-of-{shards:05}"


def agree_on_plan(directory: pathlib.Path, plan: Record) -> Record | None:
    """Writes the plan, or compares it with that there; the manifest if the split is finished."""
    split, working = plan["split"], working_directory(directory, plan["split"])
    if (known := known_plan(directory, split)) is not None:
        check_same(known, plan, directory)
    if (finished := manifest_path(directory, split)).exists():
        shutil.rmtree(working, ignore_errors=True)
        return read_json(finished)
    for other in directory.glob("manifest-*.json"):
        names = ("format", "dim", "dtype", "views", "fields", "tokens", "tower", "text", "patches")
        plans = (read_json(other)["plan"], plan)
        expected, received = ({name: p.get(name) for name in names} for p in plans)
        check_same(expected, received, directory)
    if known is None:
        working.mkdir(parents=True, exist_ok=True)
        try:
            files.write_json(working / "plan.json", plan)
        except OSError as error:
            raise write_error(working, error) from error
    return None


def known_plan(directory: pathlib.Path, split: str) -> Record | None:
    """The plan of a split that was begun or finished, if any."""
    if (finished := manifest_path(directory, split)).exists():
        return read_json(finished)["plan"]
    begun = working_directory(directory, split) / "plan.json"
    return read_json(begun) if begun.exists() else None


def read_record(directory: pathlib.Path, split: str, shard: int) -> Record | None:
    """The record of a finished shard, None where there is none."""
    path = record_path(directory, split, shard)
    return read_json(path) if path.exists() else None


def read_records(directory: pathlib.Path, plan: Record) -> list[Record]:
    """Those of all shards, which must be there."""
    paths = (record_path(directory, plan["split"], shard) for shard in range(plan["shards"]))
    return [read_json(path) for path in paths]


def check_same(expected: Record, received: Record, directory: pathlib.Path) -> None:
    """Raises ValueError when two plans differ, and names where."""
    if found := fingerprints.differences(expected, received):
        raise ValueError(
            f"{str(directory)!r} holds features of another tower, dataset or choice of arguments. "
            "Pass what it was begun with, or write to another directory. Nothing was changed. "
            f"Differences: {'; '.join(found)}."
        )


def missing_shards(directory: pathlib.Path, plan: Record) -> list[int]:
    """The shards without a record or its file; ValueError for a shard of another plan."""
    missing = []
    for shard in range(plan["shards"]):
        record = read_record(directory, plan["split"], shard)
        file = directory / shard_file(plan["split"], shard, plan["shards"])
        if record is None or not file.exists() or file.stat().st_size != record["bytes"]:
            missing.append(shard)
        elif record["plan"] != files.digest(plan):
            raise ValueError(
                f"Shard {shard} in {str(directory)!r} was written by a job with another tower, "
                "dataset or choice of arguments. Delete "
                f"{str(file)!r} and run that job again with the arguments of the others."
            )
    return missing


def write_error(path: pathlib.Path, error: Exception) -> OSError:
    """What to raise when a write fails."""
    return OSError(
        f"Could not write {str(path)!r}: {error} The shards that are finished are kept. Make room "
        "(or the directory writable) and run again with the same arguments."
    )


def read_json(path: pathlib.Path) -> Record:
    """`files.read_json` with what to do when it fails."""
    return files.read_json(path, "Delete it and run `precompute` again.")

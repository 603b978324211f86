"""The records of a feature cache: the plan, the finished shards, and the manifest of a split."""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import tensorflow_datasets as tfds

from keras_lit import fingerprints

NAME = "features"
FORMAT = 1
Record = dict[str, Any]


def read(directory: str | os.PathLike, split: str = "train") -> Record:
    """The manifest of a finished split.

    Args:
        directory: where `precompute` wrote.
        split: str.

    Returns:
        {"plan": what was asked for (with the image tower's fingerprint as "tower"), "pairs",
        "bytes", "skipped": [{"index", "name", "reason"}], "shards": [{"file", "pairs", "bytes",
        "sha256", ...}]}.

    Raises:
        FileNotFoundError: there is no such split, or it is not finished.
    """
    path = manifest_path(directory, split)
    if path.exists():
        return json.loads(path.read_text())
    working = working_directory(directory, split)
    if not working.exists():
        there = sorted(
            p.stem.removeprefix("manifest-") for p in path.parent.glob("manifest-*.json")
        )
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


def manifest_path(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """Written last, so that a split which has one is whole."""
    return pathlib.Path(directory) / f"manifest-{split}.json"


def working_directory(directory: str | os.PathLike, split: str) -> pathlib.Path:
    """Holds what is not finished, and goes when the split is."""
    return pathlib.Path(directory) / f".precompute-{split}"


def record_path(directory: str | os.PathLike, split: str, shard: int) -> pathlib.Path:
    """The record of a finished shard."""
    return working_directory(directory, split) / f"shard-{shard:05}.json"


def shard_file(split: str, shard: int, shards: int) -> str:
    """The file of a shard, as TensorFlow Datasets names it."""
    return f"{NAME}-{split}.tfrecord-{shard:05}-of-{shards:05}"


def agree_on_plan(directory: pathlib.Path, plan: Record) -> Record | None:
    """Writes the plan, or compares it with the one that is there.

    Returns:
        The manifest where the split is finished already, else None.

    Raises:
        ValueError: the directory holds features of something else.
        OSError: the directory cannot be written.
    """
    split = plan["split"]
    finished = manifest_path(directory, split)
    plan_path = working_directory(directory, split) / "plan.json"
    if finished.exists():
        manifest = json.loads(finished.read_text())
        check_same(manifest["plan"], plan, directory)
        shutil.rmtree(plan_path.parent, ignore_errors=True)
        return manifest
    for other in directory.glob("manifest-*.json"):
        names = ("format", "dim", "dtype", "views", "fields", "tokens", "tower")
        expected = json.loads(other.read_text())["plan"]
        check_same(*({name: p[name] for name in names} for p in (expected, plan)), directory)
    if plan_path.exists():
        check_same(json.loads(plan_path.read_text()), plan, directory)
    else:
        plan_path.parent.mkdir(parents=True, exist_ok=True)
        write_json(plan_path, plan)
    return None


def known_plan(directory: pathlib.Path, split: str) -> Record | None:
    """The plan of a split that was begun or finished, if any."""
    finished = manifest_path(directory, split)
    begun = working_directory(directory, split) / "plan.json"
    if finished.exists():
        return json.loads(finished.read_text())["plan"]
    return json.loads(begun.read_text()) if begun.exists() else None


def read_record(directory: pathlib.Path, split: str, shard: int) -> Record | None:
    """The record of a finished shard, None where there is none."""
    path = record_path(directory, split, shard)
    return json.loads(path.read_text()) if path.exists() else None


def last_input(directory: pathlib.Path, plan: Record, shard: int) -> int | None:
    """The hash of the last pair of a finished shard, None where there is none."""
    record = None if shard < 0 else read_record(directory, plan["split"], shard)
    return record and record["last_input"]


def check_same(expected: Record, received: Record, directory: pathlib.Path) -> None:
    """Raises ValueError when two plans differ, and names where."""
    found = fingerprints.differences(expected, received)
    if found:
        raise ValueError(
            f"{str(directory)!r} holds features of another tower, dataset or choice of arguments. "
            "Pass what it was begun with, or write to another directory. Nothing was changed. "
            f"Differences: {'; '.join(found)}."
        )


def digest(plan: Record) -> str:
    """Identifies a plan in the records of its shards."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def finish(directory: pathlib.Path, plan: Record, features: tfds.features.FeaturesDict) -> Record:
    """Writes the metadata of TensorFlow Datasets and the manifest; removes the working directory.

    All shards must be there; `missing_shards` tells.
    """
    split, shards = plan["split"], plan["shards"]
    records = [read_record(directory, split, shard) for shard in range(shards)]
    manifest = {
        "plan": plan,
        "pairs": sum(record["pairs"] for record in records),
        "bytes": sum(record["bytes"] for record in records),
        "skipped": [bad for record in records for bad in record["skipped"]],
        "shards": [
            {name: value for name, value in record.items() if name not in ("plan", "skipped")}
            for record in records
        ],
    }
    if manifest["pairs"] == 0:
        raise ValueError(f"No pair is left: all {plan['pairs']} images were skipped.")
    working = working_directory(directory, split)
    others = [json.loads(path.read_text()) for path in directory.glob("manifest-*.json")]
    try:
        _write_tfds_metadata(directory, working, [*others, manifest], features)
    except OSError as error:
        raise write_error(directory, error) from error
    write_json(manifest_path(directory, split), manifest)
    shutil.rmtree(working)
    return manifest


def missing_shards(directory: pathlib.Path, plan: Record) -> list[int]:
    """The shards without a record, or without the file that it is about.

    Raises:
        ValueError: a shard belongs to another plan.
    """
    missing = []
    for shard in range(plan["shards"]):
        record = read_record(directory, plan["split"], shard)
        file = directory / shard_file(plan["split"], shard, plan["shards"])
        if record is None or not file.exists() or file.stat().st_size != record["bytes"]:
            missing.append(shard)
        elif record["plan"] != digest(plan):
            raise ValueError(
                f"Shard {shard} in {str(directory)!r} was written by a job with another tower, "
                "dataset or choice of arguments. Delete "
                f"{str(file)!r} and run that job again with those of the others."
            )
    return missing


def write_error(path: pathlib.Path, error: Exception) -> OSError:
    """What to raise when a write fails."""
    return OSError(
        f"Could not write {str(path)!r}: {error} The shards that are finished are kept. Make room "
        "(or the directory writable) and run again with the same arguments."
    )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a file that is either whole or not there."""
    working = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(working, "w") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        working.rename(path)
    except OSError as error:
        working.unlink(missing_ok=True)
        raise write_error(path, error) from error


def _write_tfds_metadata(
    directory: pathlib.Path,
    working: pathlib.Path,
    manifests: list[Record],
    features: tfds.features.FeaturesDict,
) -> None:
    target = working / "tfds"
    target.mkdir(exist_ok=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(target), module_name=NAME
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Image features of a locked tower, written by keras_lit.features.precompute.",
        features=features,
    )
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=manifest["plan"]["split"],
                    shard_lengths=[shard["pairs"] for shard in manifest["shards"]],
                    num_bytes=manifest["bytes"],
                )
                for manifest in sorted(manifests, key=lambda m: m["plan"]["split"])
            ]
        )
    )
    info.write_to_directory(str(target))
    for path in sorted(target.iterdir()):
        path.rename(directory / path.name)

"""Joins what independent jobs have written."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from keras_lit.features import manifests, tfrecords


def merge(
    directory: str | os.PathLike,
    split: str = "train",
    parts: Sequence[str | os.PathLike] = (),
) -> manifests.Record:
    """Verifies and joins the shards of all jobs of `precompute` (`shard_index`, `num_shards`).

    Args:
        directory: where the jobs wrote, or where to join them.
        split: str.
        parts: other directories that jobs wrote to, whose shards are copied here first.

    Returns:
        The manifest, byte for byte that of a single job.

    Raises:
        FileNotFoundError: no job has written here.
        ValueError: shards are missing, have changed since they were written, or are of different
            plans: another tower, dataset or choice of arguments.
        OSError: the disk is full, or the directory cannot be written.

    Example:

    >>> keras_lit.features.merge("features", parts=["disk1", "disk2"])  # doctest: +SKIP
    """
    directory = pathlib.Path(directory)
    for part in map(pathlib.Path, parts):
        _copy(part, directory, split)
    plan = manifests.known_plan(directory, split)
    if plan is None:
        raise FileNotFoundError(f"No job has written split {split!r} to {str(directory)!r}.")
    if (finished := manifests.agree_on_plan(directory, plan)) is not None:
        return finished
    missing = manifests.missing_shards(directory, plan)
    if missing:
        raise ValueError(
            f"{len(missing)} of {plan['shards']} shards in {str(directory)!r} are missing: "
            f"{', '.join(map(str, missing))}. Run the jobs that write them, or pass their "
            "directories as `parts`."
        )
    changed = [
        record["file"]
        for record in manifests.read_records(directory, plan)
        if tfrecords.checksum(directory / record["file"]) != record["sha256"]
    ]
    if changed:
        raise ValueError(
            f"These shards have changed since they were written: {', '.join(changed)}. Delete "
            "them, and run their jobs again."
        )
    return manifests.finish(directory, plan, tfrecords.tfds_features(plan))


def _copy(part: pathlib.Path, directory: pathlib.Path, split: str) -> None:
    """The files first and their records after them, so that a record stands for a whole file."""
    plan = manifests.known_plan(part, split)
    if plan is None:
        raise FileNotFoundError(f"No job has written split {split!r} to {str(part)!r}.")
    directory.mkdir(parents=True, exist_ok=True)
    if manifests.agree_on_plan(directory, plan) is not None:
        return
    for source in sorted(manifests.working_directory(part, split).glob("shard-*.json")):
        target = manifests.working_directory(directory, split) / source.name
        file = manifests.shard_file(split, int(source.stem.split("-")[1]), plan["shards"])
        working = target.with_suffix(".tmp")
        try:
            for old, new in ((part / file, directory / file), (source, target)):
                shutil.copyfile(old, working)
                working.rename(new)
        except OSError as error:
            raise manifests.write_error(directory / file, error) from error
        finally:
            working.unlink(missing_ok=True)

"""What TensorFlow Datasets opens: the shards of a split, each whole or not there, and metadata."""

from __future__ import annotations

import itertools
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_lit import files
from keras_lit.features import manifests

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Row = dict[str, Any]
FEATURES, TOKENS, TEXT_FEATURES = "image_features", "token_ids", "text_features"
# What a cache, or what reads it, has beside the fields of a dataset.
_OWN = (FEATURES, TOKENS, TEXT_FEATURES, "fingerprint", "text_fingerprint")
_UNKNOWN = (tf.bfloat16, tf.complex64, tf.complex128)  # To TensorFlow Datasets.


def fields_of(spec: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    """What a plan says of the fields beside the image: fixed shapes or lists of strings."""
    fields = {}
    for name, value in sorted(spec.items()):
        if name == "image":
            continue
        if name in _OWN or not isinstance(value, tf.TensorSpec) or value.dtype in _UNKNOWN:
            raise ValueError(
                f"A field called {name!r} of {value} cannot be stored. Map your dataset to fields "
                "that are tensors of strings or real numbers, with other names."
            )
        strings = value.dtype == tf.string and value.shape.rank == 1
        if not (strings or (value.shape.is_fully_defined() and value.shape.num_elements())):
            raise ValueError(
                f"The field {name!r} should have a fixed shape, or be a list of strings [None]. "
                f"Received shape: {value.shape}. Map your dataset, or leave the field out."
            )
        shape = [None] if strings else value.shape.as_list()
        fields[name] = {"dtype": value.dtype.name, "shape": shape}
    return fields


def tfds_features(plan: manifests.Record) -> tfds.features.FeaturesDict:
    """The features of a plan, as TensorFlow Datasets describes them."""
    import tensorflow_datasets as tfds

    def tensor(shape: list[int], dtype: str, encoding: str = "bytes") -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=tf.as_dtype(dtype), encoding=encoding)

    shape = manifests.feature_shape(plan)
    shape = shape if plan["views"] == 1 else [plan["views"], *shape]
    features = {FEATURES: tensor(shape, plan["dtype"])}
    if plan["tokens"]:
        features[TOKENS] = tensor([plan["tokens"]["length"]], "int32")
    if text := plan.get("text"):
        of_one = tensor([text["dim"]], plan["dtype"])
        several = plan["fields"]["text"]["shape"] == [None]
        features[TEXT_FEATURES] = tfds.features.Sequence(of_one) if several else of_one
    for name, field in plan["fields"].items():
        if field == {"dtype": "string", "shape": []}:
            features[name] = tfds.features.Text()
        elif field["shape"] == [None]:
            features[name] = tfds.features.Sequence(tfds.features.Text())
        else:  # TensorFlow's records have 32 bits for a number.
            encoding = "bytes" if field["dtype"] == "float64" else "none"
            features[name] = tensor(**field, encoding=encoding)
    return tfds.features.FeaturesDict(features)


def serialize(
    features: tfds.features.FeaturesDict, rows: Iterable[Row]
) -> Iterator[tuple[None, bytes]]:
    """Rows of NumPy values as (no key, tf.train.Example), the same bytes in every process."""
    import tensorflow_datasets as tfds

    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    for row in rows:
        example = serializer.get_tf_example(features.encode_example(row))
        # Protocol buffers keep maps in any order, unless they are told not to.
        yield None, example.SerializeToString(deterministic=True)


def write(
    directory: pathlib.Path,
    plan: manifests.Record,
    shard: int,
    rows: Iterable[Row],
    notes: manifests.Record,
) -> None:
    """Writes the file of a shard and then its record, with `notes` as the rows leave them."""
    import tensorflow_datasets as tfds

    split = plan["split"]
    path = directory / manifests.shard_file(split, shard, plan["shards"])
    unfinished = manifests.working_directory(directory, split)
    files.remove_leftovers(path, unfinished)
    count = 0
    of_rows = None

    def counted() -> Iterator[tuple[None, bytes]]:
        nonlocal count, of_rows
        try:
            for item in serialize(tfds_features(plan), rows):
                count += 1
                yield item
        except Exception as error:
            of_rows = error
            raise

    try:
        with files.whole(path, unfinished) as working:
            writer = tfds.core.writer.ExampleWriter(tfds.core.FileFormat.TFRECORD)
            writer.write(str(working), counted())
            record = {
                "file": path.name,
                "pairs": count,
                "bytes": working.stat().st_size,
                "sha256": files.checksum(working),
                "plan": files.digest(plan),
                **notes,
            }
        files.write_json(manifests.record_path(directory, split, shard), record)
    except (OSError, tf.errors.OpError) as error:
        if error is of_rows:
            raise
        raise manifests.write_error(path, error) from error


def finish(directory: pathlib.Path, plan: manifests.Record) -> manifests.Record:
    """Writes the metadata and the manifest of a split whose shards are all there."""
    split = plan["split"]
    records = manifests.read_records(directory, plan)
    for before, after in itertools.pairwise(records):
        if after.get("input_before", 0) not in (0, before["last_input"]):
            raise ValueError(
                f"{before['file']} and {after['file']} were written from different orders of the "
                "dataset, so that pairs would be missing and others twice. Delete both, and run "
                "their jobs again with the same pairs in the same order (a shuffle needs a seed)."
            )
    kept = ("file", "pairs", "bytes", "sha256", "last_input")
    manifest = {
        "plan": plan,
        "pairs": sum(record["pairs"] for record in records),
        "bytes": sum(record["bytes"] for record in records),
        "skipped": [bad for record in records for bad in record["skipped"]],
        "shards": [{name: record[name] for name in kept} for record in records],
    }
    if manifest["pairs"] == 0:
        raise ValueError(f"No pair is left: all {plan['pairs']} images were skipped.")
    working = manifests.working_directory(directory, split)
    others = [manifests.read_json(path) for path in directory.glob("manifest-*.json")]
    try:
        _write_metadata(directory, working, [*others, manifest])
        files.write_json(manifests.manifest_path(directory, split), manifest, working)
    except OSError as error:
        raise manifests.write_error(directory, error) from error
    shutil.rmtree(working)
    return manifest


def _write_metadata(
    directory: pathlib.Path, working: pathlib.Path, splits: list[manifests.Record]
) -> None:
    """Of all splits, given their manifests."""
    import tensorflow_datasets as tfds

    target = working / "tfds"
    target.mkdir(exist_ok=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=manifests.NAME,
        version=tfds.core.Version("1.0.0"),
        data_dir=str(target),
        module_name=manifests.NAME,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Features of locked towers, written by keras_lit.features.precompute.",
        features=tfds_features(splits[-1]["plan"]),
    )
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    infos = [
        tfds.core.SplitInfo(
            name=manifest["plan"]["split"],
            shard_lengths=[shard["pairs"] for shard in manifest["shards"]],
            num_bytes=manifest["bytes"],
        )
        for manifest in sorted(splits, key=lambda manifest: manifest["plan"]["split"])
    ]
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(str(target))
    for path in sorted(target.iterdir()):
        with files.whole(directory / path.name, working) as final:
            path.rename(final)

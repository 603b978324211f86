"""Apache Beam: precomputes features of pairs in the millions on any of its runners.

`pip install keras_lit[beam]`. Beam 2.77 needs protobuf below 7, with which TensorFlow works too.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf

from keras_lit.features import feature_rows, manifests, precomputing, tfrecords
from keras_lit.towers import ImageTower, TextTower, Tower, fingerprints
from keras_lit.towers.lower import Lower


class Precompute(beam.PTransform):
    """From numbered raw pairs to the shards that `precompute` writes, byte for byte.

    Takes a PCollection of (number, {"image", "text", ...}) with NumPy values, in any order, and
    returns one of the numbers of the written shards, which `keras_lit.features.merge(directory,
    split)` then verifies and joins. A finished shard is not encoded again. All workers write to
    `directory`, and hold a shard at a time.

    Args:
        make_tower: a function that returns the `ImageTower`, from a file, once in each worker.
        dataset: the same raw pairs as a tf.data.Dataset of known cardinality; the first is read.
        directory: where to write.
        **options: `batch_size`, `shards`, `split`, `dtype`, `views`, `seed`, `skip_bad_images`,
            `last_blocks` of `keras_lit.features.precompute`.
        make_text_tower: a function that returns the `TextTower`, for text features.

    Example:

    >>> with beam.Pipeline() as pipeline:
    ...     numbered = pipeline | ReadMyPairs()
    ...     numbered | keras_lit.features.beam.Precompute(make_tower, dataset, "features")
    >>> keras_lit.features.merge("features")
    """

    def __init__(
        self,
        make_tower: Callable[[], ImageTower],
        dataset: tf.data.Dataset,
        directory: str | os.PathLike,
        skip_bad_images: bool = False,
        make_text_tower: Callable[[], TextTower] | None = None,
        **options: Any,
    ):
        super().__init__()
        directory = pathlib.Path(directory)
        options["text_tower"] = make_text_tower and make_text_tower()
        self._plan, finished = precomputing.begin(make_tower(), dataset, directory, **options)
        work = (make_tower, make_text_tower, dataset.element_spec, directory, self._plan)
        self._work = _Shard(*work, skip_bad_images, finished is not None)

    def expand(self, numbered: beam.PCollection) -> beam.PCollection:
        plan = self._plan
        return (
            numbered
            | "shard" >> beam.Map(lambda pair: (precomputing.shard_of(plan, pair[0]), pair))
            | "group" >> beam.GroupByKey()
            | "encode" >> beam.ParDo(self._work)
        )


@dataclasses.dataclass(eq=False)
class _Shard(beam.DoFn):
    """Encodes and writes one shard."""

    make_tower: Callable[[], ImageTower]
    make_text_tower: Callable[[], TextTower] | None
    spec: dict[str, tf.TensorSpec]
    directory: pathlib.Path
    plan: manifests.Record
    skip: bool
    finished: bool

    def setup(self) -> None:
        self._tower, size = self.make_tower(), self.plan["batch_size"]
        self._check_same(self.plan["tower"], self._tower)
        of_text = None
        if self.make_text_tower is not None:
            text_tower = self.make_text_tower()
            self._check_same(self.plan["text"]["tower"], text_tower)
            of_text = feature_rows.text_encoder(text_tower, size)
        encode = feature_rows.encoder(self._tower, size, self.plan.get("last_blocks"))
        self._rows = feature_rows.Rows(encode, self.plan, None, self.skip, of_text)

    def _check_same(self, expected: Any, tower: Tower) -> None:
        below = self.plan.get("last_blocks") if isinstance(tower, ImageTower) else None
        found = fingerprints.of_cached(tower, below and Lower(tower, below))
        received = {"tower": found}
        manifests.check_same({"tower": expected}, received, self.directory)

    def process(self, group: tuple[int, Iterable[tuple[int, Any]]]) -> Iterator[int]:
        shard, numbered = group
        plan, directory = self.plan, self.directory
        if not self.finished and shard in manifests.missing_shards(directory, plan):
            pairs = [pair for _, pair in sorted(numbered, key=lambda item: item[0])]
            dataset = tf.data.Dataset.from_generator(lambda: pairs, output_signature=self.spec)
            start, stop = precomputing.bounds(plan, shard)
            batches = iter(feature_rows.prepare(dataset, self._tower, plan, start, skip=0))
            notes: manifests.Record = {}
            rows = self._rows.of_shard(batches, start, stop, None, notes)
            tfrecords.write(directory, plan, shard, rows, notes)
        yield shard

"""Apache Beam: precomputes features of images in the millions on any of its runners.

`pip install keras_lit[beam]`.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf

from keras_lit.features import encoding, manifests, precomputing, tfrecords
from keras_lit.towers import ImageTower, fingerprints

Numbered = tuple[int, dict[str, Any]]


class Precompute(beam.PTransform):
    """From numbered raw pairs to the shards that `precompute` writes, byte for byte.

    Takes a PCollection of (number, {"image", "text", ...}) with NumPy values, in any order, and
    returns one of the numbers of the shards that were written. `keras_lit.features.merge(directory,
    split)` then verifies and joins them; all workers write to `directory`. A shard that is finished
    already is not encoded again. A group is a shard, so `shards` sets how much one worker holds.

    Args:
        make_tower: a function without arguments that returns the `ImageTower`; called once in each
            worker process, it should load the tower from a file.
        dataset: the same raw pairs as a tf.data.Dataset, of which only the first is read, and the
            specification; its cardinality must be known.
        directory: where to write.
        **options: `batch_size`, `shards`, `split`, `dtype`, `views`, `seed`, `skip_bad_images` of
            `keras_lit.features.precompute`.

    Example:

    >>> with beam.Pipeline() as pipeline:  # doctest: +SKIP
    ...     numbered = pipeline | ReadMyPairs()
    ...     numbered | keras_lit.features.beam.Precompute(make_tower, dataset, "features")
    >>> keras_lit.features.merge("features")  # doctest: +SKIP
    """

    def __init__(
        self,
        make_tower: Callable[[], ImageTower],
        dataset: tf.data.Dataset,
        directory: str | os.PathLike,
        skip_bad_images: bool = False,
        **options: Any,
    ):
        super().__init__()
        directory = pathlib.Path(directory)
        self._plan, finished = precomputing.begin(make_tower(), dataset, directory, **options)
        work = (make_tower, dataset.element_spec, directory, self._plan)
        self._work = _Shard(*work, skip_bad_images, finished is not None)

    def expand(self, numbered: beam.PCollection) -> beam.PCollection:
        plan = self._plan
        return (
            numbered
            | "shard" >> beam.Map(lambda pair: (precomputing.shard_of(plan, pair[0]), pair))
            | "group" >> beam.GroupByKey()
            | "encode" >> beam.ParDo(self._work)
        )


class _Shard(beam.DoFn):
    """Encodes and writes one shard."""

    def __init__(
        self,
        make_tower: Callable[[], ImageTower],
        spec: dict[str, tf.TensorSpec],
        directory: pathlib.Path,
        plan: manifests.Record,
        skip: bool,
        finished: bool,
    ):
        self._make_tower, self._spec, self._directory = make_tower, spec, directory
        self._plan, self._skip, self._finished = plan, skip, finished

    def setup(self) -> None:
        self._tower = self._make_tower()
        tower = {"tower": fingerprints.fingerprint(self._tower)}
        manifests.check_same({"tower": self._plan["tower"]}, tower, self._directory)
        encode = encoding.encoder(self._tower, self._plan["batch_size"])
        self._rows = encoding.Rows(encode, self._plan, None, self._skip)

    def process(self, group: tuple[int, Iterable[Numbered]]) -> Iterator[int]:
        shard, numbered = group
        plan, directory = self._plan, self._directory
        if not self._finished and shard in manifests.missing_shards(directory, plan):
            pairs = [pair for _, pair in sorted(numbered, key=lambda item: item[0])]
            dataset = tf.data.Dataset.from_generator(
                lambda: iter(pairs), output_signature=self._spec
            )
            start, stop = precomputing.bounds(plan, shard)
            batches = iter(encoding.prepare(dataset, self._tower, plan, start, skip=0))
            notes: manifests.Record = {}
            rows = self._rows.of_shard(batches, start, stop, None, notes)
            tfrecords.write(directory, plan, tfrecords.tfds_features(plan), shard, rows, notes)
        yield shard

"""Apache Beam: the vectors of an index of pictures in the millions, on any of its runners.

`pip install keras_lit[beam]`.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.search import sources, updating
from keras_lit.towers import ImageTower
from keras_lit.towers.encoding import unit_length


class Vectors(beam.PTransform):
    """From pictures to the vectors that `Index.build` would encode, bit for bit.

    Takes a PCollection of pictures in any order: bytes of a file or uint8 pixels [height, width,
    channels], or dicts with these as "image". Returns one of (SHA-256 of the file, [dim] float32),
    of which `Index.build(..., vectors=dict)` then encodes none again. Pictures that do not decode
    are left out here; `Index.build` refuses them and says why.

    Args:
        make_tower: a function that returns the `ImageTower`, from a file, once in each worker.
        batch_size: int, that of `Index.build`.
        dim: int, that of `Index.build`; None: the width of the embeddings.

    Raises:
        ValueError: `batch_size` or `dim` is not positive.

    Example:

    >>> with beam.Pipeline() as pipeline:
    ...     pictures = pipeline | ReadMyPictures()
    ...     vectors = pictures | keras_lit.search.beam.Vectors(make_tower)
    ...     _ = vectors | WriteMyVectors()
    >>> keras_lit.search.Index.build(model, "photos", "index", vectors=dict(read_my_vectors()))
    """

    def __init__(
        self, make_tower: Callable[[], ImageTower], batch_size: int = 64, dim: int | None = None
    ):
        super().__init__()
        checks.check_count(batch_size, "batch_size")
        if dim is not None:
            checks.check_count(dim, "dim")
        self._work = _Encode(make_tower, batch_size, dim)
        self._batches = beam.BatchElements(batch_size, batch_size)

    def expand(self, pictures: beam.PCollection) -> beam.PCollection:
        return pictures | "batch" >> self._batches | "encode" >> beam.ParDo(self._work)


class _Encode(beam.DoFn):
    """Encodes a batch."""

    def __init__(self, make_tower: Callable[[], ImageTower], batch_size: int, dim: int | None):
        self._make_tower, self._batch_size, self._dim = make_tower, batch_size, dim

    def setup(self) -> None:
        self._tower = self._make_tower()

    def process(self, pictures: list[Any]) -> Iterator[tuple[bytes, np.ndarray]]:
        images = [x["image"] if isinstance(x, dict) else x for x in pictures]
        contents = [sources.content_of(image) for image in images]
        pixels, valid = self._tower.preprocessor.with_valid(tf.constant(contents))
        embeddings = updating.encode(self._tower, pixels.numpy(), self._batch_size)
        vectors = unit_length(embeddings, self._dim).numpy()
        for content, vector, decodes in zip(contents, vectors, valid.numpy(), strict=True):
            if decodes:
                yield hashlib.sha256(content).digest(), vector

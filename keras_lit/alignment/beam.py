"""Apache Beam: what `LiT.align` needs to know of millions of pairs, on any runner.

`pip install keras_lit[beam]`.
"""

from collections.abc import Iterable
from typing import Any, get_args

import apache_beam as beam
import numpy as np

from keras_lit import checks
from keras_lit.alignment import aligning
from keras_lit.alignment.choosing import Method
from keras_lit.alignment.folds import Folds
from keras_lit.training import pairs


class CombineFolds(beam.CombineFn):
    """From batches of features to the `Folds` that `LiT.align` takes in place of pairs.

    Takes dicts of NumPy arrays: "image_features" [n, image_dim] and "text_features" [n, text_dim]
    or [n, captions, text_dim] (with a "mask" [n, captions] bool where some are padding), and
    optionally the "group" [n] of each pair. In any order and in batches of any size they give what
    one pass of `align` gathers, up to rounding.

    Args:
        image_dim: int, the width of the image features.
        text_dim: int, the width of the text features.
        method: "cca" or "ridge", that of `align`.
        folds: int, that of `align`.

    Raises:
        ValueError: unknown method; as `Folds`.

    Example:

    >>> with beam.Pipeline() as pipeline:
    ...     batches = pipeline | ReadMyFeatures()
    ...     folds = batches | beam.CombineGlobally(
    ...         keras_lit.alignment.beam.CombineFolds(1280, 384))
    ...     _ = folds | beam.Map(lambda folds: path.write_bytes(pickle.dumps(folds)))
    >>> model.align(pickle.loads(path.read_bytes()))
    """

    def __init__(self, image_dim: int, text_dim: int, method: Method = "cca", folds: int = 5):
        checks.check_one_of(method, get_args(Method), "method")
        Folds(image_dim, text_dim, folds)  # Raises now instead of on a worker.
        self._widths, self._method = (image_dim, text_dim, folds), method

    def create_accumulator(self) -> Folds:
        return Folds(*self._widths)

    def add_input(self, folds: Folds, batch: dict[str, Any]) -> Folds:
        texts = np.asarray(batch["text_features"], "float32")
        prepared = aligning.prepared(texts, self._method)
        batch = pairs.one_text(batch, locked=True)
        if pairs.CAPTION in batch:
            batch[pairs.CAPTION] = pairs.hashes(batch[pairs.CAPTION])
        groups, given = aligning.groups_of(batch), aligning.given_of(batch)
        folds.add(batch["image_features"], prepared, groups, given)
        return folds

    def merge_accumulators(self, several: Iterable[Folds]) -> Folds:
        found = self.create_accumulator()
        for folds in several:
            found.merge(folds)
        return found

    def extract_output(self, folds: Folds) -> Folds:
        return folds

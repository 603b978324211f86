"""Queries: sentences, pictures, embeddings, and sums of these."""

import numbers
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit.model import LiT
from keras_lit.preprocessing.formats import SUFFIXES
from keras_lit.preprocessing.image import why_not
from keras_lit.search.sources import as_png
from keras_lit.towers.encoding import unit_length
from keras_lit.training.pictures import encoded, is_pil

_EXPECTED = (
    "A query should be a sentence (str), a picture (a pathlib.Path, the bytes of a file, or uint8 "
    "[height, width, channels]), an embedding (float [dim]), or a sum of these (`Query`)."
)


class Query:
    """A weighted sum of sentences and pictures: `Query("a dog") + picture - 0.5 * Query("snow")`.

    The embeddings of the terms, of unit length each, are added up with their weights.

    Args:
        content: str, a sentence; `pathlib.Path`, bytes or uint8 [height, width, channels], a
            picture, as is a PIL image; or float [dim], an embedding.
        weight: float.

    Raises:
        TypeError: `content` is something else.
        ValueError: an empty sentence; a weight that is not finite.

    Example:

    >>> query = 2 * keras_lit.search.Query("a dog") + "a beach" - "snow"
    >>> query.terms
    [(2.0, 'a dog'), (1.0, 'a beach'), (-1.0, 'snow')]
    """

    __array_ufunc__ = None  # `picture + query` is a `Query`, not an array.

    terms: list[tuple[float, Any]]

    def __init__(self, content: Any, weight: float = 1.0):
        if not (isinstance(weight, numbers.Real) and np.isfinite(weight)):
            raise ValueError(f"`weight` should be a finite number. Received: {weight!r}.")
        if isinstance(content, Query):
            self.terms = [(weight * of, term) for of, term in content.terms]
        else:
            self.terms = [(float(weight), _checked(content))]

    def __add__(self, other: Any) -> "Query":
        joined = Query(self)
        joined.terms += Query(other).terms
        return joined

    def __radd__(self, other: Any) -> "Query":
        if isinstance(other, int) and other == 0:  # Where `sum` begins.
            return self
        return Query(other) + self

    def __sub__(self, other: Any) -> "Query":
        return self + Query(other, -1.0)

    def __rsub__(self, other: Any) -> "Query":
        return Query(other) - self

    def __mul__(self, weight: float) -> "Query":
        return Query(self, weight)

    __rmul__ = __mul__

    def __truediv__(self, weight: float) -> "Query":
        if not isinstance(weight, numbers.Real) or not weight:
            raise ValueError(f"A query is divided by a number other than 0. Received: {weight!r}.")
        return Query(self, 1 / weight)

    def __neg__(self) -> "Query":
        return Query(self, -1.0)

    def __repr__(self) -> str:
        shown = [f"{weight:+g} * {_shown(term)}" for weight, term in self.terms]
        return f"Query({' '.join(shown)})"


def embed(model: LiT | None, queries: Sequence[Any], dim: int) -> np.ndarray:
    """Embeds whatever `Query` takes: [n, dim] float32 of unit length."""
    sums = [Query(query) for query in queries]
    terms = [term for query in sums for _, term in query.terms]
    sentences = list(dict.fromkeys(x for x in terms if isinstance(x, str)))
    pictures = list(dict.fromkeys(x for x in terms if isinstance(x, bytes)))
    known: dict[Any, np.ndarray] = {}
    if model is None and (sentences or pictures):
        raise ValueError(
            "An index that was opened without a model takes embeddings only. Open it with "
            "`Index(directory, model)` to search for sentences and pictures."
        )
    if model is not None and sentences:
        found = model.encode_text(sentences, verbose=0, dim=dim)
        known |= zip(sentences, found, strict=True)
    if model is not None and pictures:
        known |= zip(pictures, _of_pictures(model, pictures, dim), strict=True)
    rows = np.zeros([len(sums), dim], np.float32)
    for row, query in zip(rows, sums, strict=True):
        for weight, term in query.terms:
            vector = known[term] if not isinstance(term, np.ndarray) else term
            if vector.shape != (dim,):
                raise ValueError(
                    f"An embedding should have the width of the index, [{dim}]. Received shape: "
                    f"{list(vector.shape)}."
                )
            row += weight * vector
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > 1e-6).all():
        query = sums[int(np.argmin(lengths))]
        raise ValueError(f"A sum should not be zero: its terms cancel. Received: {query!r}.")
    return rows / lengths


def _of_pictures(model: LiT, contents: list[bytes], dim: int) -> np.ndarray:
    images, valid = model.image_tower.preprocessor.with_valid(tf.constant(contents))
    for content, decodes in zip(contents, valid.numpy(), strict=True):
        if not decodes:
            reason = why_not(tf.constant(content)).numpy().decode()
            raise ValueError(
                f"The picture of a query does not decode. {reason} Received: {len(content)} bytes."
            )
    return unit_length(model.image_tower.inference()(images), dim).numpy()


def _checked(content: Any) -> Any:
    """A sentence as str, a picture as the bytes of a file, an embedding as an array."""
    if isinstance(content, str):
        if not content.strip():
            raise ValueError("A sentence to search for should not be empty.")
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"A sentence should be Unicode. Received: {content!r}.") from error
        if content.lower().endswith(SUFFIXES) and os.path.isfile(content):
            warnings.warn(
                f"{content!r} is a file, and was searched for as a sentence. Search for pictures "
                f"like it with `pathlib.Path({content!r})`.",
                stacklevel=2,
            )
        return content
    if isinstance(content, os.PathLike):
        try:
            return pathlib.Path(content).read_bytes()
        except (OSError, ValueError) as error:  # A name may hold what no name of a file can.
            raise ValueError(f"The picture {str(content)!r} cannot be read: {error}.") from error
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    if isinstance(content, tf.Tensor) and content.dtype == tf.string and content.shape.rank == 0:
        return _checked(content.numpy())  # A picture out of a dataset.
    if is_pil(content):
        return encoded(content)
    array = np.asarray(content)
    if (png := as_png(array)) is not None:
        return png
    if array.dtype.kind == "f" and array.ndim == 1:
        length = np.linalg.norm(array)
        if not (np.isfinite(length) and length > 0):
            raise ValueError("An embedding should be finite and not zero.")
        return (array / length).astype(np.float32)
    received = f"{array.dtype} {list(array.shape)}" if array.ndim else repr(content)[:80]
    raise TypeError(f"{_EXPECTED} Received: {received}.")


def _shown(term: Any) -> str:
    if isinstance(term, str):
        return repr(term)
    return "picture" if isinstance(term, bytes) else "embedding"

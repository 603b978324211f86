"""Checks of the rows that every evaluation gets: shape, finite numbers, unit length."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

# Embeddings that went through bfloat16 are this close to unit length.
_TOLERANCE = 1e-2


def unit_rows(embeddings: np.ndarray, name: str) -> np.ndarray:
    """[rows, dim] -> float32 of unit length, checked; a warning if the length was different."""
    array = float_rows(embeddings, name)
    lengths = np.sqrt(np.einsum("nd,nd->n", array, array))
    wanted, found = "finite and no row all zeros", "NaN, infinite values or only zeros"
    _refuse_rows(~np.isfinite(lengths) | (lengths == 0), name, wanted, found)
    off = np.abs(lengths - 1)
    if (off > _TOLERANCE).any():
        warnings.warn(
            f"`{name}` should have rows of unit length, as `model.encode_image` and "
            f"`model.encode_text` return them. Received lengths from {lengths.min():.3g} to "
            f"{lengths.max():.3g}; they are normalised.",
            stacklevel=3,
        )
    return array if (off < 1e-5).all() else array / lengths[:, np.newaxis]


def finite_rows(features: np.ndarray, name: str) -> np.ndarray:
    """Checks features of any length: [rows, dim] -> float32, at least one row, finite."""
    array = float_rows(features, name)
    _refuse_rows(~np.isfinite(array).all(axis=1), name, "finite", "NaN or infinite values")
    return array


def float_rows(values: np.ndarray, name: str) -> np.ndarray:
    """[rows, dim] -> float32, at least one row."""
    array = np.asarray(values, "float32")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"`{name}` should have shape [rows, dim], with at least one row. Received shape: "
            f"{array.shape}."
        )
    return array


def _refuse_rows(bad: np.ndarray, name: str, wanted: str, found: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(
            f"`{name}` should be {wanted}. Received rows with {found}: {len(rows)} of {len(bad)}, "
            f"the first {rows[:5].tolist()}."
        )


def check_same_width(first: np.ndarray, second: np.ndarray, names: str) -> None:
    """Raises ValueError unless two arrays [rows, dim] have the same dim."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names} should have the same width. Received: {first.shape} and {second.shape}."
        )


def class_labels(labels: Any, count: int, classes: int, name: str) -> np.ndarray:
    """Checks labels: one for each of `count` rows, integers in [0, classes)."""
    array = np.asarray(labels)
    if array.shape != (count,):
        remedy = ' Read them with `label_mode="int"`, or pass `labels.argmax(axis=1)`.'
        remedy = remedy if array.ndim == 2 else ""
        remedy = " Pass `labels[:, 0]`." if array.shape == (count, 1) else remedy
        raise ValueError(
            f"`{name}` should hold one label an image. Received: {count} images and labels of "
            f"shape {array.shape}.{remedy}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`{name}` should be integers. Received: {array.dtype}.")
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"`{name}` should be in [0, {classes}), the classes. Received: from {array.min()} to "
            f"{array.max()}."
        )
    return array


def label_numbers(labels: Any, names: Sequence[str], name: str) -> Any:
    """Strings become their places in `names`; labels that are numbers stay as they are."""
    array = np.asarray(labels)
    if array.dtype.kind not in "OSU":
        return labels
    found = [x.decode() if isinstance(x, bytes) else str(x) for x in array.ravel()]
    numbers = {x: i for i, x in enumerate(names)}
    unknown = sorted(set(found) - set(numbers))
    if unknown:
        raise ValueError(
            f"`{name}` should be numbers, or among {list(numbers)[:10]}. Received {len(unknown)} "
            f"others: {unknown[:5]}."
        )
    return np.array([numbers[x] for x in found]).reshape(array.shape)

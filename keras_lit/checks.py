"""Checks that raise: every message says what was expected, what came and what to do."""

import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any

import tensorflow as tf

# What others call the columns of pairs and of labelled images; also a part of a name.
_CALLED = {
    "image": ("image", "img", "picture", "photo", "pixels", "jpg", "png", "file", "path"),
    "text": ("text", "caption", "txt", "title", "description", "sentence", "comment", "alt"),
    "label": ("label", "class", "target", "category", "species"),
}


def check_one_of(value: Any, choices: Collection[Any], name: str) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` should be one of {listed}. Received: {value!r}.")


def check_positive(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a finite number above zero."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < math.inf:
        raise ValueError(f"`{name}` should be a positive number. Received: {value!r}.")


def check_positives(values: Any, name: str) -> None:
    """Raises ValueError unless `values` are some numbers above zero."""
    if not _is_list(values) or not len(values):
        raise ValueError(
            f"`{name}` should be a list of positive numbers, such as (0.1, 1.0). Received: "
            f"{values!r}."
        )
    for value in values:
        check_positive(value, name)


def check_counts(values: Any, name: str) -> None:
    """Raises ValueError unless `values` are whole numbers above zero."""
    if not _is_list(values):
        raise ValueError(
            f"`{name}` should be a list of positive whole numbers, such as (1, 5). Received: "
            f"{values!r}."
        )
    for value in values:
        check_count(value, name)


def _is_list(values: Any) -> bool:
    return isinstance(values, Collection) and not isinstance(values, str)


def check_count(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < 1:
        raise ValueError(f"`{name}` should be a positive whole number. Received: {value!r}.")


def is_raw(value: Any) -> bool:
    """Whether it is strings, or in Python's own types: no input of a layer."""
    dtype = getattr(value, "dtype", None)
    return dtype is None or tf.as_dtype(dtype) == tf.string


def kind(value: Any) -> str:
    """Its dtype or else its type, for messages."""
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else tf.as_dtype(dtype).name


class Settled:
    """An attribute that is given once, as other parts are made to fit it.

    Setting it to something else raises ValueError.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, instance: Any, value: Any) -> None:
        known = vars(instance).setdefault(self._name, value)
        if known != value:
            made = type(instance).__name__
            raise ValueError(
                f"`{self._name}` is settled when a `{made}` is made. Received: {value!r} in place "
                f"of {known!r}. Make a new one: `{made}(..., {self._name}={value!r})`."
            )


def check_rank(tensor: tf.Tensor, rank: int, name: str, meaning: str) -> None:
    """Raises ValueError unless `tensor` has the static rank `rank`, whose `meaning` is shown."""
    if tensor.shape.rank != rank:
        raise ValueError(
            f"`{name}` should have rank {rank}, {meaning}. Received shape: {tensor.shape}."
        )


def check_has_rank(tensor: tf.Tensor, name: str, shape: str) -> None:
    """Raises ValueError where a tensor or spec has lost its static rank."""
    if tensor.shape.rank is None:
        raise ValueError(
            f"`{name}` has no known rank, as after `tf.numpy_function` and `tf.py_function`. Tell "
            f"TensorFlow there, for example by `tf.ensure_shape({name}, {shape})`."
        )


def check_same_shape(
    first: tf.Tensor, second: tf.Tensor, first_name: str, second_name: str
) -> None:
    """Raises ValueError unless the static shapes of two tensors agree."""
    if not first.shape.is_compatible_with(second.shape):
        raise ValueError(
            f"`{first_name}` and `{second_name}` should have the same shape, one row a pair. "
            f"Received: {first.shape} and {second.shape}."
        )


def renaming(columns: Iterable[str], wanted: Iterable[str]) -> str:
    """The line that renames the columns of a dataset, for messages.

    >>> renaming(["caption", "image"], ["image", "text"])
    'Rename its columns: `dataset.map(lambda x: {"image": x["image"], "text": x["caption"]})`.'
    """
    columns = list(columns)
    found = {}
    for name in wanted:
        called = [x for part in _CALLED.get(name, ()) for x in columns if part in x.lower()]
        found[name] = name if name in columns else next(iter(called), "...")
    items = ", ".join(f'"{name}": x["{column}"]' for name, column in found.items())
    return f"Rename its columns: `dataset.map(lambda x: {{{items}}})`."

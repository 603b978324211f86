"""The text of `print` and `summary` for towers and models: Keras' own lacks shapes and tuning."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Row(NamedTuple):
    """A part of a model, its output shape, and its variables."""

    name: str
    shape: Any
    variables: list[keras.Variable]


def line(layer: keras.Layer, **facts: Any) -> str:
    """Like Keras' own `<Dense name=dense, built=True>`, with other facts."""
    said = ", ".join(f"{name}={value}" for name, value in {"name": layer.name, **facts}.items())
    return f"<{type(layer).__name__} {said}>"


def table(rows: Iterable[Row], trained: Iterable[keras.Variable]) -> str:
    """Lines of name, output shape, number of parameters and how many of these train."""
    trains = {id(variable) for variable in trained}
    every: dict[int, keras.Variable] = {}
    cells = [("part", "output shape", "parameters", "of which train")]
    for row in rows:
        own = {id(x): x for x in row.variables}
        every |= own
        counts = count(own.values()), count(x for key, x in own.items() if key in trains)
        cells.append((row.name, str(row.shape), f"{counts[0]:,}", f"{counts[1]:,}"))
    total = count(every.values()), count(x for key, x in every.items() if key in trains)
    cells.append(("total", "", f"{total[0]:,}", f"{total[1]:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in cells
    ]
    rule = "-" * len(lines[0])
    size = sum(math.prod(x.shape) * tf.as_dtype(x.dtype).size for x in every.values())
    return "\n".join(
        [lines[0], rule, *lines[1:-1], rule, lines[-1], f"in memory: {size / 1e6:,.1f} MB"]
    )


def count(variables: Iterable[keras.Variable]) -> int:
    """How many numbers they hold."""
    return sum(math.prod(variable.shape) for variable in variables)


def show(text: str, print_fn: Callable[[str], Any] | None) -> None:
    """Prints, or hands the text on as Keras' `summary` does."""
    (print if print_fn is None else print_fn)(text)

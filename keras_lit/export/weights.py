"""The variables of an artifact: the towers' own, or 16-bit copies that are cast when read."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.towers import Tower

DTYPES = ("float32", "float16", "bfloat16")


class ArtifactWeights:
    """The variables that an artifact has beside (or in place of) the towers' weights.

    Args:
        towers: the towers that the artifact needs.
        dtype: "float32": the towers' own weights. "float16" or "bfloat16": copies in 16 bits; the
            graph casts them to the towers' dtype when it reads them. Vectors (biases, scales,
            statistics) are few and sensitive, and stay as they are.

    Raises:
        ValueError: unknown dtype, or a weight that float16 cannot hold.
    """

    def __init__(self, towers: list[Tower], dtype: str):
        checks.check_one_of(dtype, DTYPES, "weights")
        self._kept: list[tf.Variable] = []  # Graphs hold their variables weakly.
        self._copies: dict[int, tf.Variable] = {}
        for variable in (v for tower in towers for v in tower.weights if dtype != "float32"):
            as_it_is = len(variable.shape) < 2 or variable.dtype != "float32"
            values = variable.numpy()
            if dtype == "float16" and not as_it_is:
                _check_range(values, variable.path)
            kept = variable.dtype if as_it_is else dtype
            self._copies[id(variable)] = self.keep(variable.name, tf.cast(values, kept))

    def keep(self, name: str, values: Any) -> tf.Variable:
        """A new variable that is saved with the artifact."""
        self._kept.append(tf.Variable(values, trainable=False, name=name))
        return self._kept[-1]

    def of(self, tower: Tower) -> contextlib.AbstractContextManager:
        """Inside, the tower computes with the artifact's weights."""
        if not self._copies:
            return contextlib.nullcontext()
        mapping = [(v, tf.cast(self._copies[id(v)], v.dtype)) for v in tower.weights]
        return keras.StatelessScope(state_mapping=mapping)


def _check_range(values: np.ndarray, path: str) -> None:
    largest = np.abs(values).max()
    if largest > np.finfo("float16").max:
        raise ValueError(
            f"{path} reaches {largest:.3g}, more than float16 holds (65504). Use "
            '`weights="bfloat16"`.'
        )

"""The variables of an artifact: the towers' own, or 16-bit copies that are cast when read."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.towers import Tower

DTYPES = ("float32", "float16", "bfloat16")


class ArtifactWeights(keras.layers.Layer):
    """What an artifact keeps in `variables/` beside (or in place of) the towers' weights.

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
        super().__init__(dtype="float32", autocast=False, trainable=False)
        self.built = True
        self._copies: dict[int, Any] = {}
        for variable in (v for tower in towers for v in tower.weights if dtype != "float32"):
            small = len(variable.shape) < 2 or variable.dtype != "float32"
            values = variable.numpy()
            if dtype == "float16" and not small and np.abs(values).max() > np.finfo(dtype).max:
                raise ValueError(
                    f"{variable.path} reaches {np.abs(values).max():.3g}, more than float16 holds "
                    '(65504). Use `weights="bfloat16"`.'
                )
            name = f"{len(self._copies)}_{variable.name}"
            copy = self.keep(name, values, variable.dtype if small else dtype)
            self._copies[id(variable)] = copy

    def keep(self, name: str, values: Any, dtype: str = "float32") -> keras.Variable:
        """A new variable that is saved with the artifact."""
        values = tf.convert_to_tensor(values)
        return self.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype: tf.cast(values, dtype),
            dtype=dtype,
            name=name,
        )

    def of(self, tower: Tower) -> contextlib.AbstractContextManager:
        """Inside, the tower computes with the artifact's weights."""
        if not self._copies:
            return contextlib.nullcontext()
        mapping = [(v, tf.cast(self._copies[id(v)].value, v.dtype)) for v in tower.weights]
        return keras.StatelessScope(state_mapping=mapping)

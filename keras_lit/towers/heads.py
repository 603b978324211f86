"""The layer between a tower's features and its embeddings."""

from typing import Any, Literal, TypeAlias

import keras

from keras_lit import checks
from keras_lit.backbones import MLPHead

Head: TypeAlias = Literal["linear", "mlp"] | keras.layers.Layer
HEADS = ("linear", "mlp")


def made(
    head: Head, width: int | None, feature_shape: tuple[int, ...], dtype: Any
) -> tuple[Any, str, int]:
    """A head that is built, its kind ("linear", "mlp" or "layer") and its width."""
    layer: Any = head
    if isinstance(head, str):
        checks.check_one_of(head, HEADS, "head")
        checks.check_count(width, "projection_dim")
        options: dict[str, Any] = {"dtype": dtype, "name": "head"}
        if head == "linear":
            layer = keras.layers.Dense(width, kernel_initializer="lecun_normal", **options)
        else:
            layer = MLPHead(int(width or 0), **options)
    shape = layer(keras.KerasTensor((None, *feature_shape))).shape
    if len(shape) != 2 or shape[1] is None or width not in (None, shape[1]):
        raise ValueError(
            f"`head` should give [batch, {width or 'projection_dim'}]. Received a "
            f"{type(head).__name__} that gives {shape} of features [batch, "
            f"{', '.join(map(str, feature_shape))}]."
        )
    return layer, head if isinstance(head, str) else "layer", shape[1]

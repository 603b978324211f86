"""From a backbone's output to one vector for each row."""

from typing import Any

import keras

from keras_lit.backbones import AttentionPooling


def pool(states: Any, pooling: str, mask: Any, inputs: Any, attention: Any) -> Any:
    """Pools token sequences and feature maps to [batch, dim].

    Args:
        states: [batch, tokens, dim], [batch, height, width, dim] or [batch, dim].
        pooling: as for the towers, settled.
        mask: [batch, tokens] bool, False at padding; None where every position counts.
        inputs: [batch, tokens] token ids, for "end".
        attention: the layer for "map".
    """
    if pooling == "none":
        return states
    if len(states.shape) == 4:
        if pooling in ("first", "last", "end"):
            raise ValueError(
                f"`pooling`={pooling!r} is for token sequences. Received a feature map "
                f"of shape {states.shape}; choose 'mean', 'max' or 'map'."
            )
        states = flat(states)
    if pooling == "map":
        return attention(states, mask=mask)
    if pooling == "first":
        return states[:, 0]
    if pooling == "end":
        return _at(states, keras.ops.argmax(inputs, axis=1))
    if pooling == "last":
        return states[:, -1] if mask is None else _last_real(states, mask)
    if pooling == "mean":
        return _mean(states, mask)
    if mask is None:
        return keras.ops.max(states, axis=1)
    states = keras.ops.where(mask[..., None], states, float("-inf"))
    given = keras.ops.any(mask, axis=1, keepdims=True)  # Of padding alone it is 0, as the mean.
    return keras.ops.where(given, keras.ops.max(states, axis=1), 0.0)


def flat(states: Any) -> Any:
    """[batch, height, width, dim] -> [batch, height * width, dim]; token sequences as they are."""
    if len(states.shape) == 3:
        return states
    _, height, width, dim = states.shape
    tokens = -1 if None in (height, width) else height * width
    return keras.ops.reshape(states, (-1, tokens, dim))


def attention_pooling(backbone: keras.Model, width: int, dtype: Any) -> AttentionPooling:
    """Reuses the backbone's head count and MLP width if it exposes them."""
    options = {"dtype": dtype, "name": "attention_pooling"}
    heads = getattr(backbone, "num_heads", None)
    if not isinstance(heads, int) or width % heads:
        return AttentionPooling(max(1, width // 64), **options)
    inner = getattr(backbone, "intermediate_dim", None)
    inner = inner if isinstance(inner, int) else None
    return AttentionPooling(heads, inner, **options)


def _mean(states: Any, mask: Any) -> keras.KerasTensor:
    if mask is None:
        return keras.ops.mean(states, axis=1)
    weights = keras.ops.cast(mask, states.dtype)[..., None]
    total = keras.ops.maximum(keras.ops.sum(weights, axis=1), 1)
    return keras.ops.sum(states * weights, axis=1) / total


def _last_real(states: Any, mask: Any) -> keras.KerasTensor:
    positions = keras.ops.cumsum(keras.ops.ones_like(mask, dtype="int32"), axis=1) - 1
    return _at(states, keras.ops.max(keras.ops.where(mask, positions, 0), axis=1))


def _at(states: Any, positions: Any) -> keras.KerasTensor:
    return keras.ops.take_along_axis(states, positions[:, None, None], axis=1)[:, 0]

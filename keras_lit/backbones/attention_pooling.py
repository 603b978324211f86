"""Multi-head attention pooling (MAP), as big_vision's `MAPHead`."""

from typing import Any

import keras

from keras_lit.backbones.text_transformer import gelu_tanh, layer_norm


@keras.saving.register_keras_serializable("keras_lit")
class AttentionPooling(keras.layers.Layer):
    """[batch, length, width] -> [batch, width]: one learned query attends to all tokens.

    Args:
        num_heads: int, the attention heads; divides the width.
        intermediate_dim: int, the width inside the MLP; None for four times the tokens'.

    Call arguments:
        tokens: [batch, length, width] float tensor.
        mask: optional [batch, length] bool tensor, False where the query may not look.

    Example:

    >>> keras_lit.backbones.AttentionPooling(num_heads=2)(np.ones([3, 5, 8], "float32")).shape
    TensorShape([3, 8])

    Reference: Zhai et al. 2022 (arXiv 2106.04560), section 2.2.
    """

    def __init__(self, num_heads: int, intermediate_dim: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width = input_shape[-1]
        if width is None or width % self.num_heads:
            raise ValueError(
                f"The width should be divisible by `num_heads`={self.num_heads} for attention "
                f"pooling. Received tokens of shape {tuple(input_shape)}."
            )
        shape = (None, 1, width)
        self.probe = self.add_weight(
            shape=(1, 1, width), initializer="glorot_uniform", name="probe"
        )
        self.attention = keras.layers.MultiHeadAttention(
            self.num_heads, width // self.num_heads, dtype=self.dtype_policy, name="attention"
        )
        self.attention.build(shape, tuple(input_shape))
        self.layer_norm = layer_norm(self.dtype_policy, "layer_norm")
        self.layer_norm.build(shape)
        inner = self.intermediate_dim or 4 * width
        self.dense_0 = keras.layers.Dense(inner, gelu_tanh, dtype=self.dtype_policy, name="dense_0")
        self.dense_0.build(shape)
        self.dense_1 = keras.layers.Dense(width, dtype=self.dtype_policy, name="dense_1")
        self.dense_1.build((None, 1, inner))

    def call(
        self, tokens: keras.KerasTensor, mask: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        batch = keras.ops.shape(tokens)[0]
        query = keras.ops.broadcast_to(self.probe, (batch, *self.probe.shape[1:]))
        attention_mask = None if mask is None else mask[:, None, :]
        pooled = self.attention(query, tokens, attention_mask=attention_mask)
        pooled = pooled + self.dense_1(self.dense_0(self.layer_norm(pooled)))
        return pooled[:, 0]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        names = ("num_heads", "intermediate_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

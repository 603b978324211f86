"""The text transformer of the paper, as big_vision defines it."""

import math
from collections.abc import Callable
from typing import Any, Literal

import keras
import keras_nlp
import tensorflow as tf

from keras_lit import checks, distribution, internals

# The ViT sizes: width, depth, MLP width, heads (big_vision's `vit.decode_variant`).
SIZES = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
}
LAYER_NORM_EPSILON = 1e-6
# GELU is x / 2 * (1 + tanh(SLOPE * x + CUBIC * x ** 3)), nearly.
_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _SLOPE
_COMPILED_WIDTH = 1024  # XLA compiles 0.05 s for a shape, a step saves 2 to 5 ns an element.
Position = Literal["first", "last"]


class Backbone(keras_nlp.models.Backbone):
    """keras-nlp's, with the constructor's arguments as its config."""

    def _keep(self, **arguments: Any) -> None:
        """Makes the constructor's arguments attributes."""
        self._arguments = tuple(arguments)
        for name, value in arguments.items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self._arguments}}


def check_heads(hidden_dim: int, num_heads: int) -> None:
    """Raises ValueError unless the attention heads share the width evenly."""
    if hidden_dim % num_heads:
        raise ValueError(
            f"`hidden_dim` should be divisible by `num_heads`. Received: {hidden_dim} and "
            f"{num_heads}."
        )


@keras.saving.register_keras_serializable("keras_lit")
def gelu_tanh(x: keras.KerasTensor) -> keras.KerasTensor:
    """GELU by its tanh approximation, as flax computes it by default."""
    # Inferring, TensorFlow joins the operations of Keras' with the product before. Training, they
    # and their gradient's are twenty passes over the widest tensor there is; compiled, two.
    if (
        internals.is_watched(x)
        and (x.shape[-1] or 0) >= _COMPILED_WIDTH
        and distribution.on_cpus()
        and not (tf.executing_eagerly() or internals.has_op_callbacks())
    ):
        return _compiled_gelu(x)
    return keras.ops.gelu(x, approximate=True)


@internals.custom_gradient
def _compiled_gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    return _gelu(x), lambda dy: _gelu_gradient(x, dy)


@tf.function(jit_compile=True, autograph=False)
def _gelu(x: tf.Tensor) -> tf.Tensor:
    wide = _wide(x)
    return tf.cast(0.5 * wide * (1 + tf.tanh(wide * (_SLOPE + _CUBIC * wide**2))), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _gelu_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    wide = _wide(x)
    tanh = tf.tanh(wide * (_SLOPE + _CUBIC * wide**2))
    slope = 1 + tanh + wide * (1 - tanh**2) * (_SLOPE + 3 * _CUBIC * wide**2)
    return tf.cast(0.5 * slope * _wide(dy), x.dtype)


def _wide(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, "float32") if x.dtype.size == 2 else x


def layer_norm(dtype: Any, name: str) -> keras.layers.LayerNormalization:
    """The one of the ViT papers."""
    return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, dtype=dtype, name=name)


@keras.saving.register_keras_serializable("keras_lit")
class TransformerBlock(keras_nlp.layers.TransformerEncoder):
    """keras-nlp's encoder block without masks, pre-LN; the same weights and results for less work.

    Keras multiplies [batch, length, width] with a projection of the attention as one matrix a row
    of the batch. The gradient then makes a [width, width] matrix a row and adds them up, in
    bfloat16 a fifth of a training step. Here all rows are one matrix, which TensorFlow also
    multiplies, adds the bias to and puts through the GELU in one operation, where it only infers.

    With `only` "first" or "last" it computes the output for this position alone, which attends to
    all, and returns [batch, 1, width].
    """

    def __init__(self, *args: Any, only: Position | None = None, **kwargs: Any):
        super().__init__(*args, normalize_first=True, **kwargs)
        self.only = only

    def call(self, inputs: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        parts = internals.block_parts(self)
        attention = parts.attention
        x = parts.attention_norm(inputs)
        query = _project(attention.query_dense, self._answering(x))
        key, value = (_project(dense, x) for dense in (attention.key_dense, attention.value_dense))
        x = internals.attend(attention, query, key, value, training)
        x = _rows(_project(attention.output_dense, x))
        answering = self._answering(inputs)
        residual = _rows(answering)
        residual = residual + parts.attention_dropout(x, training=training)
        x = parts.mlp_norm(residual)
        x = parts.mlp_outer(parts.mlp_inner(x))
        x = residual + parts.mlp_dropout(x, training=training)
        return keras.ops.reshape(x, keras.ops.shape(answering))

    def _answering(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """The positions that are computed; a slice of all would have a gradient, too."""
        if self.only is None:
            return x
        return x[:, :1] if self.only == "first" else x[:, -1:]

    def compute_output_shape(self, inputs_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return inputs_shape if self.only is None else (inputs_shape[0], 1, inputs_shape[2])

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "only": self.only}
        del config["normalize_first"]
        return config


def _rows(x: keras.KerasTensor) -> keras.KerasTensor:
    """[batch, length, width] -> [batch * length, width]."""
    return keras.ops.reshape(x, (-1, x.shape[-1]))


def _project(dense: keras.layers.EinsumDense, x: keras.KerasTensor) -> keras.KerasTensor:
    """A projection of the attention, [batch, length, ...] -> [batch, length, ...]."""
    if dense.quantization_mode is not None:
        return dense(x)
    length, inner = keras.ops.shape(x)[1], math.prod(x.shape[2:])
    kernel = keras.ops.reshape(dense.kernel, (inner, -1))
    y = keras.ops.matmul(keras.ops.reshape(x, (-1, inner)), kernel)
    y = keras.ops.add(y, keras.ops.reshape(dense.bias, (-1,)))
    return keras.ops.reshape(y, (-1, length, *dense.bias.shape))


def transformer(
    x: keras.KerasTensor,
    num_layers: int,
    intermediate_dim: int,
    num_heads: int,
    dropout: float,
    dtype: Any,
    pooling: Position | None = None,
) -> keras.KerasTensor:
    """Blocks and the final LayerNormalization of the ViT papers.

    [batch, tokens, dim] -> the same, or [batch, dim] where `pooling` is "first" or "last".
    """
    for i in range(num_layers):
        x = TransformerBlock(
            intermediate_dim,
            num_heads,
            dropout=dropout,
            activation=gelu_tanh,
            layer_norm_epsilon=LAYER_NORM_EPSILON,
            kernel_initializer="glorot_uniform",
            bias_initializer="zeros",
            only=pooling if i == num_layers - 1 else None,
            dtype=dtype,
            name=f"transformer_layer_{i}",
        )(x)
    if pooling is not None:
        x = x[:, 0]
    return layer_norm(dtype, "layer_norm")(x)


@keras.saving.register_keras_serializable("keras_lit")
class TextTransformer(Backbone):
    """Token ids [batch, length] int32 -> hidden states [batch, length, hidden_dim] (or pooled).

    Pre-LN and bidirectional, with learned positions, no padding mask and a final LayerNorm: the
    paper's ViT-style text encoder, which reads out the last token.

    Args:
        vocabulary_size: int, the number of token ids.
        max_sequence_length: int, the longest text in tokens.
        hidden_dim: int, the width.
        num_layers: int, the depth.
        intermediate_dim: int, the width inside the MLPs.
        num_heads: int, the attention heads; divides `hidden_dim`.
        dropout: float, the dropout after attention and MLP (0 in the paper).
        pooling: "first" or "last": return that token's state alone, [batch, hidden_dim], for which
            the last block need not compute the others. None: all tokens' states.

    Raises:
        ValueError: `hidden_dim` is not divisible by `num_heads`; unknown pooling.

    Example:

    >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 32, 2, 64, 4)
    >>> backbone(np.ones([3, 16], "int32")).shape
    TensorShape([3, 16, 32])

    Reference: the LiT paper, section 4.2; Zhai et al. 2022 (arXiv 2106.04560) for the sizes.
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_sequence_length: int,
        hidden_dim: int,
        num_layers: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        pooling: Position | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        check_heads(hidden_dim, num_heads)
        checks.check_positive(vocabulary_size, "vocabulary_size")
        checks.check_one_of(pooling, (None, "first", "last"), "pooling")
        token_ids = keras.Input([None], dtype="int32", name="token_ids")
        embedding = keras_nlp.layers.TokenAndPositionEmbedding(
            vocabulary_size,
            max_sequence_length,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
            dtype=dtype,
            name="token_and_position_embedding",
        )
        x = embedding(token_ids)
        x = transformer(x, num_layers, intermediate_dim, num_heads, dropout, dtype, pooling)
        super().__init__(inputs=token_ids, outputs=x, dtype=dtype, **kwargs)
        self.token_embedding = embedding.token_embedding
        self._keep(
            vocabulary_size=vocabulary_size,
            max_sequence_length=max_sequence_length,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            dropout=dropout,
            pooling=pooling,
        )

    @classmethod
    def from_size(
        cls, size: str, vocabulary_size: int, max_sequence_length: int = 16, **kwargs: Any
    ) -> "TextTransformer":
        """Builds one of the paper's sizes.

        Args:
            size: "Ti", "S", "B", "L", "H" or "g".
            vocabulary_size: int, the number of token ids.
            max_sequence_length: int, the number of tokens.
            **kwargs: passed on to `TextTransformer`.

        Returns:
            A `TextTransformer`.

        Raises:
            ValueError: an unknown size.

        Example:

        >>> backbone = keras_lit.backbones.TextTransformer.from_size("Ti", vocabulary_size=100)
        >>> backbone(np.zeros([2, 16], "int32")).shape
        TensorShape([2, 16, 192])
        """
        checks.check_one_of(size, SIZES, "size")
        return cls(vocabulary_size, max_sequence_length, *SIZES[size], **kwargs)

"""The text transformer of the paper, as big_vision defines it."""

from typing import Any

import keras
import keras_nlp

from keras_lit import checks

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


@keras.saving.register_keras_serializable("keras_lit")
def gelu_tanh(x: keras.KerasTensor) -> keras.KerasTensor:
    """GELU by its tanh approximation, as flax computes it by default."""
    return keras.ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("keras_lit")
class TextTransformer(keras_nlp.models.Backbone):
    """Token ids [batch, length] int32 -> hidden states [batch, length, hidden_dim].

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

    Raises:
        ValueError: `hidden_dim` is not divisible by `num_heads`.

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
        dtype: Any = None,
        **kwargs: Any,
    ):
        if hidden_dim % num_heads:
            raise ValueError(
                f"`hidden_dim` should be divisible by `num_heads`. Received: {hidden_dim} and "
                f"{num_heads}."
            )
        checks.check_positive(vocabulary_size, "vocabulary_size")
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
        for i in range(num_layers):
            x = keras_nlp.layers.TransformerEncoder(
                intermediate_dim,
                num_heads,
                dropout=dropout,
                activation=gelu_tanh,
                layer_norm_epsilon=LAYER_NORM_EPSILON,
                kernel_initializer="glorot_uniform",
                bias_initializer="zeros",
                normalize_first=True,
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )(x)
        x = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=dtype, name="layer_norm"
        )(x)
        super().__init__(inputs=token_ids, outputs=x, dtype=dtype, **kwargs)
        self.token_embedding = embedding.token_embedding
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout

    @classmethod
    def from_size(
        cls, size: str, vocabulary_size: int, max_sequence_length: int = 16, **kwargs: Any
    ) -> "TextTransformer":
        """Builds one of the paper's sizes: "Ti", "S", "B", "L", "H" or "g"."""
        checks.check_one_of(size, SIZES, "size")
        width, depth, mlp, heads = SIZES[size]
        return cls(vocabulary_size, max_sequence_length, width, depth, mlp, heads, **kwargs)

    def get_config(self) -> dict[str, Any]:
        names = (
            "vocabulary_size max_sequence_length hidden_dim num_layers intermediate_dim num_heads "
            "dropout"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

"""BERT's encoder as flaxformer computes it, which the released LiT models use; T5's encoder."""

from typing import Any

import keras
import keras_nlp

from keras_lit.backbones.text_transformer import Backbone, check_heads, gelu_tanh

# Depth, width, MLP width and heads.
BERT_SIZES = {"base": (12, 768, 3072, 12), "large": (24, 1024, 4096, 16)}
LAYER_NORM_EPSILON = 1e-12


@keras.saving.register_keras_serializable("keras_lit")
class BertEncoder(Backbone):
    """Token ids and padding mask [batch, length] -> hidden states [batch, length, hidden_dim].

    The same as keras-nlp's `BertBackbone` without the pooler, which LiT's towers lack: they read
    out the first token, [CLS], as it is. All tokens belong to segment 0.

    Args:
        vocabulary_size: int, the number of token ids.
        num_layers: int, the depth.
        num_heads: int, the attention heads; divides `hidden_dim`.
        hidden_dim: int, the width.
        intermediate_dim: int, the width inside the MLPs.
        dropout: float, the dropout of embeddings, attention and MLP.
        max_sequence_length: int, the longest text in tokens.
        num_segments: int, how many segment embeddings there are.

    Raises:
        ValueError: `hidden_dim` is not divisible by `num_heads`.

    Example:

    >>> backbone = keras_lit.backbones.BertEncoder(100, 2, 4, 32, 64, max_sequence_length=16)
    >>> token_ids = np.array([[2, 7, 9, 0]])
    >>> backbone({"token_ids": token_ids, "padding_mask": token_ids != 0}).shape
    TensorShape([1, 4, 32])

    Reference: Devlin et al. 2019 (arXiv 1810.04805); the LiT paper, section 4.2.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        max_sequence_length: int = 512,
        num_segments: int = 2,
        dtype: Any = None,
        **kwargs: Any,
    ):
        check_heads(hidden_dim, num_heads)
        token_ids = keras.Input([None], dtype="int32", name="token_ids")
        padding_mask = keras.Input([None], dtype="int32", name="padding_mask")
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        embedding = keras_nlp.layers.TokenAndPositionEmbedding(
            vocabulary_size,
            max_sequence_length,
            hidden_dim,
            embeddings_initializer=initializer,
            dtype=dtype,
            name="token_and_position_embedding",
        )
        segments = keras.layers.Embedding(
            num_segments, hidden_dim, initializer, dtype=dtype, name="segment_embedding"
        )
        x = embedding(token_ids) + segments(keras.ops.zeros_like(token_ids))
        x = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=dtype, name="embeddings_layer_norm"
        )(x)
        x = keras.layers.Dropout(dropout, dtype=dtype, name="embeddings_dropout")(x)
        for i in range(num_layers):
            x = keras_nlp.layers.TransformerEncoder(
                intermediate_dim,
                num_heads,
                dropout=dropout,
                activation=gelu_tanh,
                layer_norm_epsilon=LAYER_NORM_EPSILON,
                kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )(x, padding_mask=padding_mask)
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        super().__init__(inputs=inputs, outputs=x, dtype=dtype, **kwargs)
        self.token_embedding = embedding.token_embedding
        self._keep(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            num_segments=num_segments,
        )


def t5_encoder(backbone: keras_nlp.models.T5Backbone) -> keras.Model:
    """T5's encoder without its decoder, for a `TextTower`.

    Args:
        backbone: keras-nlp's T5 (or mT5), whose layers the encoder shares.

    Returns:
        A model from {"token_ids", "padding_mask"}, both [batch, length] int32, to hidden states
        [batch, length, hidden_dim]. The paper does not say how it pools them: pass a `pooling`,
        for example "mean".

    Example:

    >>> t5 = keras_nlp.models.T5Backbone(50, 1, 2, 8, 16)
    >>> tower = keras_lit.TextTower(keras_lit.backbones.t5_encoder(t5), pooling="mean")
    >>> tower(np.ones([3, 16], "int32")).shape
    TensorShape([3, 8])

    Reference: Raffel et al. 2020 (arXiv 1910.10683); the LiT paper, section 5.7 and Appendix J.
    """
    names = ("token_ids", "padding_mask")
    encoder_inputs = {f"encoder_{name}": backbone.input[f"encoder_{name}"] for name in names}
    encoder_output = backbone.output["encoder_sequence_output"]
    encoder = keras.Model(encoder_inputs, encoder_output, name="t5_encoder")
    inputs = {name: keras.Input([None], dtype="int32", name=name) for name in names}
    outputs = encoder({f"encoder_{name}": tensor for name, tensor in inputs.items()})
    return keras.Model(inputs, outputs, name="t5")

"""The multilingual universal sentence encoder: convolutions over pieces, then a deep average."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lit.backbones.text_transformer import Backbone

LAYER_NORM_EPSILON = 1e-12


@keras.saving.register_keras_serializable("keras_lit")
class UniversalSentenceEncoder(Backbone):
    """Token ids and padding mask [batch, length] -> embeddings [batch, output_dim] of unit length.

    Each piece and its neighbours go through two convolutions a kernel size; their sum over the text
    is divided by the root of its length, and a small network with shortcuts makes the embedding.
    No piece sees further than two convolutions reach, so the cost grows with a text's length.

    Args:
        vocabulary_size: int, the number of token ids.
        hidden_dim: int, the width of the table of pieces.
        convolution_dim: int, the width of the convolutions of one kernel size.
        intermediate_dim: int, the width inside the network.
        output_dim: int, the width of the embedding.
        kernel_sizes: ints, how many pieces a convolution sees.
        dropout: float, the dropout of the network's input and of its inner layer.
        lock_table: bool, whether the table of pieces is a `QuantizedEmbedding`, a quarter of the
            memory, which never trains and is zero until it is given weights. By default it is a
            `keras.layers.Embedding`.

    Example:

    >>> backbone = keras_lit.backbones.UniversalSentenceEncoder(100, 16, 8, 12, 16)
    >>> token_ids = np.array([[1, 7, 9, 2, 99]])
    >>> backbone({"token_ids": token_ids, "padding_mask": token_ids != 99}).shape
    TensorShape([1, 16])

    Reference: Yang et al. 2020 (arXiv 1907.04307); the layers are those of Google's
    universal-sentence-encoder-multilingual v3.
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int = 512,
        convolution_dim: int = 256,
        intermediate_dim: int = 320,
        output_dim: int = 512,
        kernel_sizes: Sequence[int] = (2, 3, 5),
        dropout: float = 0.0,
        lock_table: bool = False,
        dtype: Any = None,
        **kwargs: Any,
    ):
        layers, ops = keras.layers, keras.ops
        token_ids = keras.Input([None], dtype="int32", name="token_ids")
        padding_mask = keras.Input([None], dtype="int32", name="padding_mask")
        table = QuantizedEmbedding if lock_table else layers.Embedding
        embedding = table(vocabulary_size, hidden_dim, dtype=dtype, name="token_embedding")

        def dense(name: str, width: int, x: Any, **options: Any) -> Any:
            return layers.Dense(width, dtype=dtype, name=name, **options)(x)

        def norm(name: str, x: Any) -> Any:
            return layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, dtype=dtype, name=name)(x)

        pieces = embedding(token_ids)
        mask = ops.cast(padding_mask, pieces.dtype)[..., None]
        x = dense("projection", convolution_dim * len(kernel_sizes), pieces)
        x = norm("projection_layer_norm", x)
        seen = [pieces]
        for size, y in zip(kernel_sizes, ops.split(x, len(kernel_sizes), axis=-1), strict=True):
            for i in range(2):
                y = y * mask  # Padding is to neighbours what is beyond the ends: zero.
                convolution = layers.Conv1D(
                    convolution_dim,
                    size,
                    padding="same",
                    activation="relu",
                    dtype=dtype,
                    name=f"convolution_{size}_{i}",
                )
                y = y + convolution(y)
            seen.append(y)
        x = norm("layer_norm", ops.concatenate(seen, axis=-1)) * mask
        length = ops.maximum(ops.sum(mask, axis=1), 1)
        x = dense("pooled_projection", hidden_dim, ops.sum(x, axis=1) / length) * ops.sqrt(length)

        x = layers.Dropout(dropout, dtype=dtype, name="pooled_dropout")(x)
        y = dense("dense_0", intermediate_dim, x, activation="relu", use_bias=False)
        y = dense("dense_1", intermediate_dim, y, use_bias=False)
        y = ops.relu(y + dense("shortcut_1", intermediate_dim, x, use_bias=False))
        y = layers.Dropout(dropout, dtype=dtype, name="inner_dropout")(y)
        x = dense("dense_2", output_dim, y, activation="relu", use_bias=False)
        x = dense("dense_3", output_dim, x, use_bias=False)
        x = ops.tanh(x + dense("shortcut_3", output_dim, y, use_bias=False))
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=layers.UnitNormalization(dtype=dtype, name="unit_length")(x),
            dtype=dtype,
            **kwargs,
        )
        self.token_embedding = embedding
        self._keep(
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            convolution_dim=convolution_dim,
            intermediate_dim=intermediate_dim,
            output_dim=output_dim,
            kernel_sizes=tuple(kernel_sizes),
            dropout=dropout,
            lock_table=lock_table,
        )


@keras.saving.register_keras_serializable("keras_lit")
class QuantizedEmbedding(keras.layers.Layer):
    """A table of embeddings in int8, each row with a scale and an offset. It never trains.

    Row i is `table[i] * scale[i] + offset[i]`, computed in float32 for the rows that are asked for.
    (Keras' own int8 `Embedding` has no offsets, so it cannot hold every table that has.)

    Args:
        input_dim: int, the number of rows.
        output_dim: int, the width.

    Call arguments:
        token_ids: [...] int tensor.

    Returns:
        [..., output_dim] tensor of the layer's compute dtype.

    Example:

    >>> layer = QuantizedEmbedding(3, 2)
    >>> layer.build()
    >>> weights = [[0, 1], [2, 3], [4, 5]], [1, 2, 4], [0, 0, 0.5]
    >>> layer.set_weights([*map(np.array, weights)])
    >>> layer(np.array([2, 1])).numpy()
    array([[16.5, 20.5],
           [ 4. ,  6. ]], dtype=float32)
    """

    def __init__(self, input_dim: int, output_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim

    def build(self, input_shape: Any = None) -> None:
        fixed: dict[str, Any] = {"trainable": False, "autocast": False}
        shape = (self.input_dim, self.output_dim)
        self.table = self.add_weight(shape, "zeros", "int8", name="table", **fixed)
        self.scale = self.add_weight(shape[:1], "ones", "float32", name="scale", **fixed)
        self.offset = self.add_weight(shape[:1], "zeros", "float32", name="offset", **fixed)

    def call(self, token_ids: Any) -> Any:
        rows, scale, offset = (
            keras.ops.take(weight, token_ids, axis=0)
            for weight in (self.table, self.scale, self.offset)
        )
        values = keras.ops.cast(rows, "float32") * scale[..., None] + offset[..., None]
        return keras.ops.cast(values, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        names = ("input_dim", "output_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

"""A head of several layers, in place of the towers' linear one."""

from typing import Any

import keras

from keras_lit import checks


@keras.saving.register_keras_serializable("keras_lit")
class MLPHead(keras.layers.Layer):
    """Pooled features to embeddings: dense layers with batch norm, ReLU and dropout between them.

    For features that were computed once, where only heads train. `head="mlp"` of the towers is this
    one with its defaults; ShareLock's is `MLPHead(dim, 4096, 4)` on the text side, with no head on
    the image side.

    Args:
        dim: int, the width of the embeddings.
        width: int, of the layers between. None: four times that of the features.
        depth: int, the number of dense layers; 1 is a linear head.
        dropout: float in [0, 1).
        batch_norm: bool, whether each layer between has a batch norm, whose statistics in training
            are those of the global batch, on any number of replicas.

    Call arguments:
        features: [batch, feature_dim] float tensor.
        training: bool.

    Returns:
        [batch, dim] float tensor, not normalised.

    Raises:
        ValueError: a width or depth that is not a positive whole number, dropout outside of [0, 1).

    Example:

    >>> head = keras_lit.backbones.MLPHead(16, width=32, depth=3, dropout=0.1)
    >>> tower = keras_lit.TextTower.from_features(384, head=head)
    >>> tower.project(np.ones([2, 384], "float32")).shape
    TensorShape([2, 16])

    Reference: Ruthardt et al., "Better Language Models Exhibit Higher Visual Alignment", TMLR 2026
    (arXiv 2410.07173).
    """

    def __init__(
        self,
        dim: int,
        width: int | None = None,
        depth: int = 2,
        dropout: float = 0.2,
        batch_norm: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        widths = {"dim": dim, "depth": depth, **({} if width is None else {"width": width})}
        for name, value in widths.items():
            checks.check_count(value, name)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` should be in [0, 1). Received: {dropout}.")
        self.dim, self.width, self.depth = dim, width, depth
        self.dropout, self.batch_norm = dropout, batch_norm

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width = self.width or 4 * int(input_shape[-1] or 0)
        dtype = self.dtype_policy
        parts: list[keras.layers.Layer] = []
        for _ in range(self.depth - 1):
            parts.append(keras.layers.Dense(width, kernel_initializer="he_normal", dtype=dtype))
            if self.batch_norm:
                parts.append(keras.layers.BatchNormalization(synchronized=True, dtype=dtype))
            parts.append(keras.layers.ReLU(dtype=dtype))
            if self.dropout:
                parts.append(keras.layers.Dropout(self.dropout, dtype=dtype))
        parts.append(keras.layers.Dense(self.dim, kernel_initializer="lecun_normal", dtype=dtype))
        self.parts = parts
        shape = tuple(input_shape)
        for part in parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, features: Any, training: bool = False) -> keras.KerasTensor:
        for part in self.parts:
            features = part(features, training=training)
        return features

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        names = ("dim", "width", "depth", "dropout", "batch_norm")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

"""A head in closed form, and beside it an MLP that learns what no linear head can."""

from typing import Any

import keras

from keras_lit import checks


@keras.saving.register_keras_serializable("keras_lit")
class ResidualHead(keras.layers.Layer):
    """A linear head plus an MLP that adds nothing at first: for `LiT.align`, then `fit`.

    Layer norm, a dense layer with GELU, dropout, and a dense layer that starts at zero. `align`
    sets the linear part, and training goes on from there. With locked towers a linear head is soon
    as good as it gets; this one learns more.

    In training the features get Gaussian noise, whose variance is the penalty that `align` chose:
    under a squared loss the two are the same. Without `align` there is none.

    Args:
        dim: int, the width of the embeddings.
        width: int, of the MLP's hidden layer.
        dropout: float in [0, 1).
        noise: float, multiplies the variance of the noise; 0 for none.

    Call arguments:
        features: [batch, feature_dim] float tensor.
        training: bool.

    Returns:
        [batch, dim] float tensor, not normalised.

    Raises:
        ValueError: a width that is not a positive whole number, dropout outside of [0, 1), negative
            noise.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> image_features = rng.normal(size=[60, 8]).astype("float32")
    >>> pairs = {"image_features": image_features, "text_features": image_features[:, :4] ** 3}
    >>> heads = [keras_lit.backbones.ResidualHead(4, width=32) for _ in range(2)]
    >>> model = keras_lit.LiT(
    ...     keras_lit.ImageTower.from_features(8, head=heads[0]),
    ...     keras_lit.TextTower.from_features(4, head=heads[1]), tuning="LL")
    >>> found = model.align(pairs, verbose=0)
    >>> model.compile(keras.optimizers.AdamW(1e-3))
    >>> history = model.fit(pairs, batch_size=60, verbose=0)

    Reference: Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural
    Computation 1995.
    """

    def __init__(
        self,
        dim: int,
        width: int = 1024,
        dropout: float = 0.3,
        noise: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        checks.check_count(dim, "dim")
        checks.check_count(width, "width")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` should be in [0, 1). Received: {dropout}.")
        if noise < 0:
            raise ValueError(f"`noise` should not be negative. Received: {noise}.")
        self.dim, self.width, self.dropout, self.noise = dim, width, dropout, noise
        self._seeds = keras.random.SeedGenerator()
        dtype = self.dtype_policy
        self.linear = keras.layers.Dense(dim, kernel_initializer="lecun_normal", dtype=dtype)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype)
        self.inner = keras.layers.Dense(width, "gelu", dtype=dtype)
        self.drop = keras.layers.Dropout(dropout, dtype=dtype)
        self.outer = keras.layers.Dense(dim, kernel_initializer="zeros", dtype=dtype)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for layer in (self.linear, self.norm, self.inner):
            layer.build(input_shape)
        self.outer.build((*input_shape[:-1], self.width))
        self.variance = self.add_weight(
            name="noise_variance", initializer="zeros", trainable=False, autocast=False
        )

    def call(self, features: Any, training: bool = False) -> keras.KerasTensor:
        if training and self.noise:
            deviation = keras.ops.sqrt(self.noise * self.variance)
            shape, dtype = keras.ops.shape(features), self.variance.dtype
            noise = deviation * keras.random.normal(shape, dtype=dtype, seed=self._seeds)
            features += keras.ops.cast(noise, features.dtype)
        hidden = self.drop(self.inner(self.norm(features)), training=training)
        return self.linear(features) + self.outer(hidden)

    def start(self, kernel: Any, bias: Any, variance: float = 0.0) -> None:
        """Makes it a linear head, until it is trained.

        Args:
            kernel: [feature_dim, dim] float array.
            bias: [dim] float array.
            variance: float, of the noise before it is multiplied by `noise`.

        Example:

        >>> head = keras_lit.backbones.ResidualHead(2)
        >>> head.build((None, 3))
        >>> head.start(np.ones([3, 2]), np.zeros([2]))
        >>> np.asarray(head(np.ones([1, 3], "float32"))).tolist()
        [[3.0, 3.0]]
        """
        self.linear.set_weights([kernel, bias])
        for weight in self.outer.weights:
            weight.assign(keras.ops.zeros_like(weight))
        self.variance.assign(variance)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        names = ("dim", "width", "dropout", "noise")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

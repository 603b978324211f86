"""A head over the tokens of a locked backbone: transformer blocks, pooling, a linear layer."""

from typing import Any, Literal

import keras

from keras_lit import checks, internals
from keras_lit.backbones.text_transformer import (
    LAYER_NORM_EPSILON,
    TransformerBlock,
    check_heads,
    gelu_tanh,
)

TokenPooling = Literal["first_and_mean", "mean"]


def pool_tokens(tokens: Any, pooling: str, prefix_tokens: int) -> keras.KerasTensor:
    """[batch, tokens, width] -> [batch, width], or for "first_and_mean" [batch, 2 width].

    The first `prefix_tokens` (class token and registers) are not patches, and not in the mean.
    """
    mean = keras.ops.mean(tokens[:, prefix_tokens:], axis=1)
    if pooling == "mean":
        return mean
    return keras.ops.concatenate([tokens[:, 0], mean], axis=-1)


def patch_rows(tokens: Any, pooling: str, prefix_tokens: int) -> keras.KerasTensor:
    """[batch, tokens, width] -> [batch, patches, width or 2 width]: the patches, as if pooled.

    For "first_and_mean" zeros stand for the class token, so that a linear head applies its other
    half alone.
    """
    patches = tokens[:, prefix_tokens:]
    if pooling == "mean":
        return patches
    return keras.ops.concatenate([keras.ops.zeros_like(patches), patches], axis=-1)


@keras.saving.register_keras_serializable("keras_lit")
class TokenHead(keras.layers.Layer):
    """Trained transformer blocks over locked tokens, then pooling, then a linear layer.

    dino.txt's vision head: `ImageTower(backbone, blocks=2)` makes one that fits the backbone. At
    the start the blocks change nothing: the projections that they end with are zero.

    Args:
        dim: int, the width of the embeddings. None: that of the pooled tokens, with no linear
            layer.
        blocks: int, how many transformer blocks (pre-LN, as in ViT); 0 for none.
        pooling: "first_and_mean" (the class token beside the mean of the patches) or "mean" (of the
            patches).
        prefix_tokens: int, how many tokens come before the patches: a class token (the first) and
            registers. They go through the blocks too, and are not in the mean.
        num_heads: int, the attention heads of a block; divides the width. None: one for 64 numbers
            of the width, or one where that does not divide it.
        intermediate_dim: int, the width inside a block's MLP. None: four times the tokens'.
        drop_path: float in [0, 1), how often a block is left out for a picture in training.

    Call arguments:
        tokens: [batch, tokens, width] float tensor.
        training: bool.

    Returns:
        [batch, dim] float tensor, not normalised.

    Raises:
        ValueError: a number out of its range; "first_and_mean" without a class token.

    Example:

    >>> head = keras_lit.backbones.TokenHead(16, blocks=1, prefix_tokens=1)
    >>> head(np.ones([2, 5, 8], "float32")).shape, head.patches(np.ones([2, 5, 8], "float32")).shape
    (TensorShape([2, 16]), TensorShape([2, 4, 16]))

    Reference: dino.txt, Jose et al., "DINOv2 Meets Text", CVPR 2025 (arXiv 2412.16334), section 3;
    stochastic depth, Huang et al. 2016 (arXiv 1603.09382).
    """

    def __init__(
        self,
        dim: int | None = None,
        blocks: int = 2,
        pooling: TokenPooling = "first_and_mean",
        prefix_tokens: int = 1,
        num_heads: int | None = None,
        intermediate_dim: int | None = None,
        drop_path: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        checks.check_one_of(pooling, ("first_and_mean", "mean"), "pooling")
        sizes = {"dim": dim, "num_heads": num_heads, "intermediate_dim": intermediate_dim}
        for name, value in sizes.items():
            if value is not None:
                checks.check_count(value, name)
        for name, value in {"blocks": blocks, "prefix_tokens": prefix_tokens}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"`{name}` should be a whole number, or 0. Received: {value!r}.")
        if pooling == "first_and_mean" and not prefix_tokens:
            raise ValueError(
                '`pooling`="first_and_mean" needs a class token before the patches. Received '
                '`prefix_tokens`=0: choose "mean".'
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"`drop_path` should be in [0, 1). Received: {drop_path}.")
        self.dim, self.blocks, self.pooling = dim, blocks, pooling
        self.prefix_tokens, self.drop_path = prefix_tokens, drop_path
        self.num_heads, self.intermediate_dim = num_heads, intermediate_dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width, dtype = int(input_shape[-1] or 0), self.dtype_policy
        heads = self.num_heads or (width // 64 if width % 64 == 0 else 1)
        check_heads(width, heads)
        # A whole picture's change is kept or dropped.
        self.drop = keras.layers.Dropout(self.drop_path, noise_shape=(None, 1, 1), dtype=dtype)
        self.transformer = []
        for i in range(self.blocks):
            block = TransformerBlock(
                self.intermediate_dim or 4 * width,
                heads,
                activation=gelu_tanh,
                layer_norm_epsilon=LAYER_NORM_EPSILON,
                kernel_initializer="glorot_uniform",
                bias_initializer="zeros",
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )
            block.build(tuple(input_shape))
            parts = internals.block_parts(block)
            for last in (parts.attention.output_dense, parts.mlp_outer):
                last.kernel.assign(keras.ops.zeros_like(last.kernel))
            self.transformer.append(block)
        self.dense = None
        if self.dim is not None:
            options = {"dtype": dtype, "name": "dense"}
            self.dense = keras.layers.Dense(self.dim, kernel_initializer="lecun_normal", **options)
            self.dense.build((None, self._pooled(width)))

    def call(self, tokens: Any, training: bool = False) -> keras.KerasTensor:
        return self._project(self.pooled(tokens, training))

    def pooled(self, tokens: Any, training: bool = False) -> keras.KerasTensor:
        """What enters the linear layer.

        Args:
            tokens: [batch, tokens, width] float tensor.
            training: bool.

        Returns:
            [batch, width] float tensor, of "first_and_mean" [batch, 2 width].

        Example:

        >>> head = keras_lit.backbones.TokenHead(4, blocks=1, pooling="mean", prefix_tokens=0)
        >>> tokens = np.arange(24, dtype="float32").reshape(1, 3, 8)
        >>> shape = head(tokens).shape
        >>> np.allclose(head.pooled(tokens), tokens.mean(axis=1))  # The blocks are new.
        True
        """
        tokens = self._through_blocks(tokens, training)
        return pool_tokens(tokens, self.pooling, self.prefix_tokens)

    def patches(self, tokens: Any) -> keras.KerasTensor:
        """Embeds each patch: what the head makes of it in place of the mean.

        Args:
            tokens: [batch, tokens, width] float tensor.

        Returns:
            [batch, patches, dim] float tensor, not normalised. Of "first_and_mean" the part of the
            class token is that of zeros.

        Example:

        >>> head = keras_lit.backbones.TokenHead(4, blocks=1, pooling="mean", prefix_tokens=0)
        >>> tokens = np.arange(24, dtype="float32").reshape(1, 3, 8)
        >>> np.allclose(head(tokens), np.mean(head.patches(tokens), axis=1), atol=1e-4)
        True
        """
        if not self.built:
            self.build(tokens.shape)
        tokens = self._through_blocks(keras.ops.convert_to_tensor(tokens), False)
        return self._project(patch_rows(tokens, self.pooling, self.prefix_tokens))

    def _through_blocks(self, tokens: Any, training: bool) -> Any:
        tokens = keras.ops.cast(tokens, self.compute_dtype)
        for block in self.transformer:
            changed = block(tokens, training=training)
            if training and self.drop_path:
                changed = tokens + self.drop(changed - tokens, training=True)
            tokens = changed
        return tokens

    def _project(self, pooled: Any) -> Any:
        return pooled if self.dense is None else self.dense(pooled)

    def _pooled(self, width: int) -> int:
        return 2 * width if self.pooling == "first_and_mean" else width

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.dim or self._pooled(int(input_shape[-1] or 0)))

    def get_config(self) -> dict[str, Any]:
        names = ("dim", "blocks", "pooling", "prefix_tokens", "num_heads", "intermediate_dim")
        own = {name: getattr(self, name) for name in (*names, "drop_path")}
        return {**super().get_config(), **own}

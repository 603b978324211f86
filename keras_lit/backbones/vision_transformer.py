"""The Vision Transformer as big_vision and vit_jax define it."""

from typing import Any, Self

import keras

from keras_lit import checks
from keras_lit.backbones.text_transformer import SIZES, Backbone, check_heads, transformer


def image_and_patch_size(*sizes: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Both as (height, width), after a check that the patches fill the image."""
    image, patch = ((x, x) if isinstance(x, int) else (x[0], x[1]) for x in sizes)
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ValueError(
            f"`image_size` should be a multiple of `patch_size`. Received: {image} and {patch}."
        )
    return image, patch


def patch_convolution(
    width: int, size: tuple[int, ...], dtype: Any, name: str
) -> keras.layers.Conv2D:
    """Projects each patch."""
    return keras.layers.Conv2D(
        width, size, size, kernel_initializer="lecun_normal", dtype=dtype, name=name
    )


@keras.saving.register_keras_serializable("keras_lit")
class PatchEmbedding(keras.layers.Layer):
    """Images [batch, height, width, 3] -> tokens: patches, maybe a class token, positions.

    Reference: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.1.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        hidden_dim: int,
        class_token: bool,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.class_token = class_token
        self.num_patches = (image_size[0] // patch_size[0]) * (image_size[1] // patch_size[1])
        self.patches = patch_convolution(hidden_dim, patch_size, self.dtype_policy, "patches")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.patches.build(input_shape)
        if self.class_token:
            self.cls = self.add_weight((1, 1, self.hidden_dim), "zeros", name="cls")
        self.position_embedding = self.add_weight(
            (1, self.num_patches + self.class_token, self.hidden_dim),
            keras.initializers.RandomNormal(stddev=self.hidden_dim**-0.5),
            name="position_embedding",
        )

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        x = self.patches(images)
        x = keras.ops.reshape(x, (-1, self.num_patches, self.hidden_dim))
        if self.class_token:
            cls = keras.ops.cast(self.cls, x.dtype)
            cls = keras.ops.broadcast_to(cls, (keras.ops.shape(x)[0], 1, self.hidden_dim))
            x = keras.ops.concatenate([cls, x], axis=1)
        return x + keras.ops.cast(self.position_embedding, x.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.num_patches + self.class_token, self.hidden_dim)


class PatchBackbone(Backbone):
    """A backbone of images that are cut into patches."""

    _sizes: dict[str, tuple[int, int, int, int]]

    @classmethod
    def from_size(cls, size: str, image_size: int = 224, **kwargs: Any) -> Self:
        """Builds one of the papers' sizes, such as "B/32" or "L/16".

        Args:
            size: "S", "B", "L" or "H", for a ViT also "Ti" or "g"; a slash; the patch's side in
                pixels.
            image_size: int, the image's side in pixels.
            **kwargs: of the class.

        Returns:
            A backbone of the class, randomly initialised.

        Raises:
            ValueError: unknown size.

        Example:

        >>> keras_lit.backbones.VisionTransformer.from_size("Ti/16", image_size=32).count_params()
        5487552
        """
        name, _, patch = size.partition("/")
        checks.check_one_of(name, cls._sizes, "size")
        if not patch.isdecimal():
            raise ValueError(f'`size` should name the patch, as "B/16" does. Received: {size!r}.')
        return cls(image_size, int(patch), *cls._sizes[name], **kwargs)


@keras.saving.register_keras_serializable("keras_lit")
class VisionTransformer(PatchBackbone):
    """Images [batch, height, width, 3] in -1..1 -> tokens [batch, tokens, hidden_dim].

    keras-hub's `ViTBackbone` cannot hold these weights: it computes GELU exactly, and the reference
    uses the tanh approximation, as here. Pooling is the tower's: "first" with a class token
    (big_vision's "tok"), "mean" ("gap") or "map" without.

    Args:
        image_size: int or (height, width) in pixels, multiples of the patch's.
        patch_size: int or (height, width) in pixels.
        hidden_dim: int, the width.
        num_layers: int, the depth.
        intermediate_dim: int, the width inside the MLPs.
        num_heads: int, the attention heads; divides `hidden_dim`.
        class_token: bool, whether a learned token goes before the patches'.
        dropout: float, the dropout after attention and MLP.

    Raises:
        ValueError: the patches do not fill the image; `hidden_dim` is not divisible by `num_heads`.

    Example:

    >>> backbone = keras_lit.backbones.VisionTransformer(32, 8, 12, 2, 24, 3)
    >>> backbone(np.zeros([2, 32, 32, 3], "float32")).shape
    TensorShape([2, 17, 12])

    Reference: Dosovitskiy et al. 2021 (arXiv 2010.11929); the LiT paper, section 4.2.
    """

    _sizes = SIZES

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        hidden_dim: int,
        num_layers: int,
        intermediate_dim: int,
        num_heads: int,
        class_token: bool = True,
        dropout: float = 0.0,
        dtype: Any = None,
        **kwargs: Any,
    ):
        image_size, patch_size = image_and_patch_size(image_size, patch_size)
        check_heads(hidden_dim, num_heads)
        images = keras.Input((*image_size, 3), name="images")
        embedding = PatchEmbedding(
            image_size, patch_size, hidden_dim, class_token, dtype=dtype, name="patch_embedding"
        )
        x = keras.layers.Dropout(dropout, dtype=dtype, name="dropout")(embedding(images))
        x = transformer(x, num_layers, intermediate_dim, num_heads, dropout, dtype)
        super().__init__(inputs=images, outputs=x, dtype=dtype, **kwargs)
        self._keep(
            image_size=image_size,
            patch_size=patch_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            class_token=class_token,
            dropout=dropout,
        )

"""MLP-Mixer as big_vision and vit_jax define it."""

from typing import Any

import keras
import keras_nlp

from keras_lit.backbones.text_transformer import LAYER_NORM_EPSILON, gelu_tanh
from keras_lit.backbones.vision_transformer import dims_and_patch, image_and_patch_size

# Width, depth, width inside the MLPs of tokens and of channels.
MIXER_SIZES = {
    "S": (512, 8, 256, 2048),
    "B": (768, 12, 384, 3072),
    "L": (1024, 24, 512, 4096),
    "H": (1280, 32, 640, 5120),
}


@keras.saving.register_keras_serializable("keras_lit")
class MixerBlock(keras.layers.Layer):
    """[batch, tokens, width] -> the same: an MLP over the tokens, then one over the channels.

    Args:
        tokens_dim: int, the width inside the MLP over the tokens.
        channels_dim: int, the width inside the MLP over the channels.

    Reference: Tolstikhin et al. 2021 (arXiv 2105.01601), section 2.
    """

    def __init__(self, tokens_dim: int, channels_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.tokens_dim = tokens_dim
        self.channels_dim = channels_dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        _, tokens, width = input_shape
        self.norms, self.mlps = [], []
        for name, inner, outer in (
            ("token_mixing", self.tokens_dim, tokens),
            ("channel_mixing", self.channels_dim, width),
        ):
            norm = keras.layers.LayerNormalization(
                epsilon=LAYER_NORM_EPSILON, dtype=self.dtype_policy, name=f"{name}_norm"
            )
            norm.build(input_shape)
            self.norms.append(norm)
            mlp = []
            for i, (before, after) in enumerate(((outer, inner), (inner, outer))):
                dense = keras.layers.Dense(
                    after,
                    gelu_tanh if i == 0 else None,
                    kernel_initializer="lecun_normal",
                    dtype=self.dtype_policy,
                    name=f"{name}_{i}",
                )
                dense.build((None, before))
                mlp.append(dense)
            self.mlps.append(mlp)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        y = keras.ops.swapaxes(self.norms[0](x), 1, 2)
        for dense in self.mlps[0]:
            y = dense(y)
        x = x + keras.ops.swapaxes(y, 1, 2)
        y = self.norms[1](x)
        for dense in self.mlps[1]:
            y = dense(y)
        return x + y

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        names = ("tokens_dim", "channels_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("keras_lit")
class MLPMixer(keras_nlp.models.Backbone):
    """Images [batch, height, width, 3] in -1..1 -> tokens [batch, tokens, hidden_dim], normalised.

    The tower takes their mean.

    Args:
        image_size: int or (height, width) in pixels, multiples of the patch's.
        patch_size: int or (height, width) in pixels.
        hidden_dim: int, the width.
        num_layers: int, the depth.
        tokens_dim: int, the width inside the MLPs over the tokens.
        channels_dim: int, the width inside the MLPs over the channels.

    Raises:
        ValueError: the patches do not fill the image.

    Example:

    >>> backbone = keras_lit.backbones.MLPMixer(32, 8, 12, 2, 6, 24)
    >>> backbone(np.zeros([2, 32, 32, 3], "float32")).shape
    TensorShape([2, 16, 12])

    Reference: Tolstikhin et al. 2021 (arXiv 2105.01601); the LiT paper, section 5.6 and Table 6.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        hidden_dim: int,
        num_layers: int,
        tokens_dim: int,
        channels_dim: int,
        dtype: Any = None,
        **kwargs: Any,
    ):
        image_size, patch_size = image_and_patch_size(image_size, patch_size)
        images = keras.Input((*image_size, 3), name="images")
        x = keras.layers.Conv2D(
            hidden_dim,
            patch_size,
            strides=patch_size,
            kernel_initializer="lecun_normal",
            dtype=dtype,
            name="stem",
        )(images)
        x = keras.layers.Reshape((-1, hidden_dim), dtype=dtype, name="tokens")(x)
        for i in range(num_layers):
            x = MixerBlock(tokens_dim, channels_dim, dtype=dtype, name=f"mixer_block_{i}")(x)
        x = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=dtype, name="layer_norm"
        )(x)
        super().__init__(inputs=images, outputs=x, dtype=dtype, **kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.tokens_dim = tokens_dim
        self.channels_dim = channels_dim

    @classmethod
    def from_size(cls, size: str, image_size: int = 224, **kwargs: Any) -> "MLPMixer":
        """Builds one of the paper's sizes, such as "S/32", "B/32", "B/16" or "L/16".

        Args:
            size: "S", "B", "L" or "H", a slash and the patch's side in pixels.
            image_size: int, the image's side in pixels.
            **kwargs: of the class.

        Returns:
            An `MLPMixer`.

        Raises:
            ValueError: unknown size.

        Example: `keras_lit.backbones.MLPMixer.from_size("B/32")`.
        """
        dims, patch = dims_and_patch(size, MIXER_SIZES)
        return cls(image_size, patch, *dims, **kwargs)

    def get_config(self) -> dict[str, Any]:
        names = "image_size patch_size hidden_dim num_layers tokens_dim channels_dim"
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

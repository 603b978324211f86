"""MLP-Mixer as big_vision and vit_jax define it."""

from typing import Any

import keras

from keras_lit.backbones.text_transformer import gelu_tanh, layer_norm
from keras_lit.backbones.vision_transformer import (
    PatchBackbone,
    image_and_patch_size,
    patch_convolution,
)

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
            norm = layer_norm(self.dtype_policy, f"{name}_norm")
            norm.build(input_shape)
            self.norms.append(norm)
            options = {"kernel_initializer": "lecun_normal", "dtype": self.dtype_policy}
            first = keras.layers.Dense(inner, gelu_tanh, name=f"{name}_0", **options)
            second = keras.layers.Dense(outer, name=f"{name}_1", **options)
            first.build((None, outer))
            second.build((None, inner))
            self.mlps.append([first, second])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        (tokens_0, tokens_1), (channels_0, channels_1) = self.mlps
        y = keras.ops.swapaxes(self.norms[0](x), 1, 2)
        x = x + keras.ops.swapaxes(tokens_1(tokens_0(y)), 1, 2)
        return x + channels_1(channels_0(self.norms[1](x)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


@keras.saving.register_keras_serializable("keras_lit")
class MLPMixer(PatchBackbone):
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

    _sizes = MIXER_SIZES

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
        x = patch_convolution(hidden_dim, patch_size, dtype, "stem")(images)
        x = keras.layers.Reshape((-1, hidden_dim), dtype=dtype, name="tokens")(x)
        for i in range(num_layers):
            x = MixerBlock(tokens_dim, channels_dim, dtype=dtype, name=f"mixer_block_{i}")(x)
        x = layer_norm(dtype, "layer_norm")(x)
        super().__init__(inputs=images, outputs=x, dtype=dtype, **kwargs)
        self._keep(
            image_size=image_size,
            patch_size=patch_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            tokens_dim=tokens_dim,
            channels_dim=channels_dim,
        )

"""BiT's ResNet: standardised convolutions and group norm, which comes before them."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lit import checks
from keras_lit.backbones.text_transformer import Backbone

# Units of the four blocks (big_vision's `bit.get_block_desc`).
BIT_DEPTHS = {
    "R26": (2, 2, 2, 2),
    "R50": (3, 4, 6, 3),
    "R101": (3, 4, 23, 3),
    "R152": (3, 8, 36, 3),
    "R200": (3, 24, 36, 3),
}


@keras.saving.register_keras_serializable("keras_lit")
class StandardizedConv2D(keras.layers.Conv2D):
    """A convolution without bias whose kernel has mean 0 and deviation 1 for each output channel.

    It pads by half of the kernel, whose size is odd, on all sides, whatever the strides.

    Reference: Qiao et al. 2019 (arXiv 1903.10520).
    """

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any):
        kwargs |= {"use_bias": False, "padding": "valid"}
        super().__init__(filters, kernel_size, strides, **kwargs)

    def convolution_op(self, inputs: Any, kernel: Any) -> keras.KerasTensor:
        kernel = keras.ops.cast(kernel, "float32")
        mean, variance = keras.ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        kernel = (kernel - mean) * keras.ops.rsqrt(variance + 1e-10)
        half = self.kernel_size[0] // 2
        inputs = keras.ops.pad(inputs, [(0, 0), (half, half), (half, half), (0, 0)])
        return super().convolution_op(inputs, keras.ops.cast(kernel, inputs.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        sides = (side and -(-side // self.strides[0]) for side in input_shape[1:3])
        return (input_shape[0], *sides, self.filters)


@keras.saving.register_keras_serializable("keras_lit")
class BiTResNet(Backbone):
    """Images [batch, height, width, 3] in -1..1 -> feature map [batch, h / 32, w / 32, channels].

    The tower takes the mean of the map.

    Args:
        depths: the units of each block, (3, 4, 6, 3) for a ResNet-50. Each block but the first
            halves the map; there are `4 * width * 2 ** (len(depths) - 1)` channels at the end.
        width: int, the channels after the first convolution; 64 for "x1", 192 for "x3".
        groups: int, of the group norms; divides the width.

    Raises:
        ValueError: `width` is not divisible by `groups`.

    Example:

    >>> keras_lit.backbones.BiTResNet((1, 1), 8, 4)(np.zeros([2, 32, 32, 3], "float32")).shape
    TensorShape([2, 4, 4, 64])

    Reference: Kolesnikov et al. 2020 (arXiv 1912.11370); the LiT paper, section 5.6 and Table 6;
    big_vision's `models/bit_paper.py`.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 32,
        dtype: Any = None,
        **kwargs: Any,
    ):
        if width % groups:
            raise ValueError(
                f"`width` should be divisible by `groups`. Received: {width} and {groups}."
            )

        def convolve(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
            return StandardizedConv2D(filters, size, strides, dtype=dtype, name=name)(x)

        def normalize(x: Any, name: str) -> Any:
            norm = keras.layers.GroupNormalization(groups, epsilon=1e-5, dtype=dtype, name=name)
            return keras.ops.relu(norm(x))

        images = keras.Input((None, None, 3), name="images")
        x = convolve(images, width, 7, 2, "conv_root")
        # Padded by 1 on all sides, as big_vision does; "same" would pad even sizes on one.
        sides = [(0, 0), (1, 1), (1, 1), (0, 0)]
        x = keras.ops.max_pool(keras.ops.pad(x, sides, constant_values=float("-inf")), 3, 2)
        for i, depth in enumerate(depths):
            inner = width * 2**i
            for j in range(depth):
                name = f"block{i + 1}_unit{j + 1:02d}"
                strides = 2 if i > 0 and j == 0 else 1
                y = normalize(x, f"{name}_gn1")
                if strides != 1 or x.shape[-1] != 4 * inner:
                    x = convolve(y, 4 * inner, 1, strides, f"{name}_conv_proj")
                y = normalize(convolve(y, inner, 1, 1, f"{name}_conv1"), f"{name}_gn2")
                y = normalize(convolve(y, inner, 3, strides, f"{name}_conv2"), f"{name}_gn3")
                x = x + convolve(y, 4 * inner, 1, 1, f"{name}_conv3")
        x = normalize(x, "norm_pre_head")
        super().__init__(inputs=images, outputs=x, dtype=dtype, **kwargs)
        self._keep(depths=tuple(depths), width=width, groups=groups)

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "BiTResNet":
        """Builds one of the paper's sizes, such as "R50x1", "R101x3" or "R152x4".

        Args:
            size: "R26", "R50", "R101", "R152" or "R200", "x" and how many times as wide.
            **kwargs: of the class.

        Returns:
            A `BiTResNet`.

        Raises:
            ValueError: unknown size.

        Example: `keras_lit.backbones.BiTResNet.from_size("R50x1")`.
        """
        name, _, times = size.partition("x")
        checks.check_one_of(name, BIT_DEPTHS, "size")
        if not times.isdecimal():
            raise ValueError(f'`size` should name the width, as "R50x1" does. Received: {size!r}.')
        return cls(BIT_DEPTHS[name], 64 * int(times), **kwargs)

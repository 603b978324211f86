"""Images to the pixels that an image tower takes."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.preprocessing import decoding
from keras_lit.preprocessing.compiling import compiled

Resize = Literal["stretch", "crop", "pad"]
Interpolation = Literal[
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"
]

# What a tower expects of its pixels: (x - mean) / deviation, x in 0..255.
ValueRange = Literal["-1..1", "0..1", "0..255", "imagenet", "efficientnet_lite"]
_VALUE_RANGES: dict[str, tuple[Any, Any]] = {
    "-1..1": (127.5, 127.5),
    "0..1": (0.0, 255.0),
    "0..255": (0.0, 1.0),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "efficientnet_lite": (127.0, 128.0),
}


# How many bad images an error names.
_NAMED = 10
# While a picture is scaled, its sides are at most this many times those of what is kept.
_SPARE = 16


def check_has_rank(images: tf.Tensor) -> None:
    """Raises ValueError where encoded images or pixels, or their spec, have lost their rank."""
    checks.check_has_rank(images, "image", "[]" if images.dtype == tf.string else "[None, None, 3]")


def check_channels(shape: Any) -> None:
    """Raises ValueError unless the last axis of pixels is that of 1 to 4 channels."""
    if shape[-1] not in (None, 1, 2, 3, 4):
        raise ValueError(
            "Pixels should have 1 to 4 channels as their last axis, one picture [height, width, "
            f"channels] or several [n, height, width, channels]. Received shape: {tuple(shape)}. "
            "Of grey pictures [n, height, width] pass `pixels[..., np.newaxis]`; of channels that "
            "come first, `np.moveaxis(pixels, -3, -1)`."
        )


@keras.saving.register_keras_serializable("keras_lit")
class ImagePreprocessor(keras.layers.Layer):
    """Turns encoded images or uint8 pixels into what an image tower takes.

    Resizing goes through uint8, as in LiT's released code (its fractions are cut off), and without
    antialiasing by default.

    Args:
        image_size: int or (height, width) in pixels.
        resize: "stretch" (LiT: both sides to `image_size`), "crop" (short side to
            `image_size / crop_fraction`, then the centre) or "pad" (the whole image, centred on
            `background`).
        crop_fraction: float in (0, 1], the part of the short side that "crop" keeps.
        value_range: one of "-1..1", "0..1", "0..255", "imagenet", "efficientnet_lite", or a pair
            (mean, deviation) of numbers or of three numbers: pixels in 0..255 become
            (x - mean) / deviation.
        background: int in 0..255, the grey behind transparent pixels and padding (255 = white).
        interpolation: any method of `tf.image.resize`.
        antialias: bool, whether to filter when an image shrinks.
        random_crop: None, or (smallest, largest) part of the area: the Inception crop in training
            (aspect ratio 3/4 to 4/3), for example (0.05, 1.0). It replaces `resize`, except that
            "pad" first makes the image square.
        random_flip: bool, whether to mirror half of the images in training.
        exif_orientation: bool, whether encoded images are turned upright as their EXIF data say
            (phones store photos on their side). Layers saved before there was this option do not.

    Call arguments:
        images: [batch] or scalar string tensor (encoded images), or [batch, height, width,
            channels] or [height, width, channels] uint8 tensor with 1 to 4 channels.
        training: bool, whether to apply the random crop and flip.
        seed: [2] integer tensor that decides them, or [batch, 2]; drawn when None.
        names: optional [batch] string tensor; errors name a bad row by it.

    Returns:
        [batch, *image_size, 3] (or [*image_size, 3]) float32 tensor.

    Raises:
        ValueError: an unsupported dtype or rank.
        tf.errors.InvalidArgumentError: an image does not decode; the message names the row.

    Example:

    >>> preprocessor = keras_lit.preprocessing.ImagePreprocessor(224)
    >>> preprocessor(np.zeros([2, 300, 200, 3], "uint8")).shape
    TensorShape([2, 224, 224, 3])

    Reference: the LiT paper, section 4.2 ("plain resize") and Appendix I.1; App. D and E (crops).
    """

    image_size: Any = checks.Settled()

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "stretch",
        crop_fraction: float = 1.0,
        value_range: ValueRange | tuple[Any, Any] = "-1..1",
        background: int = 255,
        interpolation: Interpolation = "bilinear",
        antialias: bool = False,
        random_crop: tuple[float, float] | None = None,
        random_flip: bool = False,
        exif_orientation: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        checks.check_one_of(resize, get_args(Resize), "resize")
        if isinstance(value_range, str):
            checks.check_one_of(value_range, _VALUE_RANGES, "value_range")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"`crop_fraction` should be in (0, 1]. Received: {crop_fraction}.")
        if random_crop is not None and not 0 < random_crop[0] <= random_crop[1] <= 1:
            raise ValueError(
                "`random_crop` should be (smallest, largest) part of the area, with "
                f"0 < smallest <= largest <= 1. Received: {random_crop}."
            )
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = (int(height), int(width))
        self.resize = resize
        self.crop_fraction = crop_fraction
        self.value_range = value_range
        self.background = background
        self.interpolation = interpolation
        self.antialias = antialias
        self.random_crop = tuple(random_crop) if random_crop else None
        self.random_flip = random_flip
        self.exif_orientation = exif_orientation
        internals.takes_raw_input(self)
        options = lambda: repr(self.get_config())  # noqa: E731
        self._compiled = compiled(self._preprocess, options)
        self._compiled_with_valid = compiled(self._with_valid, options)

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> "ImagePreprocessor":
        """The preprocessing that a preset of keras-nlp was trained with.

        Args:
            preset: name, link to a hub, or folder with an image converter in it.
            **options: of `ImagePreprocessor`, in place of the preset's.

        Returns:
            An `ImagePreprocessor` with the size, resizing and pixels of the preset's converter.

        Raises:
            FileNotFoundError: the preset has no image converter.
            ValueError: no such preset.

        Example: `ImagePreprocessor.from_preset("dinov2_base", random_flip=True)`.
        """
        converter = keras_nlp.layers.ImageConverter.from_preset(preset)
        scale = np.broadcast_to(1.0 if converter.scale is None else converter.scale, 3)
        offset = np.broadcast_to(0.0 if converter.offset is None else converter.offset, 3)
        whole = "pad" if converter.pad_to_aspect_ratio else "stretch"
        found = {
            "image_size": converter.image_size or 224,
            "resize": "crop" if converter.crop_to_aspect_ratio else whole,
            "value_range": ((-offset / scale).tolist(), (1 / scale).tolist()),
            "background": 0,
            "interpolation": converter.interpolation,
            "antialias": converter.antialias,
        }
        return cls(**{**found, **options})

    def call(
        self,
        images: Any,
        training: bool = False,
        seed: tf.Tensor | None = None,
        names: tf.Tensor | None = None,
    ) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        check_has_rank(images)
        ranks: tuple[int, ...] = {tf.string: (0, 1), tf.uint8: (3, 4)}.get(images.dtype, ())
        if images.shape.rank not in ranks:
            raise ValueError(
                "Images should be encoded (a string tensor of rank 0 or 1) or uint8 pixels "
                "[batch, height, width, channels] in 0..255. Received: "
                f"{images.dtype.name} of shape {images.shape}. Cast pixels with "
                "`tf.cast(pixels, tf.uint8)`."
            )
        if images.dtype == tf.uint8:
            check_channels(images.shape)
        unbatched = images.shape.rank == ranks[0]
        if unbatched:
            images = images[tf.newaxis]
        randomly = bool(training) and (self.random_crop is not None or self.random_flip)
        if randomly and seed is None:
            seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
        run = self._compiled if tf.executing_eagerly() else self._preprocess
        pixels = run(images, seed if randomly else None, names)
        return pixels[0] if unbatched else pixels

    def with_valid(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Preprocesses encoded images; those that do not decode become blank.

        Args:
            images: [batch] string tensor.

        Returns:
            [batch, *image_size, 3] float32 tensor, and [batch] bool: whether each image decodes.

        Example:

        >>> preprocessor = keras_lit.preprocessing.ImagePreprocessor(32)
        >>> good = tf.io.encode_png(np.zeros([40, 30, 3], "uint8"))
        >>> pixels, valid = preprocessor.with_valid(tf.stack([good, b"no image"]))
        >>> pixels.shape, valid.numpy()
        (TensorShape([2, 32, 32, 3]), array([ True, False]))
        """
        run = self._compiled_with_valid if tf.executing_eagerly() else self._with_valid
        return run(tf.convert_to_tensor(images))

    @tf.autograph.experimental.do_not_convert  # To rewrite it takes longer than to trace it.
    def _with_valid(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def all_of_them(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self._resize_all(images), tf.ones(tf.shape(images), tf.bool)

        def good_ones(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            valid = tf.map_fn(decodes, images, fn_output_signature=tf.bool)
            blank = tf.io.encode_png(tf.fill([1, 1, 3], tf.constant(self.background, tf.uint8)))
            return self._resize_all(tf.where(valid, images, blank)), valid

        with tf.device("CPU"):
            pixels, valid = first_that_works(images, all_of_them, good_ones)
            return self._scaled(pixels, images), valid

    @tf.autograph.experimental.do_not_convert
    def _preprocess(
        self, images: tf.Tensor, seed: tf.Tensor | None, names: tf.Tensor | None
    ) -> tf.Tensor:
        def resize(images: tf.Tensor) -> tf.Tensor:
            return self._resize_all(images, seed)

        def name_bad_rows(images: tf.Tensor) -> tf.Tensor:
            return resize(_named_unless_all_decode(images, names))

        with tf.device("CPU"):
            if images.dtype == tf.uint8:
                return self._scaled(resize(images), images)
            pixels = first_that_works(images, resize, name_bad_rows)
            return self._scaled(pixels, images)

    def _scaled(self, pixels: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """uint8 -> float32 in the tower's range of values, a row for each image."""
        pixels = tf.ensure_shape(pixels, [images.shape[0], *self.image_size, 3])
        return in_range(pixels, self.value_range)

    def _resize_all(self, images: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Encoded images or pixels, batched, -> [batch, *image_size, 3] uint8."""
        if images.dtype == tf.uint8 and seed is None:
            return self._resize(decoding.to_rgb(images, self.background))
        rows: Any = (images,)
        if seed is not None:
            split = tf.random.experimental.stateless_split
            rows += (seed if seed.shape.rank == 2 else split(seed, tf.shape(images)[0]),)

        def one(row: Any) -> tf.Tensor:
            image, *row_seed = row
            if image.dtype == tf.string:
                pixels = decoding.decode_image(image, self.background, self.exif_orientation)
            else:
                pixels = decoding.to_rgb(image, self.background)
            return self._resize(pixels, *row_seed)

        signature = tf.TensorSpec([*self.image_size, 3], tf.uint8)
        return tf.map_fn(one, rows, fn_output_signature=signature)

    def _resize(self, pixels: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """[..., h, w, 3] uint8 -> [..., *image_size, 3] uint8; at random for [h, w, 3] + seed."""
        height, width = self.image_size
        if seed is not None:
            if self.resize == "pad":
                pixels = self._square(pixels)
            pixels = self._random(pixels, seed)
            if self.random_crop is not None:
                return self._scale(pixels, height, width)
        if self.resize == "crop":
            pixels = self._middle(pixels)
        size = tf.cast(tf.shape(pixels)[-3:-1], tf.float32)
        if self.resize == "crop":
            factor = tf.reduce_max([height / size[0], width / size[1]]) / self.crop_fraction
            # The epsilon keeps e.g. 24 / 53 * 53 from being cut down to 23.
            size = tf.maximum(tf.cast(size * factor + 1e-3, tf.int32), self.image_size)
            top, left = (size[0] - height) // 2, (size[1] - width) // 2
            pixels = self._scale(pixels, size[0], size[1])
            return pixels[..., top : top + height, left : left + width, :]
        if self.resize == "pad":
            return self._pad(self._fit(pixels, height, width), height, width)
        return self._scale(pixels, height, width)

    def _middle(self, pixels: tf.Tensor) -> tf.Tensor:
        """The middle of a very thin picture, more than "crop" keeps; scaled whole it is huge."""
        size, wanted = tf.shape(pixels)[-3:-1], tf.constant(self.image_size, tf.float32)
        scale = tf.reduce_min(tf.cast(size, tf.float32) / wanted) * self.crop_fraction
        most = tf.cast(tf.math.ceil(_SPARE * scale * wanted), tf.int32)
        most += (size - most) % 2  # So that the centre stays the centre.
        top, left = tf.unstack(tf.maximum(size - most, 0) // 2)
        return pixels[..., top : top + most[0], left : left + most[1], :]

    def _square(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pads to a square; shrinks a long and thin picture, whose square is huge, first."""
        longest, most = tf.reduce_max(tf.shape(pixels)[:2]), _SPARE * max(self.image_size)
        shortest = tf.reduce_min(tf.shape(pixels)[:2])
        is_thin = (longest > most) & (longest // 4 > shortest)
        pixels = tf.cond(is_thin, lambda: self._fit(pixels, most, most), lambda: pixels)
        side = tf.reduce_max(tf.shape(pixels)[:2])
        return self._pad(tf.ensure_shape(pixels, [None, None, 3]), side, side)

    def _fit(self, pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """The whole picture, as large as fits."""
        size = tf.cast(tf.shape(pixels)[-3:-1], tf.float32)
        factor = tf.reduce_min([height / size[0], width / size[1]])
        size = tf.clip_by_value(tf.cast(tf.round(size * factor), tf.int32), 1, [height, width])
        return self._scale(pixels, size[0], size[1])

    def _scale(self, pixels: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
        def resized(pixels: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
            return tf.image.resize(
                pixels, [height, width], method=self.interpolation, antialias=self.antialias
            )

        def narrow_first() -> tf.Tensor:
            return resized(resized(pixels, rows, width), height, width)

        # Wide filters go down the columns first, and their memory is the height by these columns.
        rows, columns = tf.unstack(tf.shape(pixels)[-3:-1])
        is_flat = (columns > _SPARE * width) & (rows < height)
        scaled = tf.cond(is_flat, narrow_first, lambda: resized(pixels, height, width))
        return tf.cast(tf.clip_by_value(scaled, 0, 255), tf.uint8)

    def _pad(self, pixels: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
        shape = tf.shape(pixels)
        top, left = (height - shape[-3]) // 2, (width - shape[-2]) // 2
        ends = [[top, height - shape[-3] - top], [left, width - shape[-2] - left]]
        paddings = [[0, 0]] * (pixels.shape.rank - 3) + [*ends, [0, 0]]
        return tf.pad(pixels, paddings, constant_values=self.background)

    def _random(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self.random_crop is not None:
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                tf.shape(pixels),
                tf.zeros([0, 0, 4]),
                seed,
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=self.random_crop,
                use_image_if_no_bounding_boxes=True,
            )
            pixels = tf.ensure_shape(tf.slice(pixels, begin, size), [None, None, 3])
        if self.random_flip:
            pixels = tf.image.stateless_random_flip_left_right(pixels, seed + 1)
        return pixels

    def compute_output_spec(self, images: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor([None, *self.image_size, 3], "float32")

    def get_config(self) -> dict[str, Any]:
        names = (
            "image_size resize crop_fraction value_range background interpolation antialias "
            "random_crop random_flip"
        )
        config = {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}
        # A file without it is older than the option, and keeps its results.
        return {**config, **({"exif_orientation": True} if self.exif_orientation else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImagePreprocessor":
        return cls(**{"exif_orientation": False, **config})


def value_bounds(preprocessor: ImagePreprocessor) -> tuple[float, float]:
    """The smallest and the largest value that a pixel can become."""
    mean, deviation = _mean_and_deviation(preprocessor.value_range)
    return float(np.min((0 - mean) / deviation)), float(np.max((255 - mean) / deviation))


def in_range(pixels: tf.Tensor, value_range: ValueRange | tuple[Any, Any]) -> tf.Tensor:
    """uint8 pixels [..., 3] -> float32 in a tower's range of values."""
    mean, deviation = _mean_and_deviation(value_range)
    # Multiplied and added: a graph turns a division into a product, eager code does not.
    scale = 1.0 / deviation
    return tf.cast(pixels, tf.float32) * scale - mean * scale


def out_of_range(values: np.ndarray, value_range: ValueRange | tuple[Any, Any]) -> np.ndarray:
    """The uint8 pixels whose `in_range` these are."""
    mean, deviation = _mean_and_deviation(value_range)
    return np.round(values * deviation + mean).astype("uint8")


def _mean_and_deviation(value_range: str | tuple[Any, Any]) -> Any:
    """Two float32 arrays of one number or of three."""
    pair = _VALUE_RANGES[value_range] if isinstance(value_range, str) else value_range
    return [np.array(x, "float32") for x in pair]


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decodes(contents: tf.Tensor) -> tf.Tensor:
    """Whether an encoded image decodes: scalar string tensor -> scalar bool tensor."""
    return first_that_works(contents, _decodes, lambda _: False)


def _decodes(contents: tf.Tensor) -> tf.Tensor:
    return tf.size(decoding.decode_image(contents)) > 0


def first_that_works(images: tf.Tensor, *attempts: Callable) -> Any:
    """What the first of some functions of `images` gives, in a graph, that does not fail.

    A graph has no try/except; a dataset that drops errors and is followed by another is one. A
    function is computed only when it is needed, so that a batch costs no more.
    """
    attributes, ops = {**internals.ONE_DEVICE}, tf.raw_ops
    if not internals.in_a_dataset():
        attributes |= internals.NOT_AGAIN
    signature = [tf.TensorSpec.from_tensor(images)]
    functions = [
        tf.function(x, signature, False, experimental_attributes=attributes).get_concrete_function()
        for x in attempts
    ]
    first = functions[0]
    outputs = {
        "output_types": [output.dtype for output in first.outputs],
        "output_shapes": [output.shape for output in first.outputs],
    }
    whole = ops.TensorDataset(components=[images], output_shapes=[images.shape])
    *results, found = (
        ops.MapDataset(input_dataset=whole, other_arguments=f.captured_inputs, f=f, **outputs)
        for f in functions
    )
    for result in reversed(results):
        result = ops.IgnoreErrorsDataset(input_dataset=result, **outputs)
        found = ops.ConcatenateDataset(input_dataset=result, another_dataset=found, **outputs)
    found = ops.TakeDataset(input_dataset=found, count=tf.constant(1, tf.int64), **outputs)
    found = ops.DatasetToSingleElement(dataset=found, **outputs)
    return tf.nest.pack_sequence_as(first.structured_outputs, found)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def why_not(contents: tf.Tensor) -> tf.Tensor:
    """Why an image does not decode, a sentence, or "": scalar string tensor -> scalar string."""

    def nothing(contents: tf.Tensor) -> tf.Tensor:
        return tf.where(_decodes(contents), "", decoding.DAMAGED)

    def refusal(contents: tf.Tensor) -> tf.Tensor:
        reason = decoding.inspect(contents).refusal
        return tf.where(reason == "", decoding.DAMAGED, reason)

    return first_that_works(contents, nothing, refusal, lambda _: tf.constant(decoding.DAMAGED))


def first_bytes(images: tf.Tensor) -> tf.Tensor:
    """[batch] encoded images -> [batch] string, what an error can show of each."""
    # An error that is not UTF-8 would be lost on its way to Python.
    printable = ["", *(chr(i) if 32 <= i < 127 else "." for i in range(1, 256))]
    first = tf.io.decode_raw(images, tf.uint8, fixed_length=16)
    return tf.strings.reduce_join(tf.gather(printable, tf.cast(first, tf.int32)), axis=1)


def _named_unless_all_decode(images: tf.Tensor, names: tf.Tensor | None) -> tf.Tensor:
    """Passes encoded images on, and fails with the rows of those that do not decode, and why."""
    reasons = tf.map_fn(why_not, images)
    good = reasons == ""
    bad = tf.where(~good)[:, 0]
    described, reasons = (tf.gather(x, bad)[:_NAMED] for x in (images, reasons))
    if names is None:
        label = "(Names of files? Map `tf.io.read_file` over them.) First bytes and reasons:"
        described = first_bytes(described)
    else:
        label = "names and reasons:"
        described = tf.strings.as_string(tf.gather(names, bad)[:_NAMED])
        # An error that is not UTF-8 would be lost.
        described = tf.strings.unicode_transcode(described, "UTF-8", "UTF-8", errors="replace")
    message = (
        "An image does not decode. Remove it, or read with `image_text_pairs(..., skipped=set())` "
        "to leave such pairs out. Rows:"
    )
    data = [message, bad, label, tf.strings.join([described, ": ", reasons])]
    ok = tf.reduce_all(good)
    with tf.control_dependencies([tf.debugging.Assert(ok, data, _NAMED)]):
        return tf.identity(images)

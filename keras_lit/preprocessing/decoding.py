"""Encoded images to RGB pixels: headers are read before memory is spent."""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lit.preprocessing import exif, formats
from keras_lit.preprocessing.formats import FORMATS, Seen

MAX_PIXELS = 2**26
DAMAGED = "It is cut off or damaged."
_TOO_MANY = 2**31
_TOO_LARGE = "An image should have at most {:,} pixels: shrink it. Received, by its header: "


def decode_image(
    contents: tf.Tensor, background: int = 255, exif_orientation: bool = True
) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP, WebP or the first frame of a GIF to RGB.

    Grey, CMYK, palettes and 16 bits included; up to 67 megapixels (`MAX_PIXELS`).

    Args:
        contents: scalar string tensor, the bytes of a file.
        background: int in 0..255, the grey (255 = white) behind transparent pixels.
        exif_orientation: bool, whether to turn the picture upright as EXIF says (phones store what
            they took on its side); as in the reference implementations, False leaves it as stored.

    Returns:
        [height, width, 3] uint8 tensor.

    Raises:
        tf.errors.InvalidArgumentError: another format, cut off or damaged, or too large by its
            header (nothing is decoded then). In a graph what is damaged has TensorFlow's message.

    Example:

    >>> png = tf.io.encode_png(tf.zeros([2, 3, 4], tf.uint8))  # wholly transparent
    >>> decode_image(png).numpy().min()
    np.uint8(255)
    """
    if not tf.executing_eagerly():
        return _decode(contents, background, exif_orientation, _decode_any_apart)
    try:
        return _decode(contents, background, exif_orientation, _decode_any)
    except tf.errors.InvalidArgumentError as error:
        raise tf.errors.InvalidArgumentError(None, None, _reason(contents)) from error


def _decode(
    contents: tf.Tensor, background: int, exif_orientation: bool, any_format: Callable
) -> tf.Tensor:
    # Most pictures are plain JPEGs and PNGs. What the others need is one node of the graph.
    return tf.switch_case(
        formats.kind(contents, MAX_PIXELS),
        [
            lambda: formats.decode(contents, 3),
            lambda: _over(tf.io.decode_png(contents, channels=4), background),
            lambda: any_format(contents, tf.convert_to_tensor(background), exif_orientation),
        ],
    )


def _reason(contents: tf.Tensor) -> str:
    """Why an image does not decode, a sentence."""
    refusal = ""
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        refusal = inspect(contents).refusal.numpy().decode()
    return refusal or f"An image does not decode. {DAMAGED}"


def decode_mask(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an encoded mask of 0 and 1 to black and white: scalar string -> [h, w, 1] uint8."""
    return tf.io.decode_image(contents, channels=1, expand_animations=False) * 255


def to_rgb(pixels: tf.Tensor, background: int = 255) -> tf.Tensor:
    """Grey, grey + alpha, RGB or RGBA [..., channels] uint8 -> [..., 3], over a grey background.

    The number of channels may be known only at run time.
    """
    if pixels.shape.rank is not None and pixels.shape[-1] == 3:
        return pixels
    has_alpha = tf.shape(pixels)[-1] % 2 == 0
    opaque = tf.cond(has_alpha, lambda: _over(pixels, background), lambda: pixels)
    rgb = tf.cond(tf.shape(opaque)[-1] == 1, lambda: tf.repeat(opaque, 3, axis=-1), lambda: opaque)
    leading = [None, None] if pixels.shape.rank is None else pixels.shape[:-1]
    return tf.ensure_shape(rgb, [*leading, 3])


def _over(pixels: tf.Tensor, background: int) -> tf.Tensor:
    color = tf.cast(pixels[..., :-1], tf.float32)
    alpha = tf.cast(pixels[..., -1:], tf.float32) / 255.0
    behind = tf.cast(background, tf.float32) * (1.0 - alpha)
    return tf.cast(tf.round(color * alpha + behind), tf.uint8)


def image_size(image: tf.Tensor) -> tf.Tensor:
    """Height and width, [2] int32, of pixels, or of what `decode_image` makes of a file's bytes."""
    if image.dtype != tf.string:
        return tf.shape(image)[-3:-1]
    seen = inspect(image)
    with tf.control_dependencies(_refuse(seen)):
        size = tf.cast(seen.size, tf.int32)
    return tf.where(seen.orientation >= 5, size[::-1], size)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def inspect(contents: tf.Tensor) -> Seen:
    """Reads what is needed to know before an image is decoded: scalar string tensor -> `Seen`.

    A hundred bytes can claim any size, and decoders allocate what the header says. Of a GIF all
    frames would be decoded, each with a size of its own, so it is cut after the first. TensorFlow
    2.21 aborts the process on an animated WebP, so that is refused.
    """
    # Their first two bytes differ; the decoders look at the others.
    matches = tf.strings.substr(contents, 0, 2) == [of.magic[:2] for of in FORMATS]
    index = tf.argmax(tf.concat([matches, [True]], 0), output_type=tf.int32)
    looks = (*(of.look for of in FORMATS), formats.other)
    seen = tf.switch_case(index, [lambda look=look: look(contents) for look in looks])
    pixels = tf.reduce_prod(tf.minimum(seen.size, _TOO_MANY))
    too_large = tf.strings.join([_TOO_LARGE.format(MAX_PIXELS), tf.strings.as_string(pixels), "."])
    is_too_large = (pixels > MAX_PIXELS) & (seen.refusal == "")
    return seen._replace(refusal=tf.where(is_too_large, too_large, seen.refusal), format=index)


def _refuse(seen: Seen) -> list[tf.Operation]:
    """Fails with the reason why an image should not be decoded."""
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(seen.refusal == "", [seen.refusal])]
    if reason := seen.refusal.numpy():
        raise tf.errors.InvalidArgumentError(None, None, reason.decode())
    return []


def _decode_any(contents: tf.Tensor, background: Any, upright: Any) -> tf.Tensor:
    seen = inspect(contents)
    with tf.control_dependencies(_refuse(seen)):
        seen = seen._replace(contents=tf.identity(seen.contents))
    decoders = [of.decode or (lambda seen, _: formats.decode(seen.contents)) for of in FORMATS]
    pixels = tf.switch_case(seen.format, [lambda of=of: of(seen, background) for of in decoders])
    return exif.turn(to_rgb(pixels, background), tf.where(upright, seen.orientation, 1))


_decode_any_apart = exif.apart(
    tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.bool)
)(_decode_any)

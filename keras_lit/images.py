"""Encoded images to RGB pixels."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lit.image_headers import check_size, header, png_size

Function = Callable[[tf.Tensor], Any]


def decode_image(contents: tf.Tensor, background: int = 255) -> tf.Tensor:
    """Decodes an encoded image to RGB.

    Takes JPEG (grey and CMYK included), PNG (also grey, palette, 16-bit), BMP, WebP and the first
    frame of a GIF, of up to 67 megapixels (`image_headers.MAX_PIXELS`). Transparent pixels are
    composited over `background`. EXIF orientation is not applied, as in the reference
    implementations.

    Args:
        contents: scalar string tensor, the bytes of a file.
        background: int in 0..255, the grey (255 = white) behind transparent pixels.

    Returns:
        [height, width, 3] uint8 tensor.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image of these formats, or one that
            is too large, by its header; then nothing is decoded.

    Example:

    >>> png = tf.io.encode_png(tf.zeros([2, 3, 4], tf.uint8))  # wholly transparent
    >>> keras_lit.images.decode_image(png).numpy().min()
    np.uint8(255)
    """
    contents = check_size(contents)
    return to_rgb(tf.io.decode_image(contents, channels=0, expand_animations=False), background)


def decode_mask(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an encoded mask of 0 and 1 to black and white: scalar string -> [h, w, 1] uint8."""
    return tf.io.decode_image(contents, channels=1, expand_animations=False) * 255


def to_rgb(pixels: tf.Tensor, background: int = 255) -> tf.Tensor:
    """Makes RGB of grey, grey + alpha, RGB or RGBA pixels.

    Args:
        pixels: [..., channels] uint8 tensor with 1 to 4 channels (may be known only at run time).
        background: int in 0..255, the grey behind transparent pixels.

    Returns:
        [..., 3] uint8 tensor.
    """
    if pixels.shape.rank is not None and pixels.shape[-1] == 3:
        return pixels

    channels = tf.shape(pixels)[-1]

    def composite() -> tf.Tensor:
        color = tf.cast(pixels[..., :-1], tf.float32)
        alpha = tf.cast(pixels[..., -1:], tf.float32) / 255.0
        return tf.cast(tf.round(color * alpha + background * (1.0 - alpha)), tf.uint8)

    opaque = tf.cond(channels % 2 == 0, composite, lambda: pixels)
    rgb = tf.cond(tf.shape(opaque)[-1] == 1, lambda: tf.repeat(opaque, 3, axis=-1), lambda: opaque)
    leading = [None, None] if pixels.shape.rank is None else pixels.shape[:-1]
    return tf.ensure_shape(rgb, [*leading, 3])


def decodes(contents: tf.Tensor) -> tf.Tensor:
    """Whether an encoded image decodes: scalar string tensor -> scalar bool tensor, in a graph."""
    return first_that_works(lambda c: tf.size(decode_image(c)) > 0, lambda _: False, contents)


def first_that_works(attempt: Function, otherwise: Function, images: tf.Tensor) -> Any:
    """What `attempt(images)` gives in a graph; when that fails, what `otherwise(images)` does.

    A graph has no try/except; a one-element dataset that drops errors and is followed by another
    element is one. The second is computed only when it is needed, so that a batch costs no more.
    """
    whole = tf.data.Dataset.from_tensors(images)
    both = whole.map(attempt).ignore_errors(log_warning=False).concatenate(whole.map(otherwise))
    return both.take(1).get_single_element()


def image_size(image: tf.Tensor) -> tf.Tensor:
    """Height and width, of a JPEG or PNG without decoding it.

    Args:
        image: scalar string tensor, the bytes of a file; or [height, width, channels] pixels.

    Returns:
        [2] int32 tensor.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image.

    Example:

    >>> keras_lit.images.image_size(tf.io.encode_png(tf.zeros([2, 3, 1], tf.uint8))).numpy()
    array([2, 3], dtype=int32)
    """
    if image.dtype != tf.string:
        return tf.shape(image)[-3:-1]
    start = tf.strings.substr(image, 0, 4)
    return tf.case(
        [
            (
                tf.strings.substr(start, 0, 3) == b"\xff\xd8\xff",
                lambda: tf.io.extract_jpeg_shape(image)[:2],
            ),
            (start == b"\x89PNG", lambda: tf.cast(png_size(header(image)), tf.int32)),
        ],
        default=lambda: tf.shape(decode_image(image))[:2],
    )

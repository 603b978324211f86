"""Encoded images to RGB pixels: one table of formats, sizes read before memory is spent on them."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

MAX_PIXELS = 2**26
# A GIF's first frame of up to 16 MB; each step takes some microseconds.
_MAX_GIF_BLOCKS = 2**16
# Encoders write some ten; each pass over all pixels costs an attacker a few bytes.
_MAX_JPEG_SCANS = 100
_TOO_MANY = 2**62


def decode_image(contents: tf.Tensor, background: int = 255) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP, WebP or the first frame of a GIF to RGB.

    Grey, CMYK, palettes and 16 bits included; up to 67 megapixels (`MAX_PIXELS`). EXIF orientation
    is not applied, as in the reference implementations.

    Args:
        contents: scalar string tensor, the bytes of a file.
        background: int in 0..255, the grey (255 = white) behind transparent pixels.

    Returns:
        [height, width, 3] uint8 tensor.

    Raises:
        tf.errors.InvalidArgumentError: another format, or too large by its header (nothing is
            decoded then).

    Example:

    >>> png = tf.io.encode_png(tf.zeros([2, 3, 4], tf.uint8))  # wholly transparent
    >>> decode_image(png).numpy().min()
    np.uint8(255)
    """
    contents = check_size(contents)
    return to_rgb(tf.io.decode_image(contents, channels=0, expand_animations=False), background)


def decode_mask(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an encoded mask of 0 and 1 to black and white: scalar string -> [h, w, 1] uint8."""
    return tf.io.decode_image(contents, channels=1, expand_animations=False) * 255


def to_rgb(pixels: tf.Tensor, background: int = 255) -> tf.Tensor:
    """Grey, grey + alpha, RGB or RGBA [..., channels] uint8 -> [..., 3], over a grey background.

    The number of channels may be known only at run time.
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


def image_size(image: tf.Tensor) -> tf.Tensor:
    """Height and width, [2] int32, of pixels or of a file's bytes; a JPEG or PNG is not decoded."""
    if image.dtype != tf.string:
        return tf.shape(image)[-3:-1]
    jpeg = tf.strings.substr(image, 0, 3) == b"\xff\xd8\xff"
    png = tf.strings.substr(image, 0, 4) == b"\x89PNG"
    return tf.case(
        [
            (jpeg, lambda: tf.io.extract_jpeg_shape(image)[:2]),
            (png, lambda: tf.cast(_png_size(_header(image)), tf.int32)),
        ],
        default=lambda: tf.shape(decode_image(image))[:2],
    )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def check_size(contents: tf.Tensor) -> tf.Tensor:
    """Passes a file's bytes on, and fails when they are an image of more than `MAX_PIXELS` pixels.

    A hundred bytes can claim any size, and decoders allocate what the header says. Of a GIF all
    frames would be decoded, each with a size of its own, so it is cut after the first. TensorFlow
    2.21 aborts the process on an animated WebP, so that is refused. Bytes of no known format pass.
    """
    head = _header(contents)
    matches = [
        tf.reduce_all(head[: len(of.magic)] == tf.constant(list(of.magic), tf.int64))
        for of in FORMATS
    ]
    index = tf.argmax([*matches, True], output_type=tf.int32)
    branches = [lambda of=of: of.measure(head, contents) for of in FORMATS]
    pixels, contents = tf.switch_case(
        index, [*branches, lambda: (tf.constant(0, tf.int64), contents)]
    )
    message = (
        f"An image should have at most {MAX_PIXELS:,} pixels: shrink it. Received pixels, by its "
        "header:"
    )
    with tf.control_dependencies([tf.debugging.Assert(pixels <= MAX_PIXELS, [message, pixels])]):
        return tf.identity(contents)


def _header(contents: tf.Tensor) -> tf.Tensor:
    """The first 32 bytes of a file, zeros where it ends: scalar string -> [32] int64."""
    start = tf.strings.join([tf.strings.substr(contents, 0, 32), tf.constant(b"\0" * 32)])
    return tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int64)[:32]


def _png_size(head: tf.Tensor) -> tf.Tensor:
    """Height and width by a PNG's `_header`: [32] int64 -> [2] int64."""
    return tf.stack([_number(head[20:24][::-1]), _number(head[16:20][::-1])])


def _png(head: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.reduce_prod(_png_size(head)), contents


def _jpeg(head: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.image.extract_jpeg_shape(contents, tf.int64)
    data = tf.io.decode_raw(contents, tf.uint8)
    scans = tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA))
    message = f"A JPEG should have at most {_MAX_JPEG_SCANS} scans. Received:"
    with tf.control_dependencies([tf.debugging.Assert(scans <= _MAX_JPEG_SCANS, [message, scans])]):
        return shape[0] * shape[1], tf.identity(contents)


def _bmp(head: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height = tf.cast(tf.bitcast(tf.cast(_number(head[22:26]), tf.uint32), tf.int32), tf.int64)
    return _number(head[18:22]) * tf.abs(height), contents


def _webp(head: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    extended = (_number(head[24:27]) + 1) * (_number(head[27:30]) + 1)
    lossy = (_number(head[26:28]) % 2**14) * (_number(head[28:30]) % 2**14)
    bits = _number(head[21:25])
    lossless = (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1)
    kind = head[15]  # The last letter of "VP8X", "VP8L", "VP8 ".
    pixels = tf.where(kind == ord("X"), extended, tf.where(kind == ord("L"), lossless, lossy))
    animated = (kind == ord("X")) & (head[20] // 2 % 2 == 1)
    message = "A WebP should not be animated. Pass its first frame."
    with tf.control_dependencies([tf.debugging.Assert(~animated, [message])]):
        return tf.identity(pixels), contents


def _gif(head: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walks over a GIF's blocks to the end of its first frame."""
    data = tf.io.decode_raw(contents, tf.uint8)
    size = tf.size(data)

    def byte(position: tf.Tensor) -> tf.Tensor:
        found = data[tf.minimum(position, size - 1)]
        return tf.where(position < size, tf.cast(found, tf.int32), 0)

    def table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def step(position: tf.Tensor, inside: tf.Tensor, frame: tf.Tensor, done: tf.Tensor) -> tuple:
        """`inside`: at the length of a sub-block; `frame`: where the first frame begins, or -1."""
        value = byte(position)
        extension = ~inside & (value == 0x21)
        begins = ~inside & (value == 0x2C)
        # An extension: its label; a frame: its size, colours and code size; then sub-blocks.
        length = tf.where(begins, 11 + table(byte(position + 9)), tf.where(extension, 2, 0))
        ends = inside & (value == 0) & (frame >= 0)
        return (
            position + tf.where(inside, value + 1, length),
            (inside & (value != 0)) | extension | begins,
            tf.where(begins, position, frame),
            ends | ~(inside | extension | begins),
        )

    start = 13 + table(byte(tf.constant(10)))
    end, _, frame, done = tf.while_loop(
        lambda position, inside, frame, done: ~done & (position < size),
        step,
        (start, tf.constant(False), tf.constant(-1), tf.constant(False)),
        maximum_iterations=_MAX_GIF_BLOCKS,
        parallel_iterations=1,
    )
    end = tf.minimum(end, size)
    width, height = (
        tf.cast(byte(frame + at) + 256 * byte(frame + at + 1), tf.int64) for at in (5, 7)
    )
    pixels = tf.where(frame >= 0, width * height, 0)
    pixels = tf.where(done | (end == size), pixels, _TOO_MANY)
    return pixels, tf.strings.join([tf.strings.substr(contents, 0, end), tf.constant(b";")])


def _number(little_endian: tf.Tensor) -> tf.Tensor:
    """Up to four bytes as one int64."""
    return tf.reduce_sum(little_endian * 256 ** tf.range(tf.size(little_endian, tf.int64)))


class Format(NamedTuple):
    """An image format that `tf.io.decode_image` reads."""

    name: str
    suffixes: tuple[str, ...]  # Lower case.
    magic: bytes  # What its files begin with.
    # From `_header` and contents to the number of pixels, and the contents to decode.
    measure: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), b"\xff\xd8\xff", _jpeg),
    Format("PNG", (".png",), b"\x89PNG", _png),
    Format("WebP", (".webp",), b"RIFF", _webp),
    Format("GIF", (".gif",), b"GIF8", _gif),
    Format("BMP", (".bmp",), b"BM", _bmp),
)
SUFFIXES = tuple(suffix for of in FORMATS for suffix in of.suffixes)

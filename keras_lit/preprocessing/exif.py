"""EXIF's orientation by TensorFlow ops, so that an exported model turns pictures, too.

Where it stands in JPEG, PNG and WebP; XMP is not read.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_lit import internals

_LONGEST = 2**16  # of a TIFF header with its first directory: a JPEG's segment has no room for more
_ORIENTATION, _LONG = 0x0112, 4
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
# Segments of a JPEG; those of profiles and previews included, cameras write some twenty.
_MAX_SEGMENTS = 2**10


def apart(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    """Makes a function one node of the graph: it costs nothing for pictures that do not need it,
    and is not optimised at the start of an epoch.
    """
    return tf.function(
        input_signature=signature or None,
        autograph=False,
        experimental_attributes=internals.APART,
    )


def turn(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors [h, w, 3] pixels as EXIF's orientation says, 1 to 8.

    The values by what is done: 2, 3, 4 mirror left to right, both ways, upside down; 5 transposes;
    6, 7, 8 do what 2, 3, 4 do to the transposed picture.
    """

    turned = tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels)
    return tf.ensure_shape(turned, [None, None, 3])


@apart(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32))
def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    right = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    mirrors = (orientation - 1) % 4
    across = tf.where((mirrors == 1) | (mirrors == 2), -1, 1)
    down = tf.where(mirrors >= 2, -1, 1)
    return right[::down, ::across]


@apart(tf.TensorSpec([], tf.string))
def of_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """The orientation in EXIF data, 1 if none: scalar string from "II" or "MM" on -> int32."""
    inside = tf.strings.substr(tiff, 0, 6) == b"Exif\0\0"  # Some writers keep JPEG's prefix.
    tiff = tf.strings.substr(tiff, tf.where(inside, 6, 0), _LONGEST)
    data = tf.io.decode_raw(tf.strings.join([tiff, b"\0" * 16]), tf.uint8)
    big_endian = data[0] == ord("M")

    def number(values: tf.Tensor, count: int) -> tf.Tensor:
        places = tf.constant([256**i for i in range(count)], tf.int64)
        places = tf.where(big_endian, places[::-1], places)
        return tf.reduce_sum(tf.cast(values, tf.int64) * places, -1)

    start = tf.minimum(number(data[4:8], 4), _length(tiff))
    entries = data[start + 2 : start + 2 + 12 * number(data[start : start + 2], 2)]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    entry = tf.boolean_mask(entries, number(entries[:, :2], 2) == _ORIENTATION)[:1]
    is_long = number(entry[:, 2:4], 2) == _LONG
    found = tf.where(is_long, number(entry[:, 8:12], 4), number(entry[:, 8:10], 2))
    found = tf.reduce_sum(tf.where((found >= 1) & (found <= 8), found, 1) - 1) + 1
    start = tf.strings.substr(tiff, 0, 4)
    is_tiff = (start == b"II*\0") | (start == b"MM\0*")
    return tf.where(is_tiff, tf.cast(found, tf.int32), 1)


def of_chunk(contents: tf.Tensor, name: bytes, skip: int) -> tf.Tensor:
    """The orientation in the first chunk of this name, `skip` bytes behind its name; 1 if none."""

    def read() -> tf.Tensor:
        start = tf.minimum(at + len(name) + skip, length)
        return of_tiff(tf.strings.substr(contents, start, _LONGEST))

    at, length = find(contents, name), tf.strings.length(contents)
    return tf.cond(at < length, read, lambda: 1)


def find(contents: tf.Tensor, word: bytes) -> tf.Tensor:
    """Where `word` first stands in `contents`, or their length: scalar string -> scalar int32."""
    return tf.strings.length(tf.strings.regex_replace(contents, word + rb"\C*", "", False))


def is_plain(contents: tf.Tensor, max_scans: int) -> tf.Tensor:
    """Whether a JPEG has neither APP1 segments nor bytes like many scans."""
    _, codes = _marks(contents)
    scans = tf.math.count_nonzero(codes == _SOS, dtype=tf.int32)
    return (scans <= max_scans) & ~tf.reduce_any(codes == _APP1)


def _marks(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where a JPEG has the byte 0xFF, and which bytes follow."""
    data = tf.io.decode_raw(contents, tf.uint8)
    marks = tf.where(data[:-1] == 0xFF)[:, 0]
    return marks, tf.gather(data, marks + 1)


def of_jpeg(contents: tf.Tensor, max_scans: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The orientation of a JPEG, and how many scans it has (exactly, if more than `max_scans`).

    Only a file that has APP1 segments, or bytes like many scans (such as a video behind the
    picture), is walked from segment to segment.
    """
    marks, codes = _marks(contents)
    scans = tf.math.count_nonzero(codes == _SOS, dtype=tf.int32)
    return tf.cond(
        (scans > max_scans) | tf.reduce_any(codes == _APP1),
        lambda: _walk(contents, marks, codes, max_scans, scans > max_scans),
        lambda: (1, scans),
    )


@apart(
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None], tf.uint8),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.bool),
)
def _walk(
    contents: tf.Tensor,
    marks: tf.Tensor,
    codes: tf.Tensor,
    max_scans: tf.Tensor,
    to_the_end: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Orientation and number of scans, from segment to segment, on request to the end."""
    # As in libjpeg, other bytes between segments, and restarts in a scan, are passed over.
    real = (codes >= 0xC0) & ((codes < 0xD0) | (codes > 0xD7)) & (codes < 0xFF)
    marks, codes = tf.boolean_mask(marks, real), tf.boolean_mask(codes, real)
    ends = _length(contents)

    def text(at: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return tf.strings.substr(contents, tf.minimum(at, ends), count)

    def step(index: tf.Tensor, scans: tf.Tensor, exif: tf.Tensor, done: tf.Tensor) -> tuple:
        """`exif`: where and how long the data of the first EXIF segment are."""
        at, code = marks[index], codes[index]
        begins = tf.strings.join([text(at + 2, tf.constant(8, tf.int64)), b"\0\0"])
        size = tf.cast(tf.io.decode_raw(tf.strings.substr(begins, 0, 2), tf.uint8), tf.int64)
        length = size[0] * 256 + size[1]
        is_exif = (code == _APP1) & (tf.strings.substr(begins, 2, 6) == b"Exif\0\0")
        exif = tf.where(is_exif & (exif[0] < 0), [at + 10, tf.maximum(length - 8, 0)], exif)
        scans += tf.cast(code == _SOS, tf.int32)
        index = tf.reduce_sum(tf.cast(marks < at + 2 + length, tf.int32))
        enough = ~to_the_end & ((exif[0] >= 0) | (scans > 0))
        ended = (code == _EOI) | (index == tf.size(marks)) | (scans > max_scans)
        return index, scans, exif, enough | ended

    _, scans, exif, done = tf.while_loop(
        lambda index, scans, exif, done: ~done,
        step,
        (1, 0, tf.constant([-1, 0], tf.int64), tf.size(marks) < 2),  # Behind the start of image.
        maximum_iterations=_MAX_SEGMENTS,
        parallel_iterations=1,
    )
    orientation = tf.cond(exif[0] >= 0, lambda: of_tiff(text(exif[0], exif[1])), lambda: 1)
    return orientation, tf.where(done, scans, max_scans + 1)


def _length(text: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(text), tf.int64)

"""The image formats that are read: what their headers say, and what TensorFlow decodes wrongly."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_lit.preprocessing import exif

# A GIF's first frame of up to 16 MB; each step takes some microseconds.
_MAX_GIF_BLOCKS = 2**16
# Encoders write some ten; each pass over all pixels costs an attacker a few bytes.
_MAX_JPEG_SCANS = 100
_BIT_FIELDS = 3
_PNG_HEADER = 33  # bytes; the 26th says which colours
_PNG_ALPHA = (b"\x04", b"\x06")
# How an image is decoded: to three colours; to four, over a background; by its format's own way.
OPAQUE, TRANSPARENT, UNUSUAL = range(3)
# Common formats that are not read: the name, and which bytes are where.
_OTHERS = (
    ("a JPEG XL", 0, b"\xff\x0a"),
    ("a JPEG XL", 4, b"JXL "),
    ("a HEIC or AVIF", 4, b"ftyp"),
    ("a TIFF", 0, b"II*\0"),
    ("a TIFF", 0, b"MM\0*"),
    ("text, as of a web page or an SVG", 0, b"<"),
    ("a pointer of Git LFS: `git lfs pull` fetches the file", 0, b"version https://git-lfs"),
)


class Seen(NamedTuple):
    """What an image's bytes say before anything is decoded."""

    size: tf.Tensor  # [2] int64, height and width as stored.
    contents: tf.Tensor  # What to decode.
    refusal: Any = ""  # Why not to, a sentence.
    orientation: Any = 1  # EXIF's, 1 to 8.
    format: Any = 0  # The row of `FORMATS`.
    blocks: Any = (0, 0)  # Where a GIF's graphic control extension (0: none) and frame begin.


def _header(contents: tf.Tensor) -> tf.Tensor:
    """The first 72 bytes of a file, zeros where it ends: scalar string -> [72] int64."""
    return tf.cast(tf.io.decode_raw(contents, tf.uint8, fixed_length=72), tf.int64)


def _begins(head: tf.Tensor, magic: bytes, at: int = 0) -> tf.Tensor:
    return tf.reduce_all(head[at : at + len(magic)] == tf.constant(list(magic), tf.int64))


@exif.apart(tf.TensorSpec([], tf.string))
def other(contents: tf.Tensor) -> Seen:
    """Refuses by name what is in no row of `FORMATS`."""
    head = _header(contents)
    kinds = tf.constant(["nothing", *(name for name, _, _ in _OTHERS), "another format"])
    matches = [tf.strings.length(contents) == 0, *(_begins(head, m, at) for _, at, m in _OTHERS)]
    kind = kinds[tf.argmax([*matches, True])]
    message = "An image should be JPEG, PNG, WebP, GIF or BMP: save it as one of them. Received: "
    return Seen(tf.zeros([2], tf.int64), contents, tf.strings.join([message, kind, "."]))


@exif.apart(tf.TensorSpec([], tf.string))
def _png(contents: tf.Tensor) -> Seen:
    return Seen(_png_size(contents), contents, orientation=exif.of_chunk(contents, b"eXIf", 0))


def _png_size(contents: tf.Tensor) -> tf.Tensor:
    words = tf.io.decode_raw(contents, tf.int32, little_endian=False, fixed_length=24)
    return tf.cast(tf.bitcast(words[5:3:-1], tf.uint32), tf.int64)


@exif.apart()
def _decode_png(seen: Seen, background: tf.Tensor) -> tf.Tensor:
    """TensorFlow sees a transparent colour (tRNS) only where it is asked for an alpha channel."""
    return tf.cond(
        exif.find(seen.contents, b"tRNS") == tf.strings.length(seen.contents),
        lambda: decode(seen.contents),
        lambda: tf.io.decode_png(seen.contents, channels=4),
    )


def _jpeg(contents: tf.Tensor) -> Seen:
    shape = tf.image.extract_jpeg_shape(contents, tf.int64)
    orientation, scans = exif.of_jpeg(contents, _MAX_JPEG_SCANS)
    message = f"A JPEG should have at most {_MAX_JPEG_SCANS} scans: save it again. Received: more."
    refusal = tf.where(scans > _MAX_JPEG_SCANS, message, "")
    return Seen(shape[:2], contents, refusal, orientation)


def kind(contents: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """`OPAQUE` or `TRANSPARENT` for JPEGs and PNGs as most are, `UNUSUAL` for a closer look."""

    def of_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(contents, tf.int64)
        is_small = (shape[2] == 3) & (shape[0] * shape[1] <= max_pixels)
        return tf.where(is_small & exif.is_plain(contents, _MAX_JPEG_SCANS), OPAQUE, UNUSUAL)

    def of_png() -> tf.Tensor:
        size, length = _png_size(contents), tf.strings.length(contents)
        is_small = tf.reduce_all(size <= max_pixels) & (tf.reduce_prod(size) <= max_pixels)
        is_upright = exif.find(contents, b"eXIf") == length
        has_alpha = tf.reduce_any(tf.strings.substr(contents, 25, 1) == _PNG_ALPHA)
        has_alpha |= exif.find(contents, b"tRNS") < length
        known = tf.where(has_alpha, TRANSPARENT, OPAQUE)
        return tf.where(is_small & is_upright, known, UNUSUAL)

    is_jpeg = tf.strings.substr(contents, 0, 3) == FORMATS[0].magic
    is_png = tf.strings.substr(contents, 0, 4) == FORMATS[1].magic
    is_png &= tf.strings.length(contents) >= _PNG_HEADER
    index = tf.where(is_jpeg, 0, tf.where(is_png, 1, 2))
    return tf.switch_case(index, [of_jpeg, of_png, lambda: tf.constant(UNUSUAL)])


@exif.apart(tf.TensorSpec([], tf.string))
def _bmp(contents: tf.Tensor) -> Seen:
    head = _header(contents)
    height = tf.cast(tf.bitcast(tf.cast(_number(head[22:26]), tf.uint32), tf.int32), tf.int64)
    is_old, length = head[14] < 40, _number(head[14:18])
    bits = tf.where(is_old, _number(head[24:26]), _number(head[28:30]))
    packing = tf.where(is_old, tf.constant(0, tf.int64), _number(head[30:34]))
    masks = tf.reduce_all(head[54:66] == [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])
    plain = (packing == 0) & ((bits == 8) | (bits == 24) | (bits == 32))
    reads = ~is_old & (plain | ((packing == _BIT_FIELDS) & (bits == 32) & masks))
    message = (
        "A BMP should have a header of at least 40 bytes and 8, 24 or 32 bits a pixel, not packed: "
        "save it as PNG. Received: {} bytes, {} bits, packing {}."
    )
    refusal = tf.strings.format(message, (length, bits, packing))
    size = tf.stack([tf.abs(height), _number(head[18:22])])
    return Seen(size, contents, tf.where(reads, "", refusal))


@exif.apart()
def _decode_bmp(seen: Seen, background: tf.Tensor) -> tf.Tensor:
    """TensorFlow takes a palette's colours for greys, and what fills up 32 bits for alpha."""
    head, pixels = _header(seen.contents), decode(seen.contents)

    def of_palette() -> tf.Tensor:
        start, end = 14 + _number(head[14:18]), _number(head[10:14])
        colors = tf.strings.substr(seen.contents, start, tf.minimum(end - start, 1024))
        colors = tf.io.decode_raw(colors, tf.uint8, fixed_length=1024)
        palette = tf.reshape(colors, [256, 4])[:, 2::-1]
        return tf.gather(palette, tf.cast(pixels[..., 0], tf.int32))

    def of_four() -> tf.Tensor:
        masked = (_number(head[30:34]) == _BIT_FIELDS) & (_number(head[14:18]) >= 56)
        alpha = masked & (_number(head[66:70]) == 0xFF000000) & tf.reduce_any(pixels[..., 3] > 0)
        return tf.cond(alpha, lambda: pixels, lambda: pixels[..., :3])

    bits = _number(head[28:30])
    return tf.cond(bits == 8, of_palette, lambda: tf.cond(bits == 32, of_four, lambda: pixels))


@exif.apart(tf.TensorSpec([], tf.string))
def _webp(contents: tf.Tensor) -> Seen:
    head = _header(contents)
    extended = [_number(head[27:30]) + 1, _number(head[24:27]) + 1]
    lossy = [_number(head[28:30]) % 2**14, _number(head[26:28]) % 2**14]
    bits = _number(head[21:25])
    lossless = [bits // 2**14 % 2**14 + 1, bits % 2**14 + 1]
    kind = head[15]  # The last letter of "VP8X", "VP8L", "VP8 ".
    size = tf.where(kind == ord("X"), extended, tf.where(kind == ord("L"), lossless, lossy))
    flags = tf.where(kind == ord("X"), head[20], 0)
    has_exif = flags // 8 % 2 == 1
    orientation = tf.cond(has_exif, lambda: exif.of_chunk(contents, b"EXIF", 4), lambda: 1)
    message = "A WebP should not be animated: pass its first frame."
    refusal = tf.where(flags // 2 % 2 == 1, message, "")
    message = "A file that begins with RIFF should be a WebP. Received: a sound, film or other."
    return Seen(size, contents, tf.where(_begins(head, b"WEBP", 8), refusal, message), orientation)


@exif.apart(tf.TensorSpec([], tf.string))
def _gif(contents: tf.Tensor) -> Seen:
    """Walks over a GIF's blocks to the end of its first frame."""
    head, data = _header(contents), tf.io.decode_raw(contents, tf.uint8)
    size = tf.size(data)

    def byte(position: tf.Tensor) -> tf.Tensor:
        found = data[tf.minimum(position, size - 1)]
        return tf.where(position < size, tf.cast(found, tf.int32), 0)

    def table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def step(
        position: tf.Tensor,
        inside: tf.Tensor,
        control: tf.Tensor,
        frame: tf.Tensor,
        done: tf.Tensor,
    ) -> tuple:
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
            tf.where(extension & (byte(position + 1) == 0xF9) & (frame < 0), position, control),
            tf.where(begins, position, frame),
            ends | ~(inside | extension | begins),
        )

    start = 13 + table(byte(tf.constant(10)))
    end, _, control, frame, done = tf.while_loop(
        lambda position, inside, control, frame, done: ~done & (position < size),
        step,
        (start, tf.constant(False), tf.constant(0), tf.constant(-1), tf.constant(False)),
        maximum_iterations=_MAX_GIF_BLOCKS,
        parallel_iterations=1,
    )
    end = tf.minimum(end, size)
    top, left, height, width = (
        tf.cast(byte(frame + at) + 256 * byte(frame + at + 1), tf.int64) for at in (3, 1, 7, 5)
    )
    # Programs show a frame that reaches beyond the screen whole.
    full = tf.maximum([_number(head[8:10]), _number(head[6:8])], [top + height, left + width])
    message = f"A GIF should have its first frame in the first {_MAX_GIF_BLOCKS:,} blocks. "
    return Seen(
        tf.where(frame >= 0, full, 0),
        tf.strings.join([tf.strings.substr(contents, 0, end), tf.constant(b";")]),
        tf.where(done | (end == size), "", message + "Received: more."),
        blocks=(control, tf.maximum(frame, 0)),
    )


@exif.apart()
def _decode_gif(seen: Seen, background: tf.Tensor) -> tf.Tensor:
    """TensorFlow shows transparent pixels black and ignores where on the screen a frame is.

    So their colour becomes the background's, in a palette of all 256 colours, and the frame goes
    to the corner for as long as it is decoded.
    """
    control, frame = tf.unstack(seen.blocks)
    behind = tf.constant([bytes([i] * 3) for i in range(256)])[background]

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(contents, at, 1), tf.uint8)[0], tf.int32)

    def spliced(text: tf.Tensor, at: tf.Tensor, count: tf.Tensor, by: Any) -> tf.Tensor:
        end = tf.strings.substr(text, at + count, 2**31 - 1)
        return tf.strings.join([tf.strings.substr(text, 0, at), by, end])

    def opaque() -> tf.Tensor:
        palette = tf.strings.substr(contents, start, count)
        palette = tf.strings.join([palette, tf.strings.reduce_join(tf.fill([256], behind))])
        palette = spliced(tf.strings.substr(palette, 0, 768), 3 * byte(control + 6), 3, behind)
        changed = spliced(contents, control + 3, 1, b"\0")
        of_frame = tf.where(byte(frame + 9) & 64 > 0, b"\xc7", b"\x87")  # interlaced or not
        changed = spliced(changed, start - where, 1, tf.where(local, of_frame, b"\xf7"))
        return spliced(changed, start, count, palette)

    contents = seen.contents
    left, top = (byte(frame + at) + 256 * byte(frame + at + 1) for at in (1, 3))
    contents = spliced(contents, frame + 1, 4, tf.constant(b"\0" * 4))
    local = byte(frame + 9) >= 128
    start, where = tf.where(local, frame + 10, 13), tf.where(local, 1, 3)
    flags = byte(start - where)
    count = 3 * 2 ** (flags % 8 + 1)
    transparent = (control > 0) & (byte(control + 3) % 2 == 1) & (flags >= 128)
    contents = tf.cond(transparent, opaque, lambda: contents)
    pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
    pixels = tf.ensure_shape(pixels, [None, None, 3])
    below, right = tf.unstack(tf.cast(seen.size, tf.int32) - tf.shape(pixels)[:2] - [top, left])
    return tf.pad(
        pixels, [[top, below], [left, right], [0, 0]], constant_values=tf.cast(background, tf.uint8)
    )


def decode(contents: tf.Tensor, channels: int = 0) -> tf.Tensor:
    """What TensorFlow makes of a file: [height, width, channels] uint8; 0: as many as it has."""
    pixels = tf.io.decode_image(contents, channels=channels, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, channels or None])


def _number(little_endian: tf.Tensor) -> tf.Tensor:
    """Up to four bytes as one int64."""
    places = tf.constant([256**i for i in range(little_endian.shape[0])], tf.int64)
    return tf.reduce_sum(little_endian * places)


class Format(NamedTuple):
    """An image format that is read."""

    name: str
    suffixes: tuple[str, ...]  # Lower case.
    magic: bytes  # What its files begin with.
    look: Callable[[tf.Tensor], Seen]  # From its contents.
    # From that and the background to pixels of 1 to 4 channels, if not `tf.io.decode_image`.
    decode: Callable[[Seen, tf.Tensor], tf.Tensor] | None = None


FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), b"\xff\xd8\xff", _jpeg),
    Format("PNG", (".png",), b"\x89PNG", _png, _decode_png),
    Format("WebP", (".webp",), b"RIFF", _webp),
    Format("GIF", (".gif",), b"GIF8", _gif, _decode_gif),
    Format("BMP", (".bmp",), b"BM", _bmp, _decode_bmp),
)
SUFFIXES = tuple(suffix for of in FORMATS for suffix in of.suffixes)
# Pictures that are none of these: named where they stand among others, not passed over.
NOT_READ = (
    *(".heic", ".heif", ".tif", ".tiff", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".ico"),
    *(".ppm", ".pgm", ".pnm", ".tga", ".dcm"),
)

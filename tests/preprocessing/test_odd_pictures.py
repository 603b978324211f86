"""Pictures as cameras, scanners and the web make them, against Pillow or a derivation by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.preprocessing.decoding import decode_image, image_size
from tests.preprocessing.test_decoding import encode, many_scans, noise

in_graph = tf.function(decode_image)
PICTURE = noise(9, 6)


def decode(contents, background=255):
    """In eager code, which a graph has to equal."""
    eager = decode_image(tf.constant(contents), background).numpy()
    np.testing.assert_array_equal(eager, in_graph(tf.constant(contents), background))
    assert tuple(image_size(tf.constant(contents)).numpy()) == eager.shape[:2]
    return eager


def tiff(orientation, order="<", kind=3, start=8):
    """EXIF data: two other tags, the orientation as a short (3) or long (4), another tag."""
    value = {3: "HH", 4: "I"}[kind]
    values = (orientation, 0)[: len(value)]
    entries = [struct.pack(order + "HHII", 0x10F + i, 4, 1, 0x0112_0003) for i in range(2)]
    entries.append(struct.pack(order + "HHI" + value, 0x112, kind, 1, *values))
    entries.append(struct.pack(order + "HHII", 0x131, 4, 1, 7))
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return head + struct.pack(order + "I", start) + bytes(start - 8) + directory


def segment(code, data):
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def exif(*arguments):
    return segment(0xE1, b"Exif\0\0" + tiff(*arguments))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


JPEG, PNG = encode(PICTURE, "JPEG", quality=95), encode(PICTURE, "PNG")
PREVIEW = segment(0xED, b"\xff\xd8" + exif(8) + b"\xff\xda\0\4\0\0\xff\xd9")
TABLES = JPEG.index(b"\xff\xdb")
# Name -> (file, orientation).
TURNED = {
    **{f"jpeg {i}": (JPEG[:2] + exif(i) + JPEG[2:], i) for i in range(1, 9)},
    "big-endian": (JPEG[:2] + exif(6, ">") + JPEG[2:], 6),
    "long": (JPEG[:2] + exif(7, "<", 4) + JPEG[2:], 7),
    "big-endian long, far": (JPEG[:2] + exif(5, ">", 4, 30) + JPEG[2:], 5),
    "after JFIF and XMP": (JPEG[:20] + segment(0xE1, b"http://x\0") + exif(6) + JPEG[20:], 6),
    "after tables": (JPEG[: TABLES + 69] + exif(3) + JPEG[TABLES + 69 :], 3),
    "a preview's": (JPEG[:2] + PREVIEW + JPEG[2:], 1),
    "a preview's first": (JPEG[:2] + PREVIEW + exif(6) + JPEG[2:], 6),
    "of a second picture": (JPEG + JPEG[:2] + exif(6) + JPEG[2:], 1),
    "no such orientation": (JPEG[:2] + exif(9) + JPEG[2:], 1),
    "cut off": (JPEG[:2] + segment(0xE1, b"Exif\0\0" + tiff(6)[:20]) + JPEG[2:], 1),
    "png": (PNG[:33] + chunk(b"eXIf", tiff(8)) + PNG[33:], 8),
    "png at the end": (PNG[:-12] + chunk(b"eXIf", tiff(5, ">")) + PNG[-12:], 5),
    "webp": (encode(PICTURE, "WEBP", lossless=True, exif=tiff(6)), 6),
}


@pytest.mark.parametrize("name", TURNED)
def test_pictures_are_turned_as_exif_says(name):
    contents, orientation = TURNED[name]
    as_stored = decode_image(contents, exif_orientation=False).numpy()
    assert as_stored.shape == (6, 9, 3)
    tagged = Image.fromarray(as_stored)
    tagged.getexif()[0x112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    np.testing.assert_array_equal(decode(contents), expected)


@pytest.mark.slow
def test_a_layer_turns_pictures_unless_told_or_older():
    contents = TURNED["jpeg 6"][0]
    upright = np.asarray(decode_image(contents))
    layer, stored = ImagePreprocessor(8), ImagePreprocessor(8, exif_orientation=False)
    np.testing.assert_array_equal(layer([contents])[0], layer(upright))
    np.testing.assert_array_equal(layer.with_valid(tf.constant([contents]))[0][0], layer(upright))
    assert not np.array_equal(stored(contents), layer(contents))
    for each in (layer, stored):
        again = ImagePreprocessor.from_config(each.get_config())
        np.testing.assert_array_equal(again(contents), each(contents))
    before = {k: v for k, v in layer.get_config().items() if k != "exif_orientation"}
    np.testing.assert_array_equal(ImagePreprocessor.from_config(before)(contents), stored(contents))


def bmp(bits, packing=0, header=40, masks=b"", palette=b"", data=None):
    """3 x 2 pixels."""
    data = data or bytes(range(1, 1 + 2 * ((3 * bits + 31) // 32 * 4)))
    start = 14 + max(header, 40 + len(masks)) + len(palette)
    fields = (header, 3, 2, 1, bits, packing, len(data), 0, 0, len(palette) // 4, 0)
    info = struct.pack("<IiiHHIIiiII", *fields) + masks
    info += bytes(start - 14 - len(palette) - len(info))
    return b"BM" + struct.pack("<III", start + len(data), 0, start) + info + palette + data


COLORS = np.random.default_rng(1).integers(0, 256, [256, 4]).astype("uint8").tobytes()
RGB = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
BMPS = {
    "palette": bmp(8, palette=COLORS),
    "palette of 16": bmp(8, palette=COLORS[:64]),
    "palette behind a long header": bmp(8, header=124, palette=COLORS),
    "32 bits": bmp(32),
    "32 bits, the last zero": bmp(32, data=bytes([1, 2, 3, 0] * 6)),
    "32 bits with masks": bmp(32, 3, masks=RGB),
}


@pytest.mark.parametrize("name", BMPS)
def test_bmps_as_pillow_reads_them(name):
    expected = np.asarray(Image.open(io.BytesIO(BMPS[name])).convert("RGB"))
    np.testing.assert_array_equal(decode(BMPS[name]), expected)


def test_a_bmp_with_an_alpha_channel():
    masks = RGB + struct.pack("<I", 0xFF000000)
    pixels = bytes([30, 20, 10, 0, 30, 20, 10, 51, 30, 20, 10, 255] * 2)
    # 51 / 255 = 0.2: 0.2 * 10 + 0.8 * 100 = 82, and so on.
    row = [[100, 100, 100], [82, 84, 86], [10, 20, 30]]
    found = decode(bmp(32, 3, 108, masks, data=pixels), background=100)
    np.testing.assert_array_equal(found, [row, row])
    # As browsers do: some programs write zeros there.
    found = decode(bmp(32, 3, 108, masks, data=bytes([30, 20, 10, 0] * 6)))
    np.testing.assert_array_equal(found, np.tile([10, 20, 30], [2, 3, 1]))


def gif(screen=(9, 6), corner=(0, 0), local=False, transparent=None):
    """9 x 6 pixels of 16 colours."""
    whole = encode(PICTURE.quantize(16), "GIF")
    palette, frame = whole[13:61], whole[whole.index(b",", 61) :]
    control = b"" if transparent is None else b"!\xf9\4\1\0\0" + bytes([transparent]) + b"\0"
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x03 if local else 0x83, 0, 0)
    middle = b"," + struct.pack("<HH", *corner) + frame[5:9]
    flags = bytes([frame[9] | (0x83 if local else 0)])
    tables = (b"", palette) if local else (palette, b"")
    return head + tables[0] + control + middle + flags + tables[1] + frame[10:]


@pytest.mark.parametrize("local", [False, True])
def test_transparent_pixels_of_a_gif_show_the_background(local):
    opaque = decode(gif(local=local))
    indices = np.asarray(PICTURE.quantize(16))
    expected = np.where(indices[..., None] == 5, 77, opaque)
    assert not np.array_equal(expected, opaque)
    np.testing.assert_array_equal(decode(gif(local=local, transparent=5), 77), expected)
    np.testing.assert_array_equal(decode(gif(local=local, transparent=255), 77), opaque)


def test_a_gif_smaller_than_its_screen_is_in_its_place():
    expected = np.full([20, 30, 3], 77)
    expected[4:10, 7:16] = decode(gif())
    np.testing.assert_array_equal(decode(gif((30, 20), (7, 4)), 77), expected)
    np.testing.assert_array_equal(decode(gif((3, 2))), decode(gif()))


def test_a_color_of_a_png_that_is_transparent():
    for mode, color in (("L", 7), ("RGB", (7, 8, 9))):
        picture = PICTURE.convert(mode)
        expected = np.array(picture.convert("RGB"))
        expected[0, 0] = 77
        picture.putpixel((0, 0), color)
        found = decode(encode(picture, "PNG", transparency=color), 77)
        np.testing.assert_array_equal(found, expected)


def test_a_video_behind_a_jpeg_does_not_count():
    video = b"\xff\xda" * 500
    np.testing.assert_array_equal(decode(JPEG + b"Motion" + video), decode(JPEG))
    hidden = many_scans(200)
    hidden = hidden[:2] + segment(0xED, b"\xff\xd9") + hidden[2:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 100 scans"):
        decode_image(hidden)


REFUSED = {
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "JPEG XL.": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "HEIC or AVIF": b"\0\0\0\x1cftypheic" + bytes(40),
    "TIFF": encode(PICTURE, "TIFF"),
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "nothing": b"",
    "a sound, film or other": b"RIFF\0\0\0\0WAVEfmt " + bytes(40),
    "40 bytes, 4 bits, packing 0": bmp(4, palette=COLORS[:64]),
    "40 bytes, 8 bits, packing 1": bmp(8, 1, palette=COLORS),
    "108 bytes, 32 bits, packing 3": bmp(32, 3, 108, RGB[::-1]),
    "12 bytes, 24 bits": b"BM" + struct.pack("<IIIIHHHH", 50, 0, 26, 12, 3, 2, 1, 24) + bytes(24),
}


def test_what_is_not_read_is_refused_by_name():
    for name, contents in REFUSED.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"Received: .*{name.rstrip('.')}"):
            decode_image(contents)
    moving = encode(PICTURE, "WEBP", save_all=True, append_images=[noise(9, 6, seed=1)])
    batch = tf.constant([JPEG, moving, JPEG[:-9]])
    reasons = r"b.webp: A WebP should not be animated.*c.jpg: It is cut off or damaged"
    with pytest.raises(tf.errors.InvalidArgumentError, match=reasons):
        ImagePreprocessor(8)(batch, names=tf.constant(["a.jpg", "b.webp", "c.jpg"]))


@pytest.mark.parametrize("shape", [(1, 300), (2, 301), (300, 1), (301, 3)])
def test_a_thin_picture_is_cropped_before_it_is_scaled(shape, monkeypatch):
    """The same as of the whole, up to one of its pixels; and of the whole nothing is made."""
    pixels = np.random.default_rng(2).integers(0, 256, [*shape, 3]).astype("uint8")
    factor = 16 / min(shape)
    size = [int(side * factor + 1e-3) for side in shape]
    whole = tf.image.resize(tf.cast(pixels, tf.float32), size).numpy()
    top, left = ((side - 16) // 2 for side in size)
    sizes, resize = [], tf.image.resize

    def noted(images, size, **options):
        sizes.append(size)
        return resize(images, size, **options)

    monkeypatch.setattr(tf.image, "resize", noted)
    layer = ImagePreprocessor(16, "crop", value_range="0..255")
    found = layer._resize(tf.constant(pixels)).numpy()
    assert max(int(side) for size in sizes for side in size) <= 17 * 16
    windows = [
        whole[max(top + y, 0) :, max(left + x, 0) :][:16, :16]
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    ]
    errors = [np.abs(found - w).max() for w in windows if w.shape == found.shape]
    assert min(errors) <= 1 + 255 * factor**-1


def test_random_crops_of_a_thin_padded_picture_need_no_huge_square(monkeypatch):
    sizes, pad = [], tf.pad

    def noted(tensor, paddings, **options):
        padded = pad(tensor, paddings, **options)
        sizes.append(padded.shape)
        return padded

    monkeypatch.setattr(tf, "pad", noted)
    layer = ImagePreprocessor(8, "pad", random_crop=(1.0, 1.0), background=0, value_range="0..255")
    found = layer._resize(tf.fill([1, 5000, 3], np.uint8(200)), tf.constant([1, 2]))
    assert sizes == [(128, 128, 3)] and found.shape == (8, 8, 3)


def test_wide_filters_of_a_flat_picture(monkeypatch):
    """They go down the columns first: 8 rows of 300 columns, if it is not narrowed before."""
    pixels = np.repeat(np.arange(0, 250, 50, dtype="uint8"), 60)[None, :, None].repeat(3, -1)
    resize, sizes = tf.image.resize, []
    expected = resize(pixels, [8, 5], antialias=True)

    def noted(images, size, **options):
        sizes.append([int(side) for side in size])
        return resize(images, size, **options)

    monkeypatch.setattr(tf.image, "resize", noted)
    layer = ImagePreprocessor((8, 5), antialias=True, value_range="0..255")
    np.testing.assert_allclose(layer._resize(tf.constant(pixels)), expected, atol=1)
    assert sizes == [[1, 5], [8, 5]]

"""Sizes from headers, of real files and of files that lie."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_lit.preprocessing import ImagePreprocessor, decoding, formats
from keras_lit.preprocessing.decoding import decode_image
from keras_lit.preprocessing.image import decodes


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(width, height, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, [height, width, 3]).astype("uint8")
    return Image.fromarray(values).convert(mode)


def png(width, height):
    """A PNG of a few bytes that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [header, b"IDAT" + zlib.compress(b"\0" * 99), b"IEND"]
    chunks = [struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width, height):
    small = bytearray(encode(noise(8, 8), "JPEG"))
    start = small.index(b"\xff\xc0")
    small[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(small)


def gif(width, height, frames=1):
    """Frames of this size on a screen of one pixel; all data of theirs missing."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\1\0\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame * frames + b";"


def bmp(width, height):
    small = bytearray(encode(noise(8, 8), "BMP"))
    small[18:26] = struct.pack("<ii", width, height)
    return bytes(small)


def webp(kind, width, height):
    data = {
        b"VP8X": struct.pack("<I", 0)
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3],
        b"VP8L": b"\x2f" + struct.pack("<I", (width - 1) % 2**14 | (height - 1) % 2**14 << 14),
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width % 2**16, height % 2**16),
    }[kind]
    return (
        b"RIFF"
        + struct.pack("<I", 12 + len(data))
        + b"WEBP"
        + kind
        + struct.pack("<I", len(data))
        + data
    )


TOO_LARGE = {
    "png": png(10_000, 10_000),
    "png wide": png(2**31 - 1, 1),
    "png square": png(2**31 - 1, 2**31 - 1),
    "jpeg": jpeg(65_500, 65_500),
    "gif": gif(65_535, 65_535),
    "bmp": bmp(30_000, 30_000),
    "bmp upside down": bmp(30_000, -30_000),
    "webp extended": webp(b"VP8X", 2**24, 2**24),
    "webp lossless": webp(b"VP8L", 2**14, 2**14),
    "webp lossy": webp(b"VP8 ", 16_383, 16_383),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_claims_to_be_large_is_refused_before_it_is_decoded(name, monkeypatch):
    monkeypatch.setattr(tf.io, "decode_image", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 67,108,864 pixels: shrink"):
        decode_image(TOO_LARGE[name])


@pytest.mark.parametrize(
    ("name", "contents"),
    {
        "png": encode(noise(300, 7), "PNG"),
        "jpeg": encode(noise(300, 7), "JPEG"),
        "progressive": encode(noise(300, 7), "JPEG", progressive=True),
        "bmp": encode(noise(300, 7), "BMP"),
        "gif": encode(noise(300, 7, "P"), "GIF"),
        "webp lossy": encode(noise(300, 7), "WEBP"),
        "webp lossless": encode(noise(300, 7), "WEBP", lossless=True),
        "webp extended": encode(noise(300, 7, "RGBA"), "WEBP", exif=b"Exif\0\0"),
    }.items(),
)
def test_the_limit_is_sharp(name, contents, monkeypatch):
    """300 x 7 pixels pass at a limit of 2,100 and not at 2,099: the size is read right."""

    def check(limit):
        monkeypatch.setattr(decoding, "MAX_PIXELS", limit)
        return decoding.inspect.python_function(tf.constant(contents)).refusal.numpy().decode()

    assert check(2100) == ""
    assert "at most 2,099 pixels" in check(2099) and "2100." in check(2099)


@pytest.mark.parametrize(
    "contents", [b"", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"\xff\xd8\xff", b"<svg/>"]
)
def test_headers_that_end_early_are_bad_images(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(contents)
    assert not decodes(tf.constant(contents))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_half_a_file_is_refused_in_one_sentence(kind):
    contents = encode(noise(300, 70), kind)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode_image(contents[: len(contents) // 2 if kind != "JPEG" else 100])
    assert caught.value.message == "An image does not decode. It is cut off or damaged."


def test_only_the_first_frame_of_a_gif_is_decoded():
    frames = [noise(30, 20, "P", seed) for seed in range(4)]
    moving = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"!" * 700)
    cut = decoding.inspect(tf.constant(moving)).contents.numpy()
    assert Image.open(io.BytesIO(moving)).n_frames == 4
    assert Image.open(io.BytesIO(cut)).n_frames == 1
    expected = np.asarray(Image.open(io.BytesIO(moving)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(moving), expected)


def test_a_frame_that_would_take_gigabytes_behind_a_small_one():
    small = encode(noise(5, 4, "P"), "GIF")
    bomb = small[:-1] + gif(65_535, 65_535)[13:]
    np.testing.assert_array_equal(decode_image(bomb), decode_image(small))


@pytest.mark.slow
def test_a_gif_of_endless_blocks_is_refused_in_bounded_time():
    endless = b"GIF89a" + bytes(7) + b"!\xfe" + b"\1!" * 2**17
    with pytest.raises(tf.errors.InvalidArgumentError, match="first frame in the first 65,536"):
        decode_image(endless)


def many_scans(count):
    """A progressive JPEG of 4 megapixels whose last scan comes again and again."""
    whole = encode(Image.new("L", (2048, 2048), 9), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def test_a_jpeg_of_endless_scans_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 100 scans: save it again"):
        decode_image(many_scans(2000))
    assert decode_image(many_scans(1)).shape == (2048, 2048, 3)


def test_an_animated_webp_is_refused():
    """TensorFlow 2.21's decoder would abort the process."""
    frames = [noise(30, 20, seed=seed) for seed in range(3)]
    moving = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(tf.errors.InvalidArgumentError, match="A WebP should not be animated"):
        decode_image(moving)


def test_a_batch_names_the_row_that_is_too_large():
    batch = tf.constant([encode(noise(9, 9), "PNG"), png(10_000, 10_000)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1\].*\.PNG.*67,108,864 pixels"):
        ImagePreprocessor(8)(batch)


def test_with_valid_blanks_the_bad_rows():
    good = [encode(noise(9, 9, seed=i), "PNG") for i in range(2)]
    preprocessor = ImagePreprocessor(8, background=7, value_range="0..255")
    pixels, valid = preprocessor.with_valid(tf.constant([good[0], b"?", good[1]]))
    np.testing.assert_array_equal(valid, [True, False, True])
    np.testing.assert_array_equal(pixels.numpy()[::2], preprocessor(good))
    assert (pixels.numpy()[1] == 7).all()
    pixels, valid = preprocessor.with_valid(tf.constant(good))
    assert valid.numpy().all()
    np.testing.assert_array_equal(pixels, preprocessor(good))


def most_are(mode):
    """A JPEG ("JPEG") or PNG of random pixels, and these as [h, w, 4] RGBA."""
    picture = noise(6, 5)
    if mode == "JPEG":
        contents = encode(picture, "JPEG")
        pixels = tf.io.decode_jpeg(contents).numpy()
        return contents, np.concatenate([pixels, np.full([5, 6, 1], 255, "uint8")], -1)
    options = {"transparency": (1, 2, 3)} if mode == "tRNS" else {}
    picture = picture.convert("RGB" if mode == "tRNS" else mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(noise(6, 5, "L", seed=1))
    if mode == "tRNS":
        picture.putpixel((2, 3), (1, 2, 3))
    seen = np.array(picture.convert("RGBA"))
    if mode == "tRNS":
        seen[3, 2, 3] = 0
    return encode(picture, "PNG", **options), seen


@pytest.mark.parametrize("mode", ["JPEG", "RGB", "L", "1", "P", "RGBA", "LA", "tRNS"])
def test_pictures_as_most_are_need_no_closer_look(mode):
    def closer_look(*_):
        raise AssertionError("what few pictures need costs each epoch a second")

    contents, seen = most_are(mode)
    pixels = decoding._decode(tf.constant(contents), 200, True, closer_look).numpy()
    alpha = seen[..., 3:].astype("float32") / np.float32(255)
    assert (alpha < 1).any() == (mode in ("RGBA", "LA", "tRNS"))
    np.testing.assert_array_equal(pixels, np.round(seen[..., :3] * alpha + 200 * (1 - alpha)))
    np.testing.assert_array_equal(pixels, decoding._decode_any(contents, 200, True))


def test_pictures_that_need_a_closer_look():
    turned = Image.Exif()
    turned[0x0112] = 6
    unusual = [
        encode(noise(6, 5), "PNG", exif=turned),
        encode(noise(6, 5), "JPEG", exif=turned),
        encode(noise(6, 5, "L"), "JPEG"),
        encode(noise(6, 5), "GIF"),
        *(encode(noise(6, 5), "PNG")[:n] for n in (0, 3, 4, 25, 32)),
        *(png(*size) for size in ((2**13, 2**13 + 1), (2**32 - 1, 2**32 - 1), (2**31, 2**31))),
    ]
    for contents in unusual:
        assert formats.kind(tf.constant(contents), decoding.MAX_PIXELS) == formats.UNUSUAL
    assert formats.kind(tf.constant(png(2**13, 2**13)), decoding.MAX_PIXELS) == formats.OPAQUE

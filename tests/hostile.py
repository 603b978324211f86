"""Inputs that a server gets from the internet, the same ones in every process."""

import io
import itertools

import numpy as np
from PIL import Image

from tests.preprocessing.test_decoding import TOO_LARGE, encode, gif, many_scans, noise

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'


def images():
    """(name, bytes), endlessly; each family in turn."""
    rng = np.random.default_rng(3)
    sources = {
        "jpeg": encode(noise(64, 48), "JPEG"),
        "progressive": encode(noise(64, 48), "JPEG", progressive=True),
        "cmyk": encode(noise(64, 48, "CMYK"), "JPEG"),
        "png": encode(noise(64, 48), "PNG"),
        "16-bit": encode(Image.fromarray(np.arange(3072, dtype="uint16").reshape(48, 64)), "PNG"),
        "gif": encode(noise(64, 48, "P"), "GIF"),
        "animated gif": encode(
            noise(64, 48, "P"), "GIF", save_all=True, append_images=[noise(64, 48, "P", 1)] * 30
        ),
        "animated webp": encode(
            noise(64, 48), "WEBP", save_all=True, append_images=[noise(64, 48, seed=1)] * 3
        ),
        "webp": encode(noise(64, 48), "WEBP"),
        "bmp": encode(noise(64, 48), "BMP"),
    }
    fixed = {
        **sources,
        **{f"large {name}": contents for name, contents in TOO_LARGE.items()},
        "nothing": b"",
        "one byte": b"\xff",
        "nul": b"\0" * 1000,
        "svg": SVG,
        "words": b"this is no image",
        "words in utf-16": "no image".encode("utf-16"),
        "a megabyte": rng.bytes(2**20),
        "a megabyte of jpeg": b"\xff\xd8\xff\xe0" + rng.bytes(2**20),
        "a megabyte behind a png": sources["png"] + rng.bytes(2**20),
        "many large frames": gif(65_535, 65_535, 1000),
        "a whole png of 100 megapixels": _large_png(),
        "64 megapixels": encode(Image.new("L", (8192, 8192)), "JPEG"),
        "many scans": many_scans(2000),
        "tiff": encode(noise(9, 9), "TIFF"),
        "pdf": encode(noise(9, 9), "PDF"),
    }
    yield from fixed.items()
    for i in itertools.count():
        name, whole = list(sources.items())[i % len(sources)]
        broken = bytearray(whole)
        if i // len(sources) % 2:
            for at in rng.integers(0, len(whole), 1 + i % 7):
                broken[at] = rng.integers(256)
            yield f"{name} with other bytes, {i}", bytes(broken)
        else:
            yield f"{name} cut off, {i}", whole[: rng.integers(len(whole))]


def texts():
    """(name, bytes), endlessly; each family in turn."""
    rng = np.random.default_rng(4)
    yield from {
        "no text": b"",
        "spaces": b"   \t\n",
        "nul in text": b"a\0red\0dog",
        "only nul": b"\0" * 100,
        "invalid utf-8": b"a \xff\xfe red \xc3( dog",
        "surrogate": b"\xed\xa0\x80",
        "overlong": b"\xc0\xaf",
        "utf-16": "a red dog".encode("utf-16"),
        "a megabyte of a letter": b"a" * 2**20,
        "a megabyte of words": b"red dog " * 2**17,
        "a megabyte of spaces": b" " * 2**20,
        "a megabyte of bytes": rng.bytes(2**20),
        "a megabyte of emoji": "\U0001f388".encode() * 2**18,
        "accents upon accents": b"e" + "\u0301".encode() * 2**18,
        "right to left": "\u202ea red dog\u202c שלום".encode(),
        "an image": encode(noise(64, 48), "JPEG"),
        "special tokens": b"[CLS] [SEP] [PAD] [MASK] </s> <unk>",
    }.items()
    for i in itertools.count():
        yield f"text of bytes, {i}", rng.bytes(int(rng.integers(1, 2000)))


def _large_png():
    """10,000 x 10,000 grey pixels that compress to 100 KB."""
    file = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(file, "PNG", compress_level=1)
    return file.getvalue()

"""Prepares pictures and sentences for an ONNX or LiteRT version by NumPy, Pillow, sentencepiece.

It uses neither TensorFlow nor Keras; `lit.json` beside the towers describes everything it does. To
translate it to another language take it piece by piece: `read`, `pixels_of`, `token_ids_of`.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Run = Callable[[np.ndarray], np.ndarray]
Settings = dict[str, Any]

# What the clients share.


def read(folder: pathlib.Path, format: str) -> Settings:
    """The settings of a version, whose files are intact."""
    try:
        settings = json.loads((folder / "lit.json").read_bytes())
        received, sums = settings["format"], dict(settings["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SystemExit(f"{folder} should hold a version of `keras_lit.export.save`.") from None
    if received != format:
        raise SystemExit(f"{folder} should hold {format} files. Received: {received}.")
    for name, expected in sums.items():
        path = folder / pathlib.Path(name).name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise SystemExit(f"{path} is missing or damaged: copy the version again.")
    return settings


def main(load: Callable[[str], Run], format: str) -> None:
    """Embeds what the command line names; prints JSON, with cosines and classes if any."""
    parser = argparse.ArgumentParser(description=f"Asks a version of {format} files.")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--images", nargs="+", default=[])
    parser.add_argument("--text", nargs="+", default=[])
    args = parser.parse_args()
    settings = read(args.folder, format)
    found = {}
    try:
        if args.images:
            found["image"] = encode_images(load, args.folder, settings, args.images)
        if args.text:
            found["text"] = encode_texts(load, args.folder, settings, args.text)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if len(found) == 2:
        found["cosine"] = found["image"] @ found["text"].T
    if "image" in found and "classes" in settings:
        found["classes"] = classify(args.folder, settings, found["image"])
    print(json.dumps(found, default=lambda values: np.round(values, 6).tolist()))


def encode_images(
    load: Callable[[str], Run], folder: pathlib.Path, settings: Settings, images: list[Any]
) -> np.ndarray:
    """File names, or arrays [height, width, 3] uint8 -> [n, dim] float32 of unit length."""
    run, of = tower_of(load, folder, settings, "image")
    return embed(run, of, [pixels_of(image, of) for image in images], settings["embedding_dim"])


def encode_texts(
    load: Callable[[str], Run], folder: pathlib.Path, settings: Settings, texts: list[str]
) -> np.ndarray:
    """Sentences -> [n, dim] float32 of unit length."""
    run, of = tower_of(load, folder, settings, "text")
    token_ids = token_ids_of(of, folder)
    return embed(run, of, [token_ids(text) for text in texts], settings["embedding_dim"])


def tower_of(
    load: Callable[[str], Run], folder: pathlib.Path, settings: Settings, side: str
) -> tuple[Run, Settings]:
    """A tower, ready to run, and its part of `lit.json`."""
    of = settings.get(side)
    if of is None:
        raise ValueError(f"{folder} holds no {side} tower.")
    return load(str(folder / of["file"])), of


def embed(run: Run, of: Settings, rows: list[Any], dim: int) -> np.ndarray:
    """Checks rows and runs a tower over them, 32 at a time."""
    shape, dtype = tuple(of["shape"]), np.dtype(of["dtype"])
    most = 255 if dtype == np.uint8 else (of["vocabulary_size"] or 2**31) - 1
    for row in map(np.asarray, rows):
        if row.shape != shape or row.dtype.kind not in "iu" or row.min() < 0 or row.max() > most:
            raise ValueError(
                f"`{of['input']}` should be whole numbers in 0..{most} of shape {shape}. Received "
                f"{row.dtype} of shape {row.shape}."
            )
    if not rows:
        return np.zeros([0, dim], "float32")
    array = np.stack(rows).astype(dtype)
    parts = [array[i : i + 32] for i in range(0, len(array), 32)]
    return np.concatenate([run(without_padding(part, of)) for part in parts])


def without_padding(token_ids: np.ndarray, of: Settings) -> np.ndarray:
    """Without the last columns that hold padding only, where the tower takes any length."""
    if not of.get("any_length"):
        return token_ids
    words = (token_ids != of["pad_token_id"]).any(axis=0)
    return token_ids[:, : max(np.flatnonzero(words), default=0) + 1]


def classify(folder: pathlib.Path, settings: Settings, images: np.ndarray) -> list[dict]:
    """Probabilities of the version's classes, for each image."""
    weights = np.load(folder / settings["classes"]["file"], allow_pickle=False)
    logits = settings["temperature"] * images @ weights.T
    if settings["loss"] == "sigmoid":
        scores = 1 / (1 + np.exp(-logits - settings["bias"]))
    else:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return [dict(zip(settings["classes"]["names"], row.tolist(), strict=True)) for row in scores]


# Pictures.


def pixels_of(image: Any, of: Settings) -> np.ndarray:
    """A file name, or pixels [height, width, 3] uint8 -> pixels in the tower's size."""
    pixels = image if isinstance(image, np.ndarray) else decode(image, of)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            "A picture should be uint8 [height, width, 3]. Received "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    height, width = of["shape"][:2]
    size = np.array(pixels.shape[:2], "float32")
    if of["resize"] == "stretch":
        return resize(pixels, height, width, of)
    factors = np.float32([height, width]) / size
    if of["resize"] == "pad":
        whole = np.clip(np.round(size * factors.min()), 1, [height, width]).astype(int)
        free = np.array([height, width]) - whole
        sides = [(n // 2, n - n // 2) for n in free]
        pixels = resize(pixels, *whole, of)
        return np.pad(pixels, [*sides, (0, 0)], constant_values=of["background"])
    # Only the middle of a very thin picture: all of it, scaled, would be huge.
    most = np.ceil(16 * of["crop_fraction"] / factors.max() * np.array([height, width]))
    most = most.astype(int) + (np.array(pixels.shape[:2]) - most.astype(int)) % 2
    cut = [slice(n, None if n == 0 else -n) for n in np.maximum(size.astype(int) - most, 0) // 2]
    pixels = pixels[tuple(cut)]
    size = np.array(pixels.shape[:2], "float32")
    factor = (np.float32([height, width]) / size).max() / np.float32(of["crop_fraction"])
    large = np.maximum((size * factor + np.float32(1e-3)).astype(int), [height, width])
    top, left = (large - [height, width]) // 2
    return resize(pixels, *large, of)[top : top + height, left : left + width]


def decode(path: Any, of: Settings) -> np.ndarray:
    """The pixels of a JPEG, PNG, WebP, GIF or BMP, over the background, upright."""
    Image.MAX_IMAGE_PIXELS = None  # The limit is our own.
    try:
        with Image.open(path, formats=["JPEG", "PNG", "WEBP", "GIF", "BMP"]) as image:
            if image.width * image.height > of["max_pixels"]:
                raise ValueError(f"more than {of['max_pixels']:,} pixels")
            image.load()
            upright = ImageOps.exif_transpose(image) if of["exif_orientation"] else image
            return composite(upright, of["background"])
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} does not decode as a picture: {error}.") from None


def composite(image: Image.Image, background: int) -> np.ndarray:
    """RGB pixels, composited over a grey."""
    if image.mode.startswith("I"):  # 16 bits per pixel.
        grey = (np.asarray(image).astype("uint32") >> 8).astype("uint8")
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    if "A" not in image.mode and "transparency" not in image.info:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype("float32")
    alpha = rgba[..., 3:] / np.float32(255)
    return np.round(rgba[..., :3] * alpha + background * (1 - alpha)).astype("uint8")


def resize(pixels: np.ndarray, height: int, width: int, of: Settings) -> np.ndarray:
    """`tf.image.resize` with fractions truncated: columns first, then rows."""
    method, antialias = of["interpolation"], of["antialias"]
    values: Any = pixels
    for axis, out in ((1, width), (0, height)):
        count = values.shape[axis]
        if method == "bilinear" and not antialias:
            at = (np.arange(out, dtype="f4") + np.float32(0.5)) * np.float32(count / out) - 0.5
            first = np.floor(at)
            part = (at - first).reshape([-1] + [1] * (2 - axis)).astype("float32")
            low, high = (np.clip(first + i, 0, count - 1).astype(int) for i in (0, 1))
            low, high = (np.take(values, i, axis).astype("float32") for i in (low, high))
            values = low + (high - low) * part
        else:
            found = np.tensordot(weights(count, out, method, antialias), values, (1, axis))
            values = np.moveaxis(found, 0, axis)
    return np.clip(values, 0, 255).astype("uint8")


KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, lambda x: np.maximum(1 - x, 0)),
    "bicubic": (
        2.0,
        lambda x: np.where(
            x < 1, (1.5 * x - 2.5) * x * x + 1, np.maximum(2 - x, 0) ** 2 * (1 - x) * 0.5
        ),
    ),
    "lanczos3": (3.0, lambda x: np.sinc(x) * np.sinc(x / 3) * (x < 3)),
    "lanczos5": (5.0, lambda x: np.sinc(x) * np.sinc(x / 5) * (x < 5)),
}


@functools.lru_cache(64)
def weights(count: int, out: int, method: str, antialias: bool) -> np.ndarray:
    """[out, count] float32: the weight of each of `count` rows in each of `out`."""
    if method == "nearest":
        return np.eye(count, dtype="float32")[((np.arange(out) + 0.5) * count / out).astype(int)]
    if method not in KERNELS:
        raise ValueError(f"This client resizes by {', '.join(KERNELS)}. Received: {method}.")
    wide = max(count / out, 1) if antialias else 1.0
    middle = (np.arange(out)[:, np.newaxis] + 0.5) * count / out - 0.5
    found = KERNELS[method][1](np.abs(np.arange(count) - middle) / wide)
    return (found / found.sum(axis=1, keepdims=True)).astype("float32")


# Sentences.


def token_ids_of(of: Settings, folder: pathlib.Path) -> Callable[[str], np.ndarray]:
    """A function from a sentence to its [tokens] int32, cut or padded."""
    tokenizer = of["tokenizer"]
    if tokenizer is None:
        raise ValueError("This version has no vocabulary: its text tower takes token ids only.")
    kinds = {"sentencepiece": sentencepiece_of, "wordpiece": wordpiece_of}
    tokens_of = kinds[tokenizer["kind"]](tokenizer, folder / tokenizer["file"])
    start, end = ([] if of[x] is None else [of[x]] for x in ("start_token_id", "end_token_id"))

    def token_ids(text: str) -> np.ndarray:
        tokens = tokens_of(text.lower() if of["lowercase"] else text)
        length = of["sequence_length"]
        found = [*start, *tokens[: length - len(start) - len(end)], *end]
        return np.array(found + [of["pad_token_id"]] * (length - len(found)), "int32")

    return token_ids


def sentencepiece_of(of: Settings, path: pathlib.Path) -> Callable[[str], list[int]]:
    """SentencePiece, whose file includes its normalisation."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: model.encode(text, add_bos=of["add_bos"], add_eos=of["add_eos"])


def wordpiece_of(of: Settings, path: pathlib.Path) -> Callable[[str], list[int]]:
    """BERT's WordPiece: words and punctuation marks, then the longest pieces from the left."""
    words = path.read_text("utf-8").removesuffix("\n").split("\n")
    vocabulary = {word: i for i, word in enumerate(words)}
    unknown = [vocabulary[of["oov_token"]]]

    def pieces(word: str) -> list[int]:
        if len(word.encode()) > 100:
            return unknown
        found, start = [], 0
        while start < len(word):
            mark = of["suffix_indicator"] if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in vocabulary), None)
            if end is None:
                return unknown
            found.append(vocabulary[mark + word[start:end]])
            start = end
        return found

    def tokens(text: str) -> list[int]:
        found = split(text, of["strip_accents"], of["split_on_cjk"])
        return [i for word in found for i in pieces(fold(word) if of["lowercase"] else word)]

    return tokens


def split(text: str, strip_accents: bool, split_on_cjk: bool) -> list[str]:
    """Splits at spaces and control characters; a punctuation mark is a word of its own."""
    if split_on_cjk:
        text = "".join(f" {c} " if in_ranges(c, CJK) else c for c in text)
    if strip_accents:
        text = unicodedata.normalize("NFD", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    words = [""]
    for c in text:
        category = unicodedata.category(c)
        alone = category[0] == "P" or c in "$+<=>^`|~" or (split_on_cjk and in_ranges(c, CJK))
        if alone:
            words += [c, ""]
        elif c in " \t\n\f\r" or category in ("Cc", "Cf"):
            words += [""]
        else:
            words[-1] += c
    return [word for word in words if word]


def fold(word: str) -> str:
    """Unicode's NFKC_Casefold."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    return "".join(c for c in folded if not in_ranges(c, IGNORABLE))


def in_ranges(c: str, ranges: list[tuple[int, int]]) -> bool:
    """Whether a character is in one of the ranges, ends included."""
    return any(low <= ord(c) <= high for low, high in ranges)


def ranges(text: str) -> list[tuple[int, int]]:
    """Parses ranges of hexadecimal code points."""
    return [(int(x.split("-")[0], 16), int(x.split("-")[-1], 16)) for x in text.split()]


CJK = ranges(
    "4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF F900-FAFF 2F800-2FA1F"
)
IGNORABLE = ranges(
    "AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF "
    "FFA0 FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)

"""Pictures as paths, globs, PIL images, arrays or bytes, made into columns of datasets."""

import glob
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.preprocessing.image import check_channels

_SHOULD_BE = (
    "Images should be file names, encoded images as bytes, PIL images or uint8 arrays [height, "
    "width, channels], all of one kind in a list; or an array or batches of them. Received: {}."
)
# What PNG holds as it is.
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112  # EXIF's tag.


def listed(images: Any) -> Any:
    """One picture, the pictures of a glob, files of an iterator as a list; others as they are.

    An iterator of PIL images or of arrays becomes one of encoded images.
    """
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        raise ValueError(
            f"{str(images)!r} is a folder. Pass the pictures in it, for example as a glob, "
            f"{os.path.join(images, '*.jpg')!r}."
        )
    if isinstance(images, str) and glob.has_magic(images) and not os.path.exists(images):
        found = sorted(glob.glob(images, recursive=True))
        if not found:
            raise ValueError(f"There are no files {images!r}.")
        return found
    if isinstance(images, io.IOBase):  # An iterator of lines, too.
        return [images.read()]
    if _rank(images) == 0:
        return [np.asarray(images).item()]
    one = isinstance(images, str | bytes | os.PathLike) or is_pil(images) or _is_pixels(images)
    # Floats are features: of tokens, [n, tokens, dim].
    if one or (_rank(images) == 3 and "float" not in checks.kind(images)):
        return [images]
    if isinstance(images, Iterator):
        first = next(images, None)
        images = itertools.chain([] if first is None else [first], images)
        if _is_file(first):
            return list(images)
        return map(encoded, images) if is_pil(first) or _is_pixels(first) else images
    return images


def columns(images: Any) -> dict[str, Any]:
    """Pictures in a list, array or tensor as {"file": names} or {"image": strings or numbers}.

    Raises ValueError for anything else.
    """
    if tf.is_tensor(images):
        return {"image": images}
    if isinstance(images, set | dict) or not isinstance(images, Iterable):
        raise ValueError(_SHOULD_BE.format(type(images).__name__))
    if hasattr(images, "__array__"):  # NumPy's arrays, columns of tables.
        images = np.asarray(images)
        if images.dtype.kind not in "OU":
            return {"image": images}
    images = [x.read() if isinstance(x, io.IOBase) else x for x in images]
    if images and all(map(_is_file, images)):
        return {"file": np.array([os.fsencode(x) for x in images], object)}  # In any encoding.
    if all(isinstance(x, bytes) or is_pil(x) or _is_pixels(x) for x in images):
        found = [x if isinstance(x, bytes) else encoded(x) for x in images]
        return {"image": np.array(found, object)}
    kinds = {
        type(x).__name__ if _rank(x) is None else f"{x.dtype} of shape {tuple(x.shape)}"
        for x in images
    }
    if len(kinds) > 1 or not all(_rank(x) == 1 for x in images):  # One kind of features is left.
        raise ValueError(_SHOULD_BE.format(f"a list of {', '.join(sorted(kinds))}"))
    return {"image": np.stack(images)}


def _is_file(image: Any) -> bool:
    """Encoded images are bytes."""
    return isinstance(image, str | os.PathLike)


def is_pil(image: Any) -> bool:
    """Whether it is one of PIL's images."""
    pil = sys.modules.get("PIL.Image")  # Without it nobody can hold one.
    return pil is not None and isinstance(image, pil.Image)


def _is_pixels(image: Any) -> bool:
    """A uint8 array [height, width] or [height, width, channels]."""
    return _rank(image) in (2, 3) and image.dtype == np.uint8


def _rank(image: Any) -> int | None:
    """Of an array or tensor."""
    return len(image.shape) if isinstance(image, np.ndarray) or tf.is_tensor(image) else None


def encoded(image: Any) -> bytes:
    """Pixels or a PIL image as PNG, which loses nothing, with what EXIF says of its orientation."""
    if not is_pil(image):
        pixels = np.asarray(image)
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        check_channels(pixels.shape)
        return tf.io.encode_png(pixels, compression=0).numpy()
    if image.mode == "F":
        raise ValueError('PIL images should hold whole numbers: `image.convert("L")`. Received: F.')
    exif = type(image.getexif())()
    exif[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    if image.mode not in _PNG_MODES:
        image = image.convert("RGBA" if image.getbands()[-1].lower() == "a" else "RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=exif)
    return file.getvalue()

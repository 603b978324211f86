"""The pictures to index, from a folder or a dataset, one at a time."""

import functools
import json
import math
import os
import pathlib
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lit.data.class_folders import pictures_below
from keras_lit.preprocessing.formats import SUFFIXES
from keras_lit.training.pictures import encoded, is_pil


class Source(NamedTuple):
    """A picture that may have to be read; `stamp` is None where only its content identifies it."""

    name: str
    stamp: str | None
    metadata: str  # JSON
    read: Callable[[], bytes]


def check_folder(folder: pathlib.Path) -> None:
    """Raises FileNotFoundError unless there is such a folder."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {str(folder)!r}. Nothing was changed.")


def of_folder(folder: pathlib.Path) -> tuple[Iterator[Source], int]:
    """The pictures of a folder by name (the path below it, with slashes), and how many."""
    paths, others = pictures_below(folder)
    if not paths:
        raise ValueError(
            f"{str(folder)!r} should hold pictures ({', '.join(SUFFIXES)}), at any depth. Received "
            "none. Nothing was changed."
        )
    if others:
        warnings.warn(
            f"{len(others)} pictures in {str(folder)!r} are of kinds that are not read, and left "
            f"out: {', '.join(file.name for file in others[:5])}. Convert them.",
            stacklevel=2,
        )
    return _files(folder, paths), len(paths)


def _files(folder: pathlib.Path, paths: list[pathlib.Path]) -> Iterator[Source]:
    for path in paths:
        try:
            of_file = path.stat()
        except OSError:  # A dangling link, or deleted meanwhile.
            continue
        if not stat.S_ISREG(of_file.st_mode):  # Reading a pipe would block for ever.
            continue
        # ctime changes with every write, even if a program sets the others back.
        stamp = f"{of_file.st_size} {of_file.st_mtime_ns} {of_file.st_ctime_ns}"
        yield Source(path.relative_to(folder).as_posix(), stamp, "{}", path.read_bytes)


def of_pairs(rows: Any) -> Iterator[Source]:
    """The pictures of an unbatched dataset of {"image", "name", ...}, or of such dicts."""
    names: dict[str, int] = {}
    for number, row in enumerate(_rows(rows)):
        image = row["image"]
        name = _plain(row.get("name", str(number)))
        if not isinstance(name, str) or not name:
            raise ValueError(
                f'"name" should be a string that is not empty. Received: {name!r}, of picture '
                f"{number}."
            )
        content = hash(image if isinstance(image, bytes) else np.asarray(image).tobytes())
        if name in names:  # An image with several captions.
            if names[name] != content:
                raise ValueError(
                    f"Each picture should have a name of its own. Received two named {name!r}: put "
                    "their folder or a number before it. What came before is in the index."
                )
            continue
        names[name] = content
        others = {str(k): _plain(v) for k, v in row.items() if k not in ("image", "name")}
        metadata = json.dumps({k: v for k, v in others.items() if v is not None}, sort_keys=True)
        yield Source(name, None, metadata, functools.partial(content_of, image))


def _rows(rows: Any) -> Iterator[dict[str, Any]]:
    if isinstance(rows, tf.data.Dataset):
        spec = rows.element_spec
        if isinstance(spec, dict) and "image" in spec and spec["image"].shape.rank in (1, 4):
            rows = rows.unbatch()
        rows = rows.as_numpy_iterator()
    elif not isinstance(rows, Iterable) or getattr(rows, "ndim", 1) == 0:
        raise TypeError(
            "Pictures should be a folder (str or pathlib.Path), a tf.data.Dataset or an iterable "
            f'of {{"image", "name"}}. Received: {rows!r:.80}.'
        )
    for row in rows:
        if not isinstance(row, dict) or "image" not in row:
            raise ValueError(
                'Pictures should be dicts {"image": bytes of a file or uint8 pixels, "name": ...}. '
                f"Received: {sorted(row) if isinstance(row, dict) else type(row).__name__}. Paths "
                'become `({"image": x.read_bytes(), "name": str(x)} for x in paths)`.'
            )
        yield row


def content_of(image: Any) -> bytes:
    """A picture as the bytes of a file, which pixels become."""
    if isinstance(image, bytes):
        return image
    if is_pil(image):
        return encoded(image)
    array = np.asarray(image)
    if (png := as_png(array)) is None:
        raise ValueError(
            '"image" should be the bytes of a file, a PIL image, or uint8 pixels [height, width, '
            "channels]. "
            f"Received: {array.dtype} {list(array.shape)}."
        )
    return png


def as_png(pixels: np.ndarray) -> bytes | None:
    """uint8 pixels [height, width, 1 to 4] as a PNG file; None for anything else."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not pixels.size or pixels.shape[2] > 4:
        return None
    return tf.io.encode_png(pixels).numpy()


def _plain(value: Any) -> Any:
    """What JSON can hold: strings, finite numbers, lists of these; None for anything else."""
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, np.generic | np.ndarray | tf.Tensor):
        value = np.asarray(value)
        if value.ndim > 1 or value.size > 1000:
            return None
        if value.dtype.kind == "f":  # A long double's list holds long doubles.
            value = value.astype("float64")
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return value if isinstance(value, str | bool | int | float | None) else None

"""What the columns of a table mean, and a row of it."""

import codecs
import os
import pathlib
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keras_lit import checks
from keras_lit.data.shards import as_group, note_bad

# What image, text and name are called in tables and TensorFlow datasets.
IMAGE_COLUMNS = (
    *("image", "image_path", "path", "file_name", "filename", "file", "image_name", "filepath"),
)
TEXT_COLUMNS = (
    *("text", "caption", "captions", "captions/text", "title", "description", "comment"),
    "caption_text",
)
_LONGEST_NAME = 4096  # What is longer is no name, but an image in base64, say.
_FETCH = "for example by img2dataset"


class Layout(NamedTuple):
    """How to read a table, where it does not say so itself; see `image_text_pairs`."""

    image_key: str | None = None
    text_key: str | None = None
    separator: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    image_dir: str | os.PathLike | None = None
    group_key: str | None = None


class Row(NamedTuple):
    """An image and what a table says of it; `texts` is not checked yet."""

    where: str
    image: pathlib.Path
    texts: Any
    split: str | None = None
    group: str = ""
    is_whole: bool = False  # The table gives the image's whole path.


def rows_of(
    where: str,
    folder: str | os.PathLike,
    image: Any,
    texts: Any,
    split: Any,
    skipped: set[str] | None,
    *group: Any,
) -> Iterator[Row]:
    """The row of a table, unless its image is no file or its group, if that is asked for, empty."""
    if not isinstance(image, str) or not image or len(image) > _LONGEST_NAME:
        note_bad(f"{where}: expected the name of an image. Received: {image!r:.60}", skipped)
    elif "://" in image and not image.startswith("file:///"):
        message = f"{image!r} is a web address: fetch the images first, {_FETCH}"
        note_bad(f"{where}: {message}", skipped)
    else:
        split = None if split in (None, "") else str(split)
        try:
            name = as_group(*group) if group else ""
        except ValueError as error:
            note_bad(f"{where}: {error}", skipped)
        else:
            if image.startswith("file:///"):
                image = urllib.request.url2pathname(image.removeprefix("file://"))
            path = pathlib.Path(folder, image)
            yield Row(where, path, texts, split, name, os.path.isabs(image))


def column(
    available: Any, key: str | None, candidates: tuple[str, ...], argument: str, where: Any
) -> str:
    """The `key`, or the first candidate that is there; ValueError names the `argument` to pass."""
    for candidate in candidates if key is None else (key,):
        if candidate in available:
            return candidate
    expected = " or ".join(map(repr, candidates)) if key is None else repr(key)
    remedy = f"Pass `{argument}`"
    if argument == "image_key" and any(str(name).lower().endswith("url") for name in available):
        remedy += f", or fetch the images first, {_FETCH}"
    raise ValueError(
        f"{where}: expected {expected}. Received: {', '.join(map(repr, available))}. {remedy}."
    )


def check_own_splits(
    split: str, own: Iterable[Any], test_fraction: float, source: str | os.PathLike
) -> None:
    """Raises unless one of a source's own splits is asked for, and no other division."""
    splits = tuple(sorted({str(name) for name in own}))
    if len({name.strip().lower() for name in splits}) < len(splits):
        raise ValueError(f"{source} spells a split in two ways: {', '.join(map(repr, splits))}.")
    if test_fraction:
        raise ValueError(
            f"{source} is divided already, into {', '.join(map(repr, splits))}: choose by `split`, "
            f"without `test_fraction`. Received: {test_fraction}."
        )
    checks.check_one_of(split, splits, "split")


def check_layout(layout: Layout) -> None:
    """Raises for a separator or an encoding that there cannot be."""
    if layout.separator is not None and len(layout.separator) != 1:
        raise ValueError(
            f"`separator` should be one character. Received: {layout.separator!r}. Save a table "
            "that has another as .csv."
        )
    try:
        codecs.lookup(layout.encoding or "utf-8")
    except LookupError as error:
        raise ValueError(
            f'`encoding` should be one that Python knows, such as "latin-1". Received: '
            f"{layout.encoding!r}."
        ) from error


def check_unused(layout: Layout, names: Iterable[str], source: Any, what: str) -> None:
    """Raises if an argument is given that would change nothing."""
    for name in names:
        if (value := getattr(layout, name)) is not None:
            raise ValueError(
                f"`{name}` does not apply to {what}: leave it out for {str(source)!r}. Received: "
                f"{value!r}."
            )

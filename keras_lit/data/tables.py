"""Pairs from folders of pictures and from tables."""

import os
import pathlib
import unicodedata
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from keras_lit import checks, files
from keras_lit.data.captions import captions_of, draw, is_utf8
from keras_lit.data.layouts import Layout, Row, check_own_splits, check_unused
from keras_lit.data.shards import note_bad, shown
from keras_lit.data.table_formats import TABLE_SUFFIXES, read_table
from keras_lit.preprocessing.formats import NOT_READ, SUFFIXES
from keras_lit.preprocessing.image import decodes

Captions = tuple[str, list[str], str]  # An image, its captions and its group.
# What the name of a row is called in TensorFlow datasets.
NAME_COLUMNS = ("path", "name", "image/filename", "file_name", "filename", "image/id", "id")


def file_records(path: pathlib.Path, layout: Layout, skipped: set[str] | None) -> list[Row]:
    """The rows of a table, of the one in a folder, or of the pictures with captions beside them."""
    tables = _tables(path)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{path} holds several tables: {names}. Pass the one to read.")
    if tables:
        return list(read_table(tables[0], layout, skipped))
    unused = ("image_key", "separator", "columns", "image_dir", "group_key")
    check_unused(layout, unused, path, "a folder of pictures with a .txt beside each")
    endings = (f".{layout.text_key}",) if layout.text_key else CAPTION_FILES
    if endings[0] not in CAPTION_FILES:
        raise ValueError(
            '`text_key` of a folder of pictures should be "txt" or "caption", where both lie '
            f"beside a picture. Received: {layout.text_key!r} for {str(path)!r}."
        )
    rows, halves, lone = _folder(path, layout.encoding or "utf-8-sig", endings)
    if not rows:
        below = [x for x in sorted(path.glob("*/*")) if x.suffix in (*TABLE_SUFFIXES, ".parquet")]
        if below:
            where = below[0].parent if below[0].suffix == ".parquet" else below[0]
            raise ValueError(f"{path} has its tables in subfolders. Pass {str(where)!r}.")
        if arrow := next(path.rglob("*.arrow"), None):
            raise ValueError(
                f"{path} holds a dataset of Hugging Face in Arrow files, which are not read "
                f"({arrow.name}). Save it by its `to_parquet`."
            )
        if halves or lone:
            first = (halves or [f"{lone[0]}: {_NO_IMAGE}"])[0]
            message = f"{path}: no pair among {len(halves) + len(lone)} files, first {first}."
            if len({os.path.dirname(x) for x in halves}) > 1 and not lone:
                message += (
                    " A folder for each class is read by `keras_lit.data.labelled_images`, and as "
                    "pairs, with captions of templates, by `class_pairs`."
                )
            raise ValueError(shown(message))
    for half in halves:
        note_bad(half, skipped)
    if skipped is not None:
        skipped.update(shown(f"{file}: {_NO_IMAGE}") for file in lone)
    elif lone:  # Notes, or captions of a picture that was sorted out: no pair is wrong.
        names = ", ".join(str(file.relative_to(path)) for file in lone)
        warnings.warn(
            shown(f"{path}: caption files that belong to no picture are left out: {names}."),
            stacklevel=3,
        )
    return rows


def has_pairs(folder: pathlib.Path) -> bool:
    """Whether a folder holds a table, or a picture with a caption beside it."""
    return bool(_tables(folder) or _folder(folder, "utf-8-sig", CAPTION_FILES)[0])


def _tables(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        return [path]
    seen = [x for x in sorted(path.iterdir()) if not x.name.startswith(".")]
    return [x for x in seen if x.suffix.lower() in TABLE_SUFFIXES]


def checked_rows(
    records: list[Row],
    source: pathlib.Path,
    split: str,
    test_fraction: float,
    skipped: set[str] | None,
) -> list[tuple[str, str, str]]:
    """(image file, caption, group) of every pair of a split."""
    splits = {row.split for row in records} - {None}
    if splits:  # The table's own.
        check_own_splits(split, splits, test_fraction, source)
        for row in records:
            if row.split is None:
                note_bad(f"{row.where}: belongs to no split, as the others do", skipped)
        records = [row for row in records if row.split == split]
    else:
        checks.check_one_of(split, ("train", "test"), "split")
    rows, bad, missing = [], [], []
    for row in records:
        where, texts, image = row.where, row.texts, _as_spelled(row.image)
        texts = texts if isinstance(texts, list) else [texts]
        if not texts or not all(isinstance(x, str) and x.strip() and is_utf8(x) for x in texts):
            bad.append(
                f"{where}: expected a caption, or a list of them, of at least one character, in "
                f"UTF-8 (else pass `encoding`). Received: {texts!r:.99}"
            )
            note_bad(bad[-1], skipped)
        elif not os.path.isfile(image):  # False for what is no name at all, too.
            missing.append((f"{where}: there is no image {str(image)!r:.300}", row))
        else:
            rows += [(str(image), text.strip(), row.group) for text in texts]
    if missing:
        _note_missing(missing, len(records), skipped)
    if bad and not rows:
        raise ValueError(shown(f"None of {len(records)} pairs can be read, first {bad[0]}."))
    if splits:
        return rows
    is_test = split == "test"
    return [row for row in rows if (split_number(row[0], source) < test_fraction) == is_test]


def _note_missing(missing: list[tuple[str, Row]], count: int, skipped: set[str] | None) -> None:
    """Names in `skipped` the (message, row) of images; raises without it, or if these are all."""
    if skipped is not None:
        for message, _ in missing:
            note_bad(message, skipped)
        if len(missing) < count:
            return
    first, row = missing[0]
    if "\\" in str(row.image):
        remedy = 'Write "/" between folders in place of Windows\' "\\"'
    elif len(missing) == count and row.is_whole:
        remedy = "Write the paths in the table relative to `image_dir`, which whole ones ignore"
    elif len(missing) == count:
        remedy = "Pass `image_dir`, the folder that the names in the table begin at"
    else:
        remedy = "Mend the table, or pass `skipped=set()` to leave such rows out and count them"
    message = f"{len(missing)} of {count} images are not there, first {first}. {remedy}."
    raise FileNotFoundError(shown(message))


CAPTION_FILES = (".txt", ".caption")
_NO_IMAGE = "there is no image beside it"
_NO_CAPTIONS = ("readme", "license", "licence", "changelog", "requirements")


def _folder(
    path: pathlib.Path, encoding: str, endings: tuple[str, ...]
) -> tuple[list[Row], list[str], list[pathlib.Path]]:
    """The pictures at any depth with the captions beside them, and what is wrong with others.

    The third are caption files without a picture.
    """
    rows, halves, lone = [], [], []
    for folder, names in walk(path):
        captions = {x for x in names if x.lower().endswith(endings)}
        spelled = {**{x.lower(): x for x in captions}, **{x: x for x in captions}}
        for file in sorted(names):
            stem, suffix = os.path.splitext(file)
            suffix = suffix.lower()
            if suffix in NOT_READ:
                kinds = ", ".join(SUFFIXES)
                halves.append(f"{folder / file}: images of this kind are not read, but {kinds}")
                continue
            if suffix not in SUFFIXES:
                continue
            named = (f"{each}{ending}" for each in (stem, file) for ending in endings)
            found = (next((y for y in (x, x.lower()) if y in spelled), "") for x in named)
            beside = [spelled[x] for x in found if spelled.get(x) in captions]
            captions -= {*beside}
            if not beside:
                halves.append(f"{folder / file}: there is no caption beside it, in a {endings[0]}")
                continue
            if len(beside) > 1:
                both = f"both {' and '.join(beside)} lie beside it"
                remedy = 'choose by `text_key`, "txt" or "caption", or take one away'
                halves.append(f"{folder / file}: {both}: {remedy}")
                continue
            text = (folder / beside[0]).read_text(encoding, errors="surrogateescape")
            rows.append(Row(str(folder / beside[0]), folder / file, captions_of(text)))
        lone += [folder / x for x in sorted(captions) if not x.lower().startswith(_NO_CAPTIONS)]
    return sorted(rows, key=lambda row: row.image), halves, lone


def walk(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Folders and their files, hidden ones left out; what a link names is visited once."""
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(x for x in folders if not x.startswith("."))
        yield pathlib.Path(folder), [x for x in names if not x.startswith(".")]


def _as_spelled(image: pathlib.Path) -> pathlib.Path:
    """The file, whether accents are letters of their own in its name (as macOS has it) or not."""
    spellings = (image.with_name(unicodedata.normalize(x, image.name)) for x in ("NFC", "NFD"))
    return next((x for x in (image, *spellings) if os.path.isfile(x)), image)


def split_number(image: str, source: str | os.PathLike) -> float:
    """A number in 0..1 that belongs to the image's path, the same on every machine."""
    root = pathlib.Path(source)
    path = pathlib.Path(os.path.relpath(image, root if root.is_dir() else root.parent))
    return files.name_number(os.fsencode(path.as_posix())) / 2**128


def by_image(rows: list[tuple[str, str, str]], captions: str) -> list[Captions]:
    """(image, its captions to choose from, its group), or else each caption by itself."""
    if captions == "all":
        return [(image, [text], group) for image, text, group in rows]
    found: dict[str, Captions] = {}
    for image, text, group in rows:
        found.setdefault(image, (image, [], group))[1].append(text)
    return list(found.values())


def those_that_decode(images: list[Captions], skipped: set[str]) -> list[Captions]:
    """Tries each image once, so that a dataset's length is known; names the others in `skipped`."""
    names = list(map(os.fsencode, dict.fromkeys(row[0] for row in images)))
    if not names:
        return images
    tried = tf.data.Dataset.from_tensor_slices(names).map(
        lambda name: decodes(tf.io.read_file(name)), tf.data.AUTOTUNE
    )
    # Shown where it takes more than some seconds.
    bar = tqdm.tqdm(tried.as_numpy_iterator(), "decoding", len(names), unit=" images", delay=3)
    good = np.fromiter(bar, bool)
    bad = {name for name, decoded in zip(names, good, strict=True) if not decoded}
    skipped.update(name.decode("utf-8", "replace") for name in bad)
    if len(bad) == len(names):
        first = names[0].decode("utf-8", "replace")
        kinds = ", ".join(SUFFIXES)
        raise ValueError(
            f"{len(bad)} of {len(bad)} images do not decode, first {first!r}: expected {kinds}."
        )
    return [row for row in images if os.fsencode(row[0]) not in bad]


def read_files(
    images: list[Captions],
    source: Any,
    split: str,
    captions: str,
    shuffle_buffer: int,
    seed: int | None,
    grouped: bool = False,
    skipped: Collection[str] = (),
) -> tf.data.Dataset:
    """{"image", "text", "name"} (and "group") of images, shuffled before they are read."""
    if not images and skipped:
        raise ValueError(
            f"There are no {split} pairs in {str(source)!r}: {len(skipped)} are in `skipped`, "
            f"for example {min(skipped)}."
        )
    if not images:
        raise ValueError(
            f"There are no {split} pairs in {str(source)!r}: expected pictures "
            f"({', '.join(SUFFIXES)}), each beside a .txt, or a table "
            f"({', '.join(TABLE_SUFFIXES)}, .parquet) that names them; for a test split, "
            "`test_fraction`."
        )
    names, texts, groups = zip(*images, strict=True)
    text = tf.ragged.constant(texts) if captions == "random" else [each[0] for each in texts]
    # File names are bytes, in whatever encoding.
    rows = {"text": text, "name": list(map(os.fsencode, names))}
    rows |= {"group": list(groups)} if grouped else {}
    pairs = tf.data.Dataset.from_tensor_slices(rows)
    if shuffle_buffer:
        pairs = pairs.shuffle(min(shuffle_buffer, len(images)), seed=seed)
    pairs = draw(pairs, seed=seed) if captions == "random" else pairs
    return pairs.map(
        lambda pair: {"image": tf.io.read_file(pair["name"]), **pair}, tf.data.AUTOTUNE
    )

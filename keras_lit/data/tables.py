"""Pairs from folders of pictures and from tables (.csv, .tsv, .jsonl)."""

import csv
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_lit import files
from keras_lit.data.captions import draw, is_utf8
from keras_lit.data.shards import note_bad
from keras_lit.preprocessing.decoding import SUFFIXES

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
# What image, text and name are called in tables and TensorFlow datasets.
IMAGE_COLUMNS = ("image", "image_path", "path", "file_name", "filename", "file")
TEXT_COLUMNS = ("text", "caption", "captions", "captions/text", "title", "description")
NAME_COLUMNS = ("path", "name", "image/filename", "file_name", "filename", "image/id", "id")


def file_rows(
    path: pathlib.Path, image_key: str | None, text_key: str | None, skipped: set[str] | None
) -> list[tuple[str, str]]:
    """(image file, caption) of every pair, checked."""
    if path.is_dir():
        tables = [file for file in sorted(path.iterdir()) if file.suffix in TABLE_SUFFIXES]
        if len(tables) > 1:
            names = ", ".join(table.name for table in tables)
            raise ValueError(f"{path} holds several tables: {names}. Pass the one to read.")
        path = tables[0] if tables else path
    records = _folder(path) if path.is_dir() else _table(path, image_key, text_key, skipped)
    rows = []
    for where, image, texts in records:
        texts = texts if isinstance(texts, list) else [texts]
        if not texts or not all(isinstance(x, str) and x.strip() and is_utf8(x) for x in texts):
            note_bad(
                f"{where}: expected a caption, or a list of them, of at least one character, in "
                f"UTF-8. Received: {texts!r}",
                skipped,
            )
        elif not image.is_file():
            note_bad(f"{where}: there is no image {str(image)!r}", skipped, FileNotFoundError)
        else:
            rows += [(str(image), text.strip()) for text in texts]
    return rows


def _folder(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, Any]]:
    for image in sorted(path.rglob("*")):
        beside = image.with_suffix(".txt")
        if image.suffix.lower() in SUFFIXES and beside.exists():
            lines = beside.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
            yield str(beside), image, [line for line in lines if line.strip()]


def _table(
    path: pathlib.Path, image_key: str | None, text_key: str | None, skipped: set[str] | None
) -> Iterator[tuple[str, pathlib.Path, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix == ".jsonl":
            lines = ((i, line) for i, line in enumerate(file, 1) if line.strip())
            records: Any = ((i, _json_row(line)) for i, line in lines)
        elif path.suffix in TABLE_SUFFIXES:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            records = ((reader.line_num, record) for record in reader)
        else:
            raise ValueError(
                f"A table of pairs should be one of {', '.join(TABLE_SUFFIXES)}. Received: {path}."
            )
        for number, record in records:
            where = f"{path}, line {number}"
            try:
                if not isinstance(record, dict):
                    raise ValueError(f"expected a JSON object. Received: {record}")
                image = record[column(record, image_key, IMAGE_COLUMNS, "image_key", path)]
                text = record[column(record, text_key, TEXT_COLUMNS, "text_key", path)]
            except ValueError as error:
                if path.suffix != ".jsonl":  # All its lines have the same columns.
                    raise
                note_bad(f"{where}: {error}", skipped)
            else:
                yield where, path.parent / str(image), text


def _json_row(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return str(error)


def column(
    available: Any, key: str | None, candidates: tuple[str, ...], argument: str, where: Any
) -> str:
    """The `key`, or the first candidate that is there; ValueError names the `argument` to pass."""
    for candidate in candidates if key is None else (key,):
        if candidate in available:
            return candidate
    expected = " or ".join(map(repr, candidates)) if key is None else repr(key)
    raise ValueError(
        f"{where}: expected {expected}. Received: {', '.join(map(repr, available))}. Pass "
        f"`{argument}`."
    )


def split_number(image: str, source: str | os.PathLike) -> float:
    """A number in 0..1 that belongs to the image's path, the same on every machine."""
    root = pathlib.Path(source)
    path = pathlib.Path(os.path.relpath(image, root if root.is_dir() else root.parent))
    return files.name_number(os.fsencode(path.as_posix())) / 2**128


def by_image(rows: list[tuple[str, str]], captions: str) -> list[tuple[str, list[str]]]:
    """(image, its captions) to choose from, or else each caption by itself."""
    if captions == "all":
        return [(image, [text]) for image, text in rows]
    texts: dict[str, list[str]] = {}
    for image, text in rows:
        texts.setdefault(image, []).append(text)
    return list(texts.items())


def read_files(
    images: list[tuple[str, list[str]]],
    source: Any,
    split: str,
    captions: str,
    shuffle_buffer: int,
    seed: int | None,
) -> tf.data.Dataset:
    """{"image", "text", "name"} of the images, which are shuffled before they are read."""
    if not images:
        raise ValueError(
            f"There are no {split} pairs in {str(source)!r}: expected pictures "
            f"({', '.join(SUFFIXES)}), each beside a .txt, or a table "
            f"({', '.join(TABLE_SUFFIXES)}) that names them; for a test split, `test_fraction`."
        )
    names, texts = zip(*images, strict=True)
    text = tf.ragged.constant(texts) if captions == "random" else [each[0] for each in texts]
    # File names are bytes, in whatever encoding.
    rows = {"text": text, "name": list(map(os.fsencode, names))}
    pairs = tf.data.Dataset.from_tensor_slices(rows)
    if shuffle_buffer:
        pairs = pairs.shuffle(min(shuffle_buffer, len(images)), seed=seed)
    pairs = draw(pairs, seed=seed) if captions == "random" else pairs
    return pairs.map(
        lambda pair: {"image": tf.io.read_file(pair["name"]), **pair}, tf.data.AUTOTUNE
    )

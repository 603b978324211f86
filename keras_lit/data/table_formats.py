"""Tables of images and captions: CSV and its relatives, JSON lines, COCO's and Karpathy's JSON."""

import codecs
import collections
import csv
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import IO, Any

from keras_lit.data.layouts import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Layout,
    Row,
    check_unused,
    column,
    rows_of,
)
from keras_lit.data.shards import note_bad
from keras_lit.files import parse_json
from keras_lit.preprocessing.formats import SUFFIXES

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")  # What a folder is searched for.
_DELIMITED = (".csv", ".tsv", ".txt", ".token")
_SEPARATORS = {".tsv": "\t", ".token": "\t"}
_READ = (*_DELIMITED, ".jsonl", ".json")


def read_table(path: pathlib.Path, layout: Layout, skipped: set[str] | None) -> Iterator[Row]:
    """Every row of a table; what cannot be read is refused, or named in `skipped`."""
    suffix = path.suffix.lower()
    folder = pathlib.Path(layout.image_dir) if layout.image_dir is not None else path.parent
    if suffix not in _READ:
        raise ValueError(
            f"{path} is none of the files that are read: tables ({', '.join(_READ)}, .parquet) and "
            "shards (.tar, .tar.gz, .tfrecord). Unpack other archives, save other tables as .csv."
        )
    content = _json_content(path, layout) if suffix == ".json" else None
    if isinstance(content, dict):
        names = ("image_key", "text_key", "separator", "columns", "group_key")
        check_unused(layout, names, path, "COCO's and Karpathy's .json")
        for image, *rest in _json_file(path, content):
            yield from rows_of(f"{path}, image {image}", folder, image, *rest, skipped)
        return
    if suffix in (".json", ".jsonl"):
        check_unused(layout, ("separator", "columns"), path, "JSON")
    for number, record in _records(path, suffix, content, layout):
        where = f"{path}, {'entry' if suffix == '.json' else 'line'} {number}"
        try:
            if not isinstance(record, dict):
                raise ValueError(record)
            image = record[column(record, layout.image_key, IMAGE_COLUMNS, "image_key", path)]
            texts = record[column(record, layout.text_key, TEXT_COLUMNS, "text_key", path)]
            group: tuple[Any, ...] = ()
            if layout.group_key:
                group = (record[column(record, layout.group_key, (), "group_key", path)],)
        except ValueError as error:
            if suffix in _DELIMITED and isinstance(record, dict):  # All have the same columns.
                raise
            note_bad(f"{where}: {error}", skipped)
        else:
            if suffix == ".token":
                image = image.partition("#")[0]
            if suffix in _DELIMITED and re.match(r"\[\s*['\"].*['\"]\s*\]$", texts, re.DOTALL):
                message = (
                    "a list that was written as text: save the table as .jsonl, which has lists"
                )
                note_bad(f"{where}: {message}. Received: {texts!r:.60}", skipped)
                continue
            yield from rows_of(where, folder, image, texts, record.get("split"), skipped, *group)


def _records(
    path: pathlib.Path, suffix: str, content: Any, layout: Layout
) -> Iterator[tuple[int, Any]]:
    """(line or number, record or what is wrong with it)."""
    if suffix == ".json":
        yield from enumerate(map(_json_object, content), 1)
        return
    with path.open(encoding=_encoding(path, layout), errors="surrogateescape", newline="") as file:
        yield from _json_lines(file) if suffix == ".jsonl" else _delimited(path, file, layout)


def _encoding(path: pathlib.Path, layout: Layout) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and layout.encoding is None:
        raise ValueError(f'{path} is UTF-16, as Excel writes it. Pass `encoding="utf-16"`.')
    return layout.encoding or "utf-8-sig"


def _json_lines(file: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, _json_object(parse_json(line))
            except ValueError as error:
                yield number, f"expected a JSON object: {error}"


def _json_object(record: Any) -> Any:
    return record if isinstance(record, dict) else f"expected a JSON object: {record!r:.60}"


def _json_content(path: pathlib.Path, layout: Layout) -> Any:
    """An object or a list."""
    encoding = _encoding(path, layout)
    try:
        content = parse_json(path.read_text(encoding))
    except ValueError as error:
        of_lines = "Extra data" in str(error)
        remedy = "Call it .jsonl if each of its lines is an object" if of_lines else "Mend it"
        raise ValueError(f"{path} is no JSON: {error}. {remedy}.") from error
    if not isinstance(content, dict | list):
        raise ValueError(f"{path}: expected an object or a list. Received: {content!r:.60}.")
    return content


def _delimited(path: pathlib.Path, file: IO[str], layout: Layout) -> Iterator[tuple[int, Any]]:
    separator = layout.separator or _SEPARATORS.get(path.suffix.lower(), ",")
    header = layout.columns
    if header is None and path.suffix.lower() == ".token":  # Flickr8k's: picture.jpg#0, caption.
        header = ("image", "text")
    for number, fields in _fields(file, separator, len(header) if header else None):
        if isinstance(fields, str):
            yield number, fields
        elif header is None:
            header = tuple(field.strip() for field in fields)
            _check_header(path, header, separator)
        elif len(fields) == len(header):
            yield number, dict(zip(header, (field.strip() for field in fields), strict=True))
        else:
            yield (
                number,
                f"expected {len(header)} fields ({', '.join(header)}), received {len(fields)}: "
                f"{separator.join(fields)[:99]!r}. Put captions that hold {separator!r} in quotes",
            )


def _check_header(path: pathlib.Path, header: tuple[str, ...], separator: str) -> None:
    if header[0].lower().startswith("sep="):
        raise ValueError(
            f"{path}: expected a header that names its columns. Received: {header[0]!r}, by which "
            "Excel knows the separator. Take that line out, and pass `separator`."
        )
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: a column is there twice: {', '.join(header)}. Rename one.")
    others = [other for other in ",;|\t" if other != separator and other in "".join(header)]
    if len(header) == 1 and others:
        raise ValueError(
            f"{path}: expected columns separated by {separator!r}. Received: {header[0]!r}. Pass "
            f"`separator={others[0]!r}`."
        )
    if not {*map(str.lower, header)} & {*IMAGE_COLUMNS, *TEXT_COLUMNS}:
        raise ValueError(
            f"{path}: expected a header that names its columns. Received: "
            f"{', '.join(header)[:99]!r}. Pass "
            '`columns=("image", "text")` where there is none, or `image_key` and `text_key`.'
        )


def _fields(file: IO[str], separator: str, width: int | None) -> Iterator[tuple[int, Any]]:
    """(line number, fields) of each record, or (line number, what is wrong), and on with the next.

    A quote that does not close would take the next lines for its own.
    """
    lines: collections.deque[str] = collections.deque()  # To be read again.
    taken: list[str] = []

    def feed() -> Iterator[str]:
        while True:
            line = lines.popleft() if lines else file.readline()
            if not line:
                return
            taken.append(line)
            yield line

    number, reader = 1, csv.reader(feed(), delimiter=separator, strict=True)
    while True:
        taken.clear()
        try:
            fields: Any = next(reader)
            if width is not None and any(_is_record(x, separator, width) for x in taken[1:]):
                raise csv.Error("a quote that is not closed")
        except StopIteration:
            return
        except csv.Error as error:
            fields = taken[0].rstrip("\r\n").split(separator)
            if separator != "\t" or len(fields) != width:  # Those with tabs are seldom quoted.
                fields = f"{error}. Put the whole caption in quotes, and double those inside"
            lines.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), delimiter=separator, strict=True)
        if fields:
            width = len(fields) if width is None else width
            yield number, fields
        number += len(taken)


def _is_record(line: str, separator: str, width: int) -> bool:
    fields = line.rstrip("\r\n").split(separator)
    return len(fields) >= width > 1 and any(x.lower().strip('"').endswith(SUFFIXES) for x in fields)


def _json_file(path: pathlib.Path, content: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """(image, captions, split) of COCO's `captions_*.json` or Karpathy's `dataset_*.json`."""
    of_none: list[Any] = []
    twice = 0
    try:
        images = content["images"]
        if "annotations" in content:
            captions: dict[Any, list[Any]] = {x["id"]: [] for x in images}
            twice = len(images) - len(captions)
            for annotation in content["annotations"]:
                image, text = annotation["image_id"], annotation["caption"]
                captions.get(image, of_none).append(text)
            rows = [(x["file_name"], captions[x["id"]], None) for x in images]
        else:
            rows = [
                (
                    os.path.join(x.get("filepath", ""), x["filename"]),
                    [sentence["raw"] for sentence in x["sentences"]],
                    x["split"],
                )
                for x in images
            ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected COCO's captions (images, annotations), Karpathy's splits (images "
            "with sentences), or a list of objects with an image and a text. Received: "
            f"{', '.join(map(repr, content))[:99]}, where {error} is missing or malformed."
        ) from error
    if twice:
        raise ValueError(
            f"{path}: expected another `id` for each image. Received: {twice} of {len(images)} "
            "have that of one before them. Number the images anew, and their captions."
        )
    if of_none:
        # Images may have been taken out on purpose: no pair is wrong.
        message = f"{path}: {len(of_none)} captions are of no image that is in it"
        warnings.warn(f"{message}, first {of_none[0]!r:.60}.", stacklevel=2)
    return rows

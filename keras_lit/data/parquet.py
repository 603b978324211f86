"""Pairs from Parquet files: Hugging Face's, which hold the images, and those that name them.

The second are img2dataset's (url, caption, key; the images lie beside, as files or in a tar) and
tables with a column of file names.
"""

import hashlib
import importlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from keras_lit.data.layouts import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Layout,
    Row,
    check_own_splits,
    column,
    rows_of,
)
from keras_lit.data.shards import IMAGE_ENTRIES, files_called, note_bad, tar_records
from keras_lit.preprocessing.formats import SUFFIXES

_IMAGES = (*IMAGE_COLUMNS, *(suffix[1:] for suffix in SUFFIXES))
_TEXTS = (*TEXT_COLUMNS, "txt")
_KEYS = ("__key__", "key", "id")
_ROWS = 64  # read at a time
# "train-00000-of-00002.parquet", also with a hash at its end; "validation.parquet".
_SPLIT = r"(?P<split>.+)-\d+-of-\d+(-\w+)?|(?P<whole>train|valid|val|validation|dev|test)"


def parquet_files(source: Any) -> list[str]:
    """The Parquet files that a source names: a file, a folder, a glob, or a list of these."""
    return files_called(source, r"(?i:\.parquet)")


def of_split(files: Sequence[str], split: str, test_fraction: float) -> tuple[list[str], str]:
    """The files of a split, and what divides the rows: "column", "names", or "" for neither."""
    own = _splits_in_column(files)
    if any(own):
        check_own_splits(split, set().union(*own), test_fraction, files[0])
        return [file for file, its in zip(files, own, strict=True) if split in its], "column"
    matches = [re.fullmatch(_SPLIT, pathlib.Path(file).stem) for file in files]
    splits = [match and (match["split"] or match["whole"]) for match in matches]
    if not any(splits):
        return list(files), ""
    if not all(splits):
        without = files[splits.index(None)]
        raise ValueError(
            f"{without}: there is no split in its name, as there is in those of others "
            f"({', '.join(sorted(x for x in splits if x))}). Pass a list of the files to read."
        )
    check_own_splits(split, splits, test_fraction, files[0])
    return [file for file, its in zip(files, splits, strict=True) if its == split], "names"


def _splits_in_column(files: Sequence[str]) -> list[set[str]]:
    if "split" not in _open(files[0]).schema_arrow.names:
        return [set()]
    columns = [_open(file).read(["split"])["split"].unique().to_pylist() for file in files]
    return [{str(x) for x in column if x not in (None, "")} for column in columns]


def holds_images(path: str, layout: Layout) -> bool:
    """Whether the images are inside, or in a shard beside, and not files; checks the columns."""
    table = _Table(path, layout)
    return (table.image is None and os.path.isfile(table.shard)) or table.is_bytes


def records(
    layout: Layout, split: str | None, skipped: set[str] | None, path: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, {"image": bytes, "text": captions}) of the rows of a file that holds the images.

    `split`: of those rows that have it in their column, or None.
    """
    table = _Table(path, layout)
    rows = ((n, x) for n, x in table.rows(skipped) if split in (None, str(x.get("split"))))
    if table.image is None:
        of_key: dict[str, list[Any]] = {}
        for _, row in rows:
            of_key.setdefault(str(row["key"]), []).append(row)
        yield from _of_shard(table, of_key)
        return
    called: dict[str, bytes] = {}
    for number, row in rows:
        image, name = row[table.image], None
        if isinstance(image, dict):
            image, name = image["bytes"], image.get("path")
            if image is None and name and (pathlib.Path(path).parent / name).is_file():
                image = (pathlib.Path(path).parent / name).read_bytes()
        key = str(name or next((row[x] for x in _KEYS if row.get(x) is not None), number))
        if isinstance(image, bytes):  # Many files call all of their images "image.jpg".
            content = hashlib.blake2b(image, digest_size=8).digest()
            if called.setdefault(key, content) != content:
                key = f"{key}, {content.hex()}"
        yield key, table.entries(image, row)


def _of_shard(table: "_Table", rows: dict[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images of the tar beside a table, with the captions that the table has of their keys."""
    for name, found in tar_records(table.shard):
        key = os.path.normpath(name)  # Some are called "./000000000.jpg".
        for row in rows.pop(key, []):
            image = next((found[x] for x in IMAGE_ENTRIES if x in found), None)
            yield key, table.entries(image, row)
    for key, missing in rows.items():
        yield from ((key, table.entries(None, row)) for row in missing)


def rows(
    files: Sequence[str], layout: Layout, split: str | None, skipped: set[str] | None
) -> Iterator[Row]:
    """The rows of files that name the images."""
    for path in files:
        try:
            yield from _rows_of(_Table(path, layout), layout, split, skipped)
        except OSError as error:
            note_bad(f"{path}: cannot be read further: {error}", skipped)


def _rows_of(
    table: "_Table", layout: Layout, split: str | None, skipped: set[str] | None
) -> Iterator[Row]:
    stem = pathlib.Path(table.path).with_suffix("")
    folder = layout.image_dir or (stem if table.image is None else stem.parent)
    for number, row in table.rows(skipped):
        image = row[table.image or "key"]
        if table.image is None:
            named = [f"{image}{suffix}" for suffix in SUFFIXES]
            image = next((x for x in named if os.path.isfile(os.path.join(folder, x))), named[0])
        its, where = split or row.get("split"), f"{table.path}, row {number}"
        group = (row[table.group],) if table.group else ()
        yield from rows_of(where, folder, image, row[table.text], its, skipped, *group)


class _Table:
    """An open file and what its columns mean."""

    def __init__(self, path: str, layout: Layout):
        self.path, self.file = path, _open(path)
        schema = self.file.schema_arrow
        self.names = schema.names
        self.image = _image_column(schema, layout, path)
        self.text = column(self.names, layout.text_key, _TEXTS, "text_key", path)
        self.group = layout.group_key and column(
            self.names, layout.group_key, (), "group_key", path
        )
        for name in (self.image or "key", self.text, self.group):
            if self.names.count(name) > 1:
                raise ValueError(f"{path}: the column {name!r} is there twice. Rename one.")
        self.is_bytes = self.image is not None and _is_bytes(schema.field(self.image).type)
        self.shard = f"{os.path.splitext(path)[0]}.tar"

    def rows(self, skipped: set[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, row), without what img2dataset could not fetch: there is nothing to mend."""
        others = [x for x in (*_KEYS, "status", "split", self.group) if x in self.names]
        wanted = list(dict.fromkeys([self.image or "key", self.text, *others]))
        is_img2dataset = {"key", "url", "status"} <= set(self.names)
        for number, row in enumerate(_rows(self.file, wanted)):
            if not is_img2dataset or row["status"] == "success":
                yield number, row
            elif skipped is not None:
                note_bad(f"{self.path}, row {number}: {row['status']}", skipped)

    def entries(self, image: Any, row: dict[str, Any]) -> dict[str, Any]:
        """What `read_shards` takes; a "txt" holds a caption a line."""
        name = "txt" if self.text == "txt" else "text"
        entries = {name: row[self.text], "image": image}
        entries = {name: value for name, value in entries.items() if value}
        return {**entries, self.group: row[self.group]} if self.group else entries


def _image_column(schema: Any, layout: Layout, file: str) -> str | None:
    """The column of the images or of their names; None for img2dataset's, who calls them by key."""
    if layout.image_key is None:
        inside = [x for x in _IMAGES if x in schema.names and _is_bytes(schema.field(x).type)]
        if inside or {"key", "url"} <= set(schema.names):
            return inside[0] if inside else None
    return column(schema.names, layout.image_key, _IMAGES, "image_key", file)


def _is_bytes(kind: Any) -> bool:
    """Whether a column holds bytes, or structs of bytes and path."""
    types = importlib.import_module("pyarrow").types
    if types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    kind = kind.value_type if types.is_dictionary(kind) else kind
    names = ("binary", "large_binary", "fixed_size_binary", "binary_view")
    return any(getattr(types, f"is_{name}")(kind) for name in names)


def _open(file: str) -> Any:
    try:
        pyarrow = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            f"{file} is read with the package pyarrow, which is not there: `pip install pyarrow`."
        ) from error
    try:
        return pyarrow.ParquetFile(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {file!r}.") from error
    except (OSError, ValueError) as error:  # pyarrow's own are among these.
        raise ValueError(f"{file} is no Parquet file that can be read: {error}") from error


def _rows(file: Any, columns: Sequence[Any]) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            yield from batch.to_pylist()
    except ValueError as error:
        raise OSError(f"{error}") from error

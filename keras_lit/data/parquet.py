"""Pairs from Parquet files: Hugging Face's, which hold the images, and those that name them.

The second are img2dataset's (url, caption, key; the images lie beside) and tables with a column of
file names.
"""

import importlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from keras_lit.data.shards import files_called, note_bad
from keras_lit.data.table_formats import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Layout,
    Row,
    check_own_splits,
    column,
    rows_of,
)
from keras_lit.preprocessing.decoding import SUFFIXES

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
    if own := _splits_in_column(files):
        check_own_splits(split, own, test_fraction, files[0])
        return list(files), "column"
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


def _splits_in_column(files: Sequence[str]) -> set[str]:
    if "split" not in _open(files[0]).schema_arrow.names:
        return set()
    columns = (_open(file).read(["split"])["split"] for file in files)
    return {str(value) for column in columns for value in column.unique().to_pylist() if value}


def holds_images(file: str, layout: Layout) -> bool:
    """Whether the images are inside, not only their names; the columns are checked."""
    schema = _open(file).schema_arrow
    column(schema.names, layout.text_key, _TEXTS, "text_key", file)
    image = _image_column(schema, layout, file)
    return image is not None and _is_bytes(schema.field(image).type)


def records(layout: Layout, split: str | None, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, {"image": bytes, "text": captions}) of the rows of a file that holds the images.

    `split`: of those rows that have it in their column, or None.
    """
    file = _open(path)
    names = file.schema_arrow.names
    image_key = str(_image_column(file.schema_arrow, layout, path))
    text_key = column(names, layout.text_key, _TEXTS, "text_key", path)
    keys = [key for key in _KEYS if key in names]
    read = [image_key, text_key, *keys[:1], *(["split"] if split is not None else [])]
    for number, row in enumerate(_rows(file, read)):
        if split is not None and row["split"] != split:
            continue
        image, name = row[image_key], None
        if isinstance(image, dict):
            image, name = image["bytes"], image.get("path")
            if image is None and name and (pathlib.Path(path).parent / name).is_file():
                image = (pathlib.Path(path).parent / name).read_bytes()
        key = name or (row[keys[0]] if keys else None)
        entries = {"image": image, "txt" if text_key == "txt" else "text": row[text_key]}
        yield str(number if key is None else key), {k: x for k, x in entries.items() if x}


def rows(
    files: Sequence[str], layout: Layout, split: str | None, skipped: set[str] | None
) -> Iterator[Row]:
    """The rows of files that name the images."""
    for path in files:
        try:
            yield from _rows_of(path, layout, split, skipped)
        except OSError as error:
            note_bad(f"{path}: cannot be read on: {error}", skipped)


def _rows_of(
    path: str, layout: Layout, split: str | None, skipped: set[str] | None
) -> Iterator[Row]:
    file = _open(path)
    names = file.schema_arrow.names
    image_key = _image_column(file.schema_arrow, layout, path)
    text_key = column(names, layout.text_key, _TEXTS, "text_key", path)
    folder = pathlib.Path(path).parent if layout.image_dir is None else layout.image_dir
    if image_key is None:
        folder = os.path.splitext(path)[0] if layout.image_dir is None else folder
        if os.path.isfile(f"{folder}.tar"):
            raise ValueError(
                f"{path}: its images and captions are in the shard beside it. Pass "
                f"'{folder}.tar', or the folder."
            )
    read = [image_key or "key", text_key, *(x for x in ("status", "split") if x in names)]
    for number, row in enumerate(_rows(file, read)):
        where, image = f"{path}, row {number}", row[read[0]]
        if image_key is None:
            if row.get("status", "success") != "success":
                if skipped is not None:  # img2dataset's own failure; there is nothing to mend.
                    note_bad(f"{where}: {row['status']}", skipped)
                continue
            named = [f"{image}{suffix}" for suffix in SUFFIXES]
            image = next((x for x in named if os.path.isfile(os.path.join(folder, x))), named[0])
        yield from rows_of(where, folder, image, row[text_key], split or row.get("split"), skipped)


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
    return types.is_binary(kind) or types.is_large_binary(kind)


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

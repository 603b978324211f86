"""Which files a source names, and whether they are there."""

import os
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

from keras_lit.data import parquet
from keras_lit.data.shards import shown
from keras_lit.data.table_formats import TABLE_SUFFIXES
from keras_lit.data.tables import has_pairs
from keras_lit.preprocessing.formats import SUFFIXES


def named_by(source: Any, find: Callable[[Any], list[str]]) -> list[str]:
    """The files that `find` finds; if one source of a list names some, each has to."""
    parts = [find(x) for x in source] if isinstance(source, list | tuple) else [find(source)]
    if any(parts) and not all(parts):
        raise ValueError(
            f"{str(source[parts.index([])])!r} names no files of the kind that the others name "
            f"({next(filter(None, parts))[0]!r}). Leave it out, or read it by itself."
        )
    return [file for part in parts for file in part]


def parquet_files(source: Any) -> list[str]:
    """Those of a folder only if there is nothing else to read: img2dataset leaves some beside."""
    files = parquet.parquet_files(source)
    is_folder = not isinstance(source, list | tuple) and os.path.isdir(source)
    return [] if is_folder and files and has_pairs(pathlib.Path(source)) else files


def check_there(files: list[str], skipped: set[str] | None) -> list[str]:
    """Those that are there; raises if named ones are missing, of which `skipped` takes some."""
    missing = [x for x in files if "://" not in x and not os.path.exists(x)]
    if len(files) == len(missing) == 1:
        raise FileNotFoundError(shown(f"There is no file {missing[0]!r}."))
    if missing and (skipped is None or len(missing) == len(files)):
        others = ", or pass `skipped=set()` to read the others" * (len(missing) < len(files))
        message = f"{len(missing)} of {len(files)} files are not there, first {missing[0]!r}."
        raise FileNotFoundError(shown(f"{message} Mend the name{others}."))
    return [x for x in files if x not in missing]


def warn_of_missing(source: Any, files: list[str]) -> None:
    """Names the first of "train-00000-of-00002" and so on that a folder or a glob lacks."""
    if not files or isinstance(source, list | tuple) or os.path.isfile(source):
        return
    parts: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := re.fullmatch(r"(.*)-(\d+)-of-(\d+).*", os.path.basename(file)):
            parts.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (name, count), numbers in parts.items():
        first = int(count in numbers)  # Some count from 1.
        if missing := sorted({*range(first, first + count)} - numbers):
            warnings.warn(
                shown(
                    f"{source}: {len(missing)} of {count} files are missing, first "
                    f"{name}-{missing[0]:05}-of-{count:05}. Only the others are read."
                ),
                stacklevel=3,
            )


def check_no_pictures(source: Any) -> None:
    """Raises for a folder of shards that holds pictures as well."""
    if isinstance(source, list | tuple) or not os.path.isdir(source):
        return
    pictures = [x for x in sorted(os.listdir(source)) if x.lower().endswith(SUFFIXES)]
    if pictures:
        raise ValueError(
            f"{source} holds shards and pictures ({pictures[0]} and others). Pass what to read: "
            f"the shards as a glob, or a folder of pictures alone."
        )


def is_path(source: str | os.PathLike | list[str]) -> bool:
    """Whether it is a file or a folder; raises for what is neither that nor a dataset's name."""
    if isinstance(source, list | tuple):
        raise ValueError(
            "A list of sources should name shards (.tar, .tfrecord) or .parquet files. Received: "
            f"{source}. Read others one by one and join them with `concatenate` or "
            "`keras_lit.data.mixtures`."
        )
    path = pathlib.Path(source)
    if path.exists():
        return True
    if isinstance(source, os.PathLike) or path.suffix in TABLE_SUFFIXES or os.sep in str(source):
        from keras_lit.data import builders

        if not builders.is_name(str(source)):
            raise FileNotFoundError(f"There is no file or folder {str(source)!r}.")
    return False

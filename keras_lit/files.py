"""Files that are whole or not there, and records that say so when they are damaged."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def whole(
    path: str | os.PathLike, directory: str | os.PathLike | None = None
) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, which becomes `path` once it is complete on the disk.

    A process that is killed leaves `path` as it was, and a file `NAME.PID.tmp` behind, in the
    `directory` (on the same disk; by default beside the file).

    Example:

    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> with whole(directory / "a.txt") as working:
    ...     written = working.write_text("all of it")
    >>> [path.name for path in directory.iterdir()]
    ['a.txt']
    """
    path = pathlib.Path(path)
    working = pathlib.Path(directory or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        yield working
        with open(working, "rb+") as file:
            os.fsync(file.fileno())
        working.rename(path)
    finally:
        working.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike, first_stays: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder to fill, which becomes `path` once it is complete.

    A process that is killed leaves `path` as it was, and a folder `NAME.PID.tmp` beside it. Where
    another process has filled `path` meanwhile that is an OSError, unless `first_stays`.

    Example: as for `whole`.
    """
    path = pathlib.Path(path)
    working = path.parent / f"{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        yield working
        try:
            working.rename(path)
        except OSError:
            if not (first_stays and path.is_dir()):
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def remove_leftovers(path: pathlib.Path, directory: pathlib.Path | None = None) -> None:
    """Removes what killed processes left of `whole(path, directory)` or `whole_folder(path)`."""
    for leftover in (directory or path.parent).glob(f"{path.name}.[0-9]*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(
    path: pathlib.Path, value: dict[str, Any], directory: pathlib.Path | None = None
) -> None:
    """Writes a record, with its checksum, to a file that is whole or not there."""
    with whole(path, directory) as working:
        content = {**value, "checksum": digest(value)}
        working.write_text(json.dumps(content, indent=1, sort_keys=True))


def read_json(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    """What `write_json` wrote; ValueError with the `remedy` where it has changed since.

    Example:

    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, {"pairs": 12})
    >>> read_json(path, "Write it again.")
    {'pairs': 12}
    """
    try:
        value = json.loads(path.read_bytes())
        if value.pop("checksum", None) not in (None, digest(value)):
            raise ValueError("its content has another checksum")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}). {remedy}") from error
    return value


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError too where an object has a key twice: `json` keeps the last.

    Example:

    >>> parse_json('{"text": "a cat", "text": "a dog"}')
    Traceback (most recent call last):
    json.decoder.JSONDecodeError: ... 'text' is there twice ...: line 1 column 34 (char 33)
    """
    whole = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    ended = itertools.count()  # Objects come in the order in which they end.

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        number, found = next(ended), dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            signs = re.finditer(r'"(?:[^"\\]|\\.)*"|}', whole)  # Those in strings are none.
            ends = (x.start() for x in signs if x[0] == "}")
            message = f"the key {twice!r} is there twice in the object that ends at"
            raise json.JSONDecodeError(message, whole, *itertools.islice(ends, number, number + 1))
        return found

    try:
        return json.loads(whole, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def digest(value: dict[str, Any]) -> str:
    """SHA-256 of a record, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_number(name: bytes) -> int:
    """The MD5 of a name as a number, the same on every machine: what splits go by."""
    return int(hashlib.md5(name).hexdigest(), 16)


def cache_directory() -> pathlib.Path:
    """Where downloads are kept: `$KERAS_LIT_CACHE`, by default `~/.cache/keras_lit`."""
    return pathlib.Path(os.environ.get("KERAS_LIT_CACHE") or "~/.cache/keras_lit").expanduser()

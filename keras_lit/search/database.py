"""The SQLite file of an index: tables, settings, transactions."""

import contextlib
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER UNIQUE NOT NULL, name UNIQUE NOT NULL,
    hash BLOB NOT NULL, stamp TEXT, metadata TEXT NOT NULL
);
CREATE INDEX of_hash ON pictures (hash);
CREATE TABLE refused (name PRIMARY KEY, stamp TEXT, reason TEXT NOT NULL);
"""

_MISSING = object()
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("format", "generation", "rows", "revision", "dim", "lists"), int),
    "dtype": str,
    "tower": dict,
    "folder": str | None,
    "approximate": bool | None,
}


def stored(name: str) -> str | bytes:
    """A name as SQLite takes it: bytes where a file's name is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def named(value: str | bytes) -> str:
    """The inverse of `stored`."""
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def told(directory: pathlib.Path) -> Iterator[None]:
    """Turns what SQLite raises inside into readable errors."""
    try:
        yield
    except sqlite3.OperationalError as error:  # A full disk, no permission, locked for a minute.
        raise OSError(
            f"The index in {str(directory)!r} cannot be read or written: {error}. What was "
            "complete before is still there."
        ) from error
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{str(directory / 'index.sqlite')!r} is damaged or not an index ({error}). Build the "
            "index anew in another directory."
        ) from error


def connect(directory: pathlib.Path) -> sqlite3.Connection:
    """A connection to the SQLite file of a directory; it waits for other transactions."""
    path = directory / "index.sqlite"
    if not os.access(directory, os.W_OK) and path.exists():
        # Read-only: SQLite would otherwise create files here to keep track of its readers.
        alone = "" if path.with_name("index.sqlite-wal").exists() else "&immutable=1"
        uri = f"{path.absolute().as_uri()}?mode=ro{alone}"
        return sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True)
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
    except UnicodeDecodeError as error:  # In a message of SQLite that quotes what is damaged.
        raise sqlite3.DatabaseError(f"its tables: {error}") from error
    database.execute("PRAGMA synchronous = FULL")
    return database


def place(directory: pathlib.Path) -> tuple[tuple[int, int], tuple[Any, ...]]:
    """What tells the file of a connection from another in its place, and its state.

    The state matters where nobody may write: what others do is seen by a new connection only.
    """
    path = directory / "index.sqlite"
    try:
        of_file = path.stat()
    except OSError:
        return (0, 0), ()
    state: tuple[Any, ...] = ()
    if not os.access(directory, os.W_OK):
        written = path.with_name("index.sqlite-wal").exists()
        state = of_file.st_mtime_ns, of_file.st_size, written
    return (of_file.st_dev, of_file.st_ino), state


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Everything that is executed inside takes effect, or nothing does."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        if database.in_transaction:  # SQLite ends it itself when the disk is full.
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def has_tables(database: sqlite3.Connection) -> bool:
    """Whether an index was begun here."""
    found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'")
    return found.fetchone() is not None


def make_tables(database: sqlite3.Connection) -> None:
    """Creates the tables of an index without pictures."""
    for statement in filter(str.strip, _SCHEMA.split(";")):
        database.execute(statement)


def settings_of(database: sqlite3.Connection) -> dict[str, Any]:
    """The settings, as this transaction sees them; sqlite3.DatabaseError where they are damaged."""
    found = database.execute("SELECT name, value FROM settings")
    try:
        settings = {name: json.loads(value) for name, value in found}
    except (ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(f"a setting is no JSON: {error}") from error
    for name, kinds in _SETTINGS.items():
        value = settings.get(name, _MISSING)
        if not isinstance(value, kinds) or (isinstance(value, int) and value < 0):
            said = "is missing" if value is _MISSING else f"is {value!r:.40}"
            raise sqlite3.DatabaseError(f"its setting {name!r} {said}")
    return settings


def set_settings(database: sqlite3.Connection, settings: dict[str, Any]) -> None:
    """Changes or adds settings."""
    values = [(name, json.dumps(value)) for name, value in settings.items()]
    database.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)

"""The files of an index: vectors, only ever appended to, and SQLite that says which count.

A picture has an id for as long as its name (or, renamed, its content) is there, and a row: the
place of its vector in the files. Rows beyond the last that SQLite knows are of a killed process,
and the next one writes over them. A row never changes, so that readers need no lock; the holes that
pictures leave are closed by writing the files anew, as the next generation.
"""

import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_lit.search import approximate

# Files hold a multiple of this many rows: few shapes for the compiler. Part of the format.
STEP = 1024
FORMAT = 1
_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER UNIQUE NOT NULL, name UNIQUE NOT NULL,
    hash BLOB NOT NULL, stamp TEXT, metadata TEXT NOT NULL
);
CREATE INDEX of_hash ON pictures (hash);
CREATE TABLE refused (name PRIMARY KEY, stamp TEXT, reason TEXT NOT NULL);
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A row of SQLite; by its `stamp` a file is known to be unchanged without reading it."""

    name: str
    hash: bytes
    stamp: str | None
    metadata: str  # JSON


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a reader sees of the files: `alive` [rows] bool, and arrays by kind."""

    revision: int
    generation: int
    alive: np.ndarray
    arrays: dict[str, Any]
    lists: tuple[pathlib.Path, int] | None  # for an approximate search, of this many rows


class Store:
    """The directory of an index.

    Args:
        directory: a path.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged, or of a later version of keras_lit.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self._local = threading.local()
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self.settings = self.read_settings()

    @classmethod
    def create(cls, directory: pathlib.Path, settings: dict[str, Any]) -> "Store":
        """The store of a directory, which is made where there is none."""
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(connect(directory)) as database, transaction(database):
            if not _has_tables(database):
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                first = {
                    "format": FORMAT,
                    "generation": 0,
                    "rows": 0,
                    "revision": 0,
                    **settings,
                    "lists": 0,
                }
                _set(database, first)
        return cls(directory)

    @property
    def database(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "database"):
            self._local.database = connect(self.directory)
        return self._local.database

    def read_settings(self) -> dict[str, Any]:
        """The settings as they now are."""
        if not (self.directory / "index.sqlite").exists() or not _has_tables(self.database):
            raise FileNotFoundError(
                f"There is no index in {str(self.directory)!r}. Make one with "
                "`keras_lit.search.Index.build(model, pictures, directory)`."
            )
        found = _get(self.database)
        if found["format"] > FORMAT:
            raise ValueError(
                f"{str(self.directory)!r} was written by a later keras_lit (format "
                f"{found['format']}; this one reads {FORMAT}). Upgrade keras_lit."
            )
        return found

    # Reading.

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[sqlite3.Connection, Snapshot]]:
        """A connection inside of a transaction and the snapshot of the vectors that belongs to it.

        What others write meanwhile is not seen.
        """
        database = self.database
        with transaction(database, "DEFERRED"):
            settings = _get(database)
            while (snapshot := self._current(database, settings)) is None:
                database.execute("COMMIT")  # Another generation has come meanwhile.
                database.execute("BEGIN DEFERRED")
                settings = _get(database)
            yield database, snapshot

    def _current(self, database: sqlite3.Connection, settings: dict[str, Any]) -> Snapshot | None:
        with self._lock:
            known = self._snapshot
            if known is not None and known.revision == settings["revision"]:
                return known
            rows, generation = settings["rows"], settings["generation"]
            steps = -(-rows // STEP)
            arrays = {} if known is None else known.arrays
            if known is None or known.generation != generation or _steps(known) != steps:
                try:
                    arrays = self._mapped(generation, steps)
                except FileNotFoundError:
                    if _get(database, fresh=self.directory)["generation"] != generation:
                        return None
                    raise
            alive = np.zeros(rows, bool)
            found = database.execute("SELECT row FROM pictures")
            alive[np.fromiter((row for (row,) in found), np.int64)] = True
            of_lists = settings["lists"]
            lists = of_lists and (self.path(f"lists-{of_lists}", generation), of_lists)
            self._snapshot = Snapshot(settings["revision"], generation, alive, arrays, lists)
            return self._snapshot

    def _mapped(self, generation: int, steps: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind, (dtype, width) in self.kinds.items():
            path, shape = self.path(kind, generation), (steps * STEP, width)
            if not steps:
                found[kind] = np.zeros(shape, dtype)
                continue
            size = np.dtype(dtype).itemsize * shape[0] * width
            with open(path, "rb") as file:
                if (received := os.fstat(file.fileno()).st_size) < size:
                    raise ValueError(
                        f"{str(path)!r} is damaged: it should hold {size} bytes. Received: "
                        f"{received}. Build the index anew in another directory."
                    )
                if kind == "vectors" and "codes" in self.kinds:
                    found[kind] = FewRows(path, shape)
                    continue
                # Copy on write: nothing is written, but TensorFlow takes no read-only memory.
                memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
                found[kind] = np.frombuffer(memory, dtype).reshape(shape)
        return found

    @property
    def kinds(self) -> dict[str, tuple[str, int]]:
        """The dtype and width of each file of rows: vectors, and what is scanned in their place."""
        dim, dtype = self.settings["dim"], self.settings["dtype"]
        found = {"vectors": ("float32", dim)}
        if dtype != "float32":
            found["codes"] = (dtype, dim)
        if dtype == "int8":
            found["scales"] = ("float32", 1)
        return found

    def path(self, kind: str, generation: int) -> pathlib.Path:
        """The file of a kind of rows."""
        return self.directory / f"{kind}-{generation}"

    # Writing.

    @contextlib.contextmanager
    def writing(self) -> Iterator["Writer"]:
        """The one writer of the directory; it ends with its process, however that ends."""
        with open(self.directory / "writer.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RuntimeError(
                    f"Another process is writing to {str(self.directory)!r}. Wait until it has "
                    "finished: one can write at a time, any number can search."
                ) from error
            yield Writer(self)


class FewRows:
    """[rows, dim] float32 in a file, read where they are asked for: mapped, all would be in memory.

    Args:
        path: the file.
        shape: of it.
    """

    def __init__(self, path: pathlib.Path, shape: tuple[int, int]):
        self._file, self.shape = open(path, "rb"), shape  # noqa: SIM115 (open as long as this)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = np.empty([len(rows), self.shape[1]], np.float32)
        for row, out in zip(np.asarray(rows).tolist(), found, strict=True):
            os.preadv(self._file.fileno(), [out], row * out.nbytes)
        return found


class Writer:
    """Appends, renames and removes, each whole or not at all; see `Store.writing`."""

    def __init__(self, store: Store):
        self.store, self.database = store, store.database
        self.settings = _get(self.database)
        self._remove_old()

    def append(self, pictures: Sequence[Picture], vectors: np.ndarray) -> None:
        """Adds pictures and their [n, dim] float32 vectors; one with a known name replaces it."""
        first = self.settings["rows"]
        self._write(self.settings["generation"], first, vectors)
        values = [
            (first + i, stored(x.name), x.hash, x.stamp, x.metadata) for i, x in enumerate(pictures)
        ]
        with self._transaction({"rows": first + len(pictures)}):
            self.database.executemany(
                "INSERT INTO pictures (row, name, hash, stamp, metadata) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET row = excluded.row, hash = excluded.hash, "
                "stamp = excluded.stamp, metadata = excluded.metadata",
                values,
            )
            self.database.executemany(
                "DELETE FROM refused WHERE name = ?", [(value[1],) for value in values]
            )

    def vectors(self, rows: Sequence[int]) -> np.ndarray:
        """[n, dim] float32 of n rows."""
        with self.store.reading() as (_, snapshot):
            return snapshot.arrays["vectors"][list(rows)]

    def change(self, *statements: tuple[str, Sequence[tuple]]) -> None:
        """Executes statements, each for some rows of values, all or none."""
        if not any(rows for _, rows in statements):
            return
        with self._transaction({}):
            for statement, rows in statements:
                self.database.executemany(statement, rows)

    def compact(self) -> None:
        """Writes the files anew without the rows that no picture has."""
        new = self.settings["generation"] + 1
        with self.store.reading() as (_, snapshot):
            rows = np.flatnonzero(snapshot.alive)
            for first in range(0, len(rows), STEP):
                vectors = snapshot.arrays["vectors"][rows[first : first + STEP]]
                self._write(new, first, vectors)
        with self._transaction({"generation": new, "rows": len(rows), "lists": 0}):
            # In ascending order no new place is taken yet.
            self.database.executemany(
                "UPDATE pictures SET row = ? WHERE row = ?", enumerate(rows.tolist())
            )
        self._remove_old()

    def make_lists(self, verbose: bool) -> None:
        """For an approximate search of the rows that there are now."""
        rows = self.settings["rows"]
        with self.store.reading() as (_, snapshot):
            path = self.store.path(f"lists-{rows}", snapshot.generation)
            approximate.build(path, snapshot.arrays["vectors"], snapshot.alive, verbose)
        self.set(lists=rows)
        self._remove_old()

    def _remove_old(self) -> None:
        """Files of other generations, of lists before, and what killed processes left."""
        kinds = (*self.store.kinds, f"lists-{self.settings['lists']}")
        kept = {self.store.path(kind, self.settings["generation"]) for kind in kinds}
        for kind in (*self.store.kinds, "lists"):
            for path in set(self.store.directory.glob(f"{kind}-[0-9]*")) - kept:
                path.unlink()

    def set(self, **settings: Any) -> None:
        """Changes settings."""
        with self._transaction(settings):
            pass

    @contextlib.contextmanager
    def _transaction(self, settings: dict[str, Any]) -> Iterator[None]:
        settings = {**settings, "revision": self.settings["revision"] + 1}
        with transaction(self.database):
            yield
            _set(self.database, settings)
        self.settings |= settings

    def _write(self, generation: int, first: int, vectors: np.ndarray) -> None:
        """Rows from `first` on to their files, and to the disk."""
        arrays = quantized(vectors, self.store.settings["dtype"])
        for kind, (dtype, width) in self.store.kinds.items():
            size = np.dtype(dtype).itemsize * width
            with open(self.store.path(kind, generation), "ab") as file:
                steps = -(-(first + len(vectors)) // STEP)
                if file.tell() < steps * STEP * size:
                    file.truncate(steps * STEP * size)
            with open(self.store.path(kind, generation), "r+b") as file:
                file.seek(first * size)
                file.write(np.ascontiguousarray(arrays[kind]).data)
                file.flush()
                os.fsync(file.fileno())


def quantized(vectors: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The arrays of `Store.kinds`: the vectors, and of another dtype their codes.

    An int8 code times its row's scale is the vector, to half of a step.
    """
    found = {"vectors": vectors}
    if dtype == "float16":
        found["codes"] = vectors.astype("float16")
    if dtype == "int8":
        scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
        found["codes"] = np.rint(vectors / scales).astype("int8")
        found["scales"] = scales.astype("float32")
    return found


def stored(name: str) -> str | bytes:
    """A name as SQLite takes it: files may have names that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def named(value: str | bytes) -> str:
    """The name that `stored` was given."""
    return os.fsdecode(value) if isinstance(value, bytes) else value


def connect(directory: pathlib.Path) -> sqlite3.Connection:
    """A connection to the SQLite file of a directory, which waits for others' transactions."""
    path = directory / "index.sqlite"
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{str(path)!r} is damaged or no index ({error}). Build the index anew in another "
            "directory."
        ) from error
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All that is executed inside, or nothing."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _has_tables(database: sqlite3.Connection) -> bool:
    found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'")
    return found.fetchone() is not None


def _get(database: sqlite3.Connection, fresh: pathlib.Path | None = None) -> dict[str, Any]:
    """The settings, as this transaction sees them, or as they now are."""
    if fresh is not None:
        with contextlib.closing(connect(fresh)) as other:
            return _get(other)
    found = database.execute("SELECT name, value FROM settings")
    return {name: json.loads(value) for name, value in found}


def _set(database: sqlite3.Connection, settings: dict[str, Any]) -> None:
    values = [(name, json.dumps(value)) for name, value in settings.items()]
    database.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)


def _steps(snapshot: Snapshot) -> int:
    return len(snapshot.arrays["vectors"]) // STEP

"""The files of an index: vectors, only ever appended to, and SQLite, which says which count.

A picture keeps its id for as long as its name (or, when renamed, its content) exists, and has a
row: the place of its vector in the files. Rows after the last that SQLite knows were left by a
killed process, and the next writer overwrites them. A row never changes, so that readers need no
lock; the gaps that removed pictures leave are closed by writing the files again, as the next
generation.
"""

import contextlib
import dataclasses
import mmap
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_lit.search import binary
from keras_lit.search.database import (
    connect,
    has_tables,
    make_tables,
    place,
    set_settings,
    settings_of,
    told,
    transaction,
)

# Files hold a multiple of this many rows, so that XLA compiles few shapes. Part of the format.
STEP = 1024
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Picture:
    """A row of SQLite; an equal `stamp` says that a file is unchanged, without reading it."""

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
    lists: tuple[pathlib.Path, int] | None  # Their file, and how many rows they cover.


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
        self._file: tuple[int, int] | None = None
        self.settings = self.read_settings()

    @classmethod
    def create(cls, directory: pathlib.Path, settings: dict[str, Any]) -> "Store":
        """The store of a directory, which is created if needed."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise OSError(f"There can be no index in {str(directory)!r}: {error}.") from error
        with (
            told(directory),
            contextlib.closing(connect(directory)) as database,
            transaction(database),
        ):
            if not has_tables(database):
                make_tables(database)
                first = {
                    "format": FORMAT,
                    "generation": 0,
                    "rows": 0,
                    "revision": 0,
                    **settings,
                    "lists": 0,
                }
                set_settings(database, first)
        return cls(directory)

    @property
    def database(self) -> sqlite3.Connection:
        """This thread's connection."""
        state = self.check_in_place()
        if getattr(self._local, "state", None) != state:
            if hasattr(self._local, "database"):
                self._local.database.close()
            self._local.database, self._local.state = connect(self.directory), state
        return self._local.database

    def check_in_place(self) -> tuple[Any, ...]:
        """Raises FileNotFoundError if the index that was opened is gone; else its `place`'s state.

        A connection would go on in the file that was deleted, beside the vectors of another index.
        """
        file, state = place(self.directory)
        if file != (self._file or file):
            raise FileNotFoundError(
                f"The index in {str(self.directory)!r} was deleted, moved or replaced since it was "
                "opened. Open the one that is there now, `Index(directory, model)`."
            )
        self._file = file
        return state

    def read_settings(self) -> dict[str, Any]:
        """The current settings."""
        with told(self.directory):
            file = self.directory / "index.sqlite"
            if not os.path.exists(file) or not has_tables(self.database):
                raise FileNotFoundError(
                    f"There is no index in {str(self.directory)!r}. Make one with "
                    "`keras_lit.search.Index.build(model, pictures, directory)`."
                )
            found = settings_of(self.database)
        if found["format"] > FORMAT:
            raise ValueError(
                f"{str(self.directory)!r} was written by a later keras_lit (format "
                f"{found['format']}; this one reads {FORMAT}). Upgrade keras_lit."
            )
        return found

    # Reading.

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[sqlite3.Connection, Snapshot]]:
        """A connection inside a transaction, and the snapshot of the vectors that belongs to it.

        What others write meanwhile is invisible.
        """
        database = self.database
        with told(self.directory), transaction(database, "DEFERRED"):
            settings = settings_of(database)
            while (snapshot := self._current(database, settings)) is None:
                database.execute("COMMIT")  # The next generation was written meanwhile.
                database.execute("BEGIN DEFERRED")
                settings = settings_of(database)
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
                    with contextlib.closing(connect(self.directory)) as other:
                        if settings_of(other)["generation"] != generation:
                            return None
                    raise
            alive = np.zeros(rows, bool)
            found = database.execute("SELECT row FROM pictures")
            try:
                numbers = np.fromiter((row for (row,) in found), np.int64)
            except (ValueError, TypeError) as error:
                raise sqlite3.DatabaseError(f"the row of a picture: {error}") from error
            if not ((numbers >= 0) & (numbers < rows)).all():
                raise sqlite3.DatabaseError("a picture has no vector")
            alive[numbers] = True
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
                # Copy on write, though nothing is written: TensorFlow takes no read-only memory.
                memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
                found[kind] = np.frombuffer(memory, dtype).reshape(shape)
        return found

    @property
    def kinds(self) -> dict[str, tuple[str, int]]:
        """The dtype and width of each file: the vectors, and what is scanned in their place."""
        dim, dtype = self.settings["dim"], self.settings["dtype"]
        found = {"vectors": ("float32", dim)}
        if dtype == "binary":
            found["codes"] = ("uint64", binary.words(dim))
        elif dtype != "float32":
            found["codes"] = (dtype, dim)
        if dtype == "int8":
            found["scales"] = ("float32", 1)
        return found

    def path(self, kind: str, generation: int) -> pathlib.Path:
        """The file of a kind of rows."""
        return self.directory / f"{kind}-{generation}"


class FewRows:
    """[rows, dim] float32 in a file, read on demand: mapped, all would end up in memory.

    Args:
        path: the file.
        shape: its shape.
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


def _steps(snapshot: Snapshot) -> int:
    return len(snapshot.arrays["vectors"]) // STEP

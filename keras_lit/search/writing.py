"""The one writer of an index: each of its changes is complete or absent."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_lit.search import approximate, binary
from keras_lit.search.database import set_settings, settings_of, stored, told, transaction
from keras_lit.search.store import STEP, Picture, Store


@contextlib.contextmanager
def writing(store: Store) -> Iterator["Writer"]:
    """The one writer of the directory; the lock ends with its process, however that ends."""
    store.check_in_place()
    with open(store.directory / "writer.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(
                f"Another process is writing to {str(store.directory)!r}. Wait until it has "
                "finished: one can write at a time, any number can search."
            ) from error
        with told(store.directory):
            yield Writer(store)


class Writer:
    """Appends, renames and removes, each completely or not at all; see `writing`."""

    def __init__(self, store: Store):
        self.store, self.database = store, store.database
        self.settings = settings_of(self.database)
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
        """Executes statements, each for several rows of values: all or none."""
        if not any(rows for _, rows in statements):
            return
        with self._transaction({}):
            for statement, rows in statements:
                self.database.executemany(statement, rows)

    def compact(self) -> None:
        """Writes the files again without the rows that belong to no picture."""
        new = self.settings["generation"] + 1
        with self.store.reading() as (_, snapshot):
            rows = np.flatnonzero(snapshot.alive)
            for first in range(0, len(rows), STEP):
                vectors = snapshot.arrays["vectors"][rows[first : first + STEP]]
                self._write(new, first, vectors)
        with self._transaction({"generation": new, "rows": len(rows), "lists": 0}):
            # In ascending order the new row is always free.
            self.database.executemany(
                "UPDATE pictures SET row = ? WHERE row = ?", enumerate(rows.tolist())
            )
        self._remove_old()

    def make_lists(self, verbose: bool) -> None:
        """Makes the lists for an approximate search of the current rows."""
        rows = self.settings["rows"]
        with self.store.reading() as (_, snapshot):
            path = self.store.path(f"lists-{rows}", snapshot.generation)
            approximate.build(path, snapshot.arrays["vectors"], snapshot.alive, verbose)
        self.set(lists=rows)
        self._remove_old()

    def _remove_old(self) -> None:
        """Removes files of other generations, earlier lists, and what killed processes left."""
        kinds = (*self.store.kinds, f"lists-{self.settings['lists']}")
        kept = {self.store.path(kind, self.settings["generation"]) for kind in kinds}
        ours = re.compile(r"(vectors|codes|scales|lists-\d+)-\d+(\.\d+\.tmp)?")
        for path in self.store.directory.iterdir():
            if ours.fullmatch(path.name) and path not in kept and not path.is_dir():
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
            set_settings(self.database, settings)
        self.settings |= settings

    def _write(self, generation: int, first: int, vectors: np.ndarray) -> None:
        """Writes rows from `first` on to their files, and syncs them to disk."""
        arrays = quantized(vectors, self.store.settings["dtype"])
        for kind, (dtype, width) in self.store.kinds.items():
            size, path = np.dtype(dtype).itemsize * width, self.store.path(kind, generation)
            try:
                with open(path, "ab") as file:
                    steps = -(-(first + len(vectors)) // STEP)
                    if file.tell() < steps * STEP * size:
                        file.truncate(steps * STEP * size)
                with open(path, "r+b") as file:
                    file.seek(first * size)
                    file.write(np.ascontiguousarray(arrays[kind]).data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:  # A full disk's error does not name the file.
                raise OSError(error.errno, error.strerror, str(path)) from error


def quantized(vectors: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The arrays of `Store.kinds`: the vectors, and their codes for another dtype.

    An int8 code times its row's scale is the vector, to within half a step.
    """
    found = {"vectors": vectors}
    if dtype == "binary":
        found["codes"] = binary.codes(vectors)
    if dtype == "float16":
        found["codes"] = vectors.astype("float16")
    if dtype == "int8":
        scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
        found["codes"] = np.rint(vectors / scales).astype("int8")
        found["scales"] = scales.astype("float32")
    return found

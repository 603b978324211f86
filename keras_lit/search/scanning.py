"""Exact search: every vector is compared, and the best are scored again.

NumPy multiplies float32 vectors. Codes go through XLA, a tile at a time, which casts them while it
multiplies, so that only 16 or 8 bits per number are read (or one, whose products are bit counts):
memory bandwidth decides how fast a scan is.
"""

import concurrent.futures
import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit.search import approximate, binary
from keras_lit.search.store import STEP, Snapshot

TILE = 16 * STEP
# Rows of codes in a call, which itself takes as long as some thousand; each size compiles once.
SIZES = (64 * STEP, 32 * STEP, 16 * STEP, 8 * STEP, 4 * STEP, STEP)
# How many queries are scanned at a time; a single one has a shape of its own.
QUERIES = 32
# This many times k candidates (k without codes), and a few more, are scored again.
_TIMES, _MORE = 4, 16
_TIMES_BINARY, _MORE_BINARY = 10, 50

Found = tuple[np.ndarray, np.ndarray]


class Scanner:
    """Scans the vectors of a snapshot (or their codes), which stay on the disk, mapped.

    Args:
        snapshot: of `Store.reading`.
    """

    def __init__(self, snapshot: Snapshot):
        self.vectors = snapshot.arrays["vectors"]
        self._scales = snapshot.arrays.get("scales")
        self._tiles: list[tuple[int, tf.Tensor]] = []
        self._times, self._more, self._binary = 1, _MORE, False
        if (codes := snapshot.arrays.get("codes")) is None:
            return
        self._times, self._binary = _TIMES, codes.dtype == "uint64"
        if self._binary:
            self._times, self._more = _TIMES_BINARY, _MORE_BINARY
        first = 0
        for size in SIZES:
            # All threads get as many; the last rows are too few for that.
            together = 1 if size == STEP else _threads()
            for _ in range((len(codes) - first) // (size * together) * together):
                self._tiles.append((first, _tensor(codes[first : first + size])))
                first += size

    def search(
        self,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray,
        lists: tuple[approximate.Lists, int] | None = None,
        exact: bool = False,
    ) -> Found:
        """The rows of the best k of those `allowed`, and their scores, best first.

        Args:
            queries: [n, dim] float32, of unit length.
            k: int.
            allowed: [rows] bool.
            lists: the lists and how many rows, the first ones, they cover: only the candidates that
                they give are compared of these. None: all rows are.
            exact: whether to read all vectors where their codes have one bit per dimension.

        Returns:
            [n, k] int64 rows and [n, k] float32 cosines, ties by row; fewer than k where fewer are
            allowed. With `lists` a row may be -1: none.
        """
        k = min(k, int(np.count_nonzero(allowed)))
        rows, scores = (
            np.zeros([len(queries), k], np.int64),
            np.zeros([len(queries), k], np.float32),
        )
        for first in range(0, len(queries) if k else 0, QUERIES):
            some = slice(first, first + QUERIES)
            if exact and self._binary:
                candidates = self._compared(queries[some], k, allowed)
            else:
                candidates = self._candidates(queries[some], k, allowed, lists[1] if lists else 0)
            if lists:
                of_lists = lists[0].candidates(queries[some], _TIMES * k + _MORE, allowed)
                candidates = np.concatenate([of_lists, candidates], axis=1)
            rows[some], scores[some] = best_of(self.vectors, queries[some], candidates, k)
        return rows, scores

    def _candidates(
        self, queries: np.ndarray, k: int, allowed: np.ndarray, first: int
    ) -> np.ndarray:
        """Candidates among the rows from `first` on: [n, m] int64."""
        allowed = allowed[first:]
        count = min(self._times * k + self._more, int(np.count_nonzero(allowed)))
        if not count:
            return np.zeros([len(queries), 0], np.int64)
        scores = self._products(queries, first)[:, : len(allowed)]
        if not allowed.all():
            scores[:, ~allowed] = -np.inf
        return first + np.argpartition(scores, -count, axis=1)[:, -count:]

    def _compared(self, queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        """The best [n, k] int64 rows by the vectors themselves, read from disk."""
        rows, scores = np.zeros([len(queries), 0], np.int64), np.zeros([len(queries), 0])
        found = np.flatnonzero(allowed)
        for i in range(0, len(found), TILE):
            some = found[i : i + TILE]
            products = queries @ self.vectors[some].T
            rows = np.concatenate([rows, np.broadcast_to(some, products.shape)], axis=1)
            scores = np.concatenate([scores, products], axis=1)
            if rows.shape[1] > k:
                best = np.argpartition(scores, -k, axis=1)[:, -k:]
                rows = np.take_along_axis(rows, best, 1)
                scores = np.take_along_axis(scores, best, 1)
        return rows

    def _products(self, queries: np.ndarray, first: int) -> np.ndarray:
        """[n, dim] -> [n, rows from `first` on], n at most `QUERIES`; approximate with codes."""
        if not self._tiles:
            return queries @ self.vectors[first:].T
        count = 1 if len(queries) == 1 else QUERIES
        filled = np.pad(queries, [(0, count - len(queries)), (0, 0)])
        product = _products
        if self._binary:
            filled, product = binary.planes(filled), binary.closeness
        with tf.device("CPU"):
            given = tf.constant(filled)
        tiles = [(i, tile) for i, tile in self._tiles if i + len(tile) > first]
        start, end = tiles[0][0], tiles[-1][0] + len(tiles[-1][1])
        scores = np.empty([count, end - start], np.float32)

        def multiply(share: list[tuple[int, tf.Tensor]]) -> None:
            for i, tile in share:
                at = i - start
                scores[:, at : at + len(tile)] = product(tile, given).numpy()

        # Dealt out in turns: see `__init__`.
        threads = min(_threads(), len(tiles))
        list(_pool().map(multiply, [tiles[i::threads] for i in range(threads)]))
        scores = scores[: len(queries), first - start :]
        if self._scales is not None:
            scores *= self._scales[first:, 0]
        return scores


def best_of(vectors: Any, queries: np.ndarray, rows: np.ndarray, k: int) -> Found:
    """The best k of each query's candidates [n, m] (-1: none) by the vectors themselves."""
    scores = np.empty(rows.shape, np.float32)
    for query, candidates, of_query in zip(queries, rows, scores, strict=True):
        np.matmul(vectors[np.maximum(candidates, 0)], query, out=of_query)
    scores[rows < 0] = -np.inf
    order = np.lexsort([rows, -scores])[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


@tf.function(jit_compile=True, autograph=False)
def _products(tile: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """[rows, dim] of any dtype, [n, dim] -> [n, rows]."""
    if queries.shape[0] == 1:
        return tf.linalg.matvec(tf.cast(tile, tf.float32), queries[0])[tf.newaxis]
    return tf.linalg.matmul(queries, tf.cast(tile, tf.float32), transpose_b=True)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """The same memory as a tensor."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _threads() -> int:
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows.
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


@functools.cache
def _pool() -> Any:
    return concurrent.futures.ThreadPoolExecutor(_threads())

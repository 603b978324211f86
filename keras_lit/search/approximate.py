"""Approximate search for millions: faiss' inverted lists, of which a query reads the nearest.

The lists hold 8-bit codes; the caller scores the candidates again by their vectors.
"""

import importlib.util
import math
import pathlib
from typing import Any

import numpy as np
import tqdm

from keras_lit import files

# Below this many vectors an exact scan is fast enough.
AT_LEAST = 500_000
# The fraction of the lists that a query reads.
_PART = 1 / 16
_POINTS = 40  # Training vectors per list.
_ROUNDS = 8
_AT_A_TIME = 16384


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def check_available() -> None:
    """Raises ImportError where faiss is missing."""
    if not available():
        raise ImportError(
            "`approximate=True` needs faiss: `pip install keras_lit[data]`. Without it an index is "
            "searched exactly."
        )


def build(path: pathlib.Path, vectors: Any, alive: np.ndarray, verbose: bool) -> None:
    """Writes the lists of those rows of `vectors` [rows, dim] that are alive."""
    import faiss

    rows, dim = np.flatnonzero(alive), vectors.shape[1]
    lists = max(1, min(round(4 * math.sqrt(len(rows))), len(rows) // _POINTS))
    kind, metric = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, lists, kind, metric)
    index.cp.niter, index.cp.seed = _ROUNDS, 1
    index.cp.min_points_per_centroid = 1  # On purpose: silences faiss' warning.
    count = min(len(rows), _POINTS * lists)
    sample = np.random.default_rng(0).choice(rows, count, replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    with tqdm.tqdm(None, "lists", len(rows), unit=" pictures", disable=not verbose) as bar:
        for i in range(0, len(rows), _AT_A_TIME):
            some = rows[i : i + _AT_A_TIME]
            index.add_with_ids(np.ascontiguousarray(vectors[some]), some)
            bar.update(len(some))
    with files.whole(path) as working:
        faiss.write_index(index, str(working))


class Lists:
    """What `build` wrote, in memory: mapped, a query takes 1.6 times as long.

    Args:
        path: the file.
    """

    def __init__(self, path: pathlib.Path):
        import faiss

        read: Any = faiss.read_index  # Its types are those of C++.
        try:
            self._index = read(str(path))
        except RuntimeError as error:
            raise ValueError(
                f"{str(path)!r} is damaged. Delete that file: the index is then searched exactly."
            ) from error
        self._index.parallel_mode = 1  # Threads share the lists of a query.

    def candidates(self, queries: np.ndarray, count: int, alive: np.ndarray) -> np.ndarray:
        """[n, dim] -> [n, count] int64 rows of those alive; -1 where fewer are found."""
        import faiss

        selector: Any = faiss.IDSelectorBitmap
        options: dict[str, Any] = {"nprobe": math.ceil(self._index.nlist * _PART)}
        if not np.all(alive):
            options["sel"] = selector(np.packbits(alive, bitorder="little"))
        return self._index.search(queries, count, params=faiss.SearchParametersIVF(**options))[1]

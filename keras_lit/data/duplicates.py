"""Near-duplicates of images: by perceptual hash and by embedding, in less than quadratic time.

The paper removed from its training images those in its test sets (section 5.5, Appendix K): match
the images to train on (queries) against the test images (references), and drop the queries that
`Matches.queries` names. Without references the images are matched with each other.
"""

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.data.filters import Filter
from keras_lit.preprocessing.decoding import decode_image, to_rgb

__all__ = ["Matches", "match_embeddings", "match_hashes", "not_named", "perceptual_hashes"]

_QUERIES = 4096  # searched for at a time
_EXACT_BELOW = 5_000  # so few references need no cells


@dataclass
class Matches:
    """Pairs of images that look the same.

    Args:
        queries: [n] int64 rows of the queries, ascending.
        references: [n] int64 rows of the references (of the queries where there were none; then
            below `queries`).
        scores: [n] float32, the cosine similarity or the part of equal bits; 1 is equal.

    Example:

    >>> matches = keras_lit.data.duplicates.Matches(np.array([2]), np.array([0]), np.array([0.9]))
    >>> matches.report(["a", "b", "c"])
    [{'query': 'c', 'reference': 'a', 'score': 0.9}]
    >>> matches.repeats(3)
    array([2])
    """

    queries: np.ndarray
    references: np.ndarray
    scores: np.ndarray

    def __or__(self, other: "Matches") -> "Matches":
        """The matches of either; of a match in both, this one's score."""
        pairs = np.concatenate([self._rows(), other._rows()], axis=1)
        unique, first = np.unique(pairs, axis=1, return_index=True)
        return Matches(unique[0], unique[1], np.concatenate([self.scores, other.scores])[first])

    def report(
        self, query_names: Iterable[str], reference_names: Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        """One {"query", "reference", "score"} a match, by the images' names, best first.

        Args:
            query_names: the name of each query.
            reference_names: the name of each reference; None for matches within one set.

        Returns:
            A list of dicts.

        Example:

        >>> found = np.array([2]), np.array([0]), np.array([0.9])  # Row 2 is like row 0.
        >>> matches = keras_lit.data.duplicates.Matches(*found)
        >>> matches.report(["a.jpg", "b.jpg", "c.jpg"])
        [{'query': 'c.jpg', 'reference': 'a.jpg', 'score': 0.9}]
        """
        queries = list(query_names)
        references = queries if reference_names is None else list(reference_names)
        order = np.argsort(-self.scores, kind="stable")
        rows = zip(self.queries[order], self.references[order], self.scores[order], strict=True)
        return [
            {"query": queries[q], "reference": references[r], "score": round(float(score), 4)}
            for q, r, score in rows
        ]

    def groups(self, images: int) -> np.ndarray:
        """Groups of images that matches within one set connect.

        Args:
            images: int, how many images the set has.

        Returns:
            [images] int array of the groups' numbers.

        Example:

        >>> found = np.array([2]), np.array([0]), np.array([0.9])  # Row 2 is like row 0.
        >>> matches = keras_lit.data.duplicates.Matches(*found)
        >>> matches.groups(3)
        array([0, 1, 0], dtype=int32)
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        links = coo_array((np.ones(len(self.queries)), self._rows()), shape=(images, images))
        return connected_components(links, directed=False)[1]

    def repeats(self, images: int) -> np.ndarray:
        """The rows to drop so that the first of each group stays: matches within one set.

        Args:
            images: int, how many images the set has.

        Returns:
            Ascending int array.

        Example:

        >>> found = np.array([2]), np.array([0]), np.array([0.9])  # Row 2 is like row 0.
        >>> matches = keras_lit.data.duplicates.Matches(*found)
        >>> matches.repeats(3)
        array([2])
        """
        first = np.unique(self.groups(images), return_index=True)[1]
        return np.setdiff1d(np.arange(images), first)

    def _rows(self) -> np.ndarray:
        return np.stack([self.queries, self.references])


def not_named(names: Iterable[str]) -> Filter:
    """A filter that drops the pairs with one of these "name"s.

    Args:
        names: strings; what is not UTF-8 as `os.fsdecode` writes it.

    Returns:
        A `Filter`.

    Example:

    >>> rule = keras_lit.data.duplicates.not_named(["photos/a.jpg"])
    >>> bool(rule.keep({"name": tf.constant("photos/a.jpg")}))
    False
    """
    encoded = sorted({os.fsencode(name) for name in names})  # File names are bytes.
    if not encoded:  # TensorFlow has no empty tables.
        return Filter("no duplicate", lambda pair: tf.ones_like(pair["name"], tf.bool))
    initializer = tf.lookup.KeyValueTensorInitializer(encoded, [1] * len(encoded))
    table = tf.lookup.StaticHashTable(initializer, default_value=0)
    return Filter("no duplicate", lambda pair: table.lookup(pair["name"]) == 0)


def perceptual_hashes(
    images: Iterable[Any] | tf.data.Dataset, hash_size: int = 16, mirrored: bool = False
) -> np.ndarray:
    """Perceptual hashes: the signs of an image's lowest frequencies (`imagehash.phash`).

    Args:
        images: encoded images (bytes or scalar string tensors) or uint8 pixels [height, width,
            channels]; or an unbatched tf.data.Dataset of these or of pairs with an "image".
        hash_size: int, the root of the number of bits, a multiple of 4.
        mirrored: bool, whether to hash the mirror images, which find what was mirrored.

    Returns:
        [n, hash_size**2 / 8] uint8 array.

    Raises:
        ValueError: `hash_size` is no multiple of 4.
        tf.errors.InvalidArgumentError: an image does not decode, by number and name.

    Example:

    >>> keras_lit.data.duplicates.perceptual_hashes(np.zeros([2, 8, 8, 3], "uint8")).shape
    (2, 32)
    """
    if hash_size % 4:
        raise ValueError(f"`hash_size` should be a multiple of 4. Received: {hash_size}.")
    imagehash = _package("imagehash")
    from PIL import Image  # which imagehash needs too

    hashes: list[np.ndarray] = []
    for image in images:
        name = image.get("name") if isinstance(image, dict) else None
        image = tf.convert_to_tensor(image["image"] if isinstance(image, dict) else image)
        try:
            pixels = (decode_image if image.dtype == tf.string else to_rgb)(image).numpy()
        except tf.errors.InvalidArgumentError as error:
            message = f"Image {len(hashes)} ({name or 'without a name'}): {error.message}"
            raise tf.errors.InvalidArgumentError(None, None, message) from error
        picture = Image.fromarray(pixels[:, ::-1] if mirrored else pixels)
        hashes.append(np.packbits(imagehash.phash(picture, hash_size).hash))
    return np.array(hashes, np.uint8).reshape(len(hashes), hash_size**2 // 8)


def match_hashes(
    queries: np.ndarray, references: np.ndarray | None = None, max_distance: int = 32
) -> Matches:
    """All hashes that differ in at most `max_distance` bits, exactly.

    The bits are cut into pieces. By pigeonhole, close hashes share a piece up to one bit; only
    those that do are compared (multi-index hashing). Of several references with the same hash the
    first stands for all; memory grows with the hashes and the matches.

    Args:
        queries: [n, bytes] uint8 array from `perceptual_hashes`.
        references: [m, bytes] uint8 array; None: match the queries with each other.
        max_distance: int, in bits, at most a sixth of their number.

    Returns:
        `Matches`; scores are the part of equal bits.

    Raises:
        ValueError: the widths differ, or `max_distance` is too large for an exact search.

    Example:

    >>> hashes = np.array([[0, 0, 0], [255, 255, 255], [0, 0, 1]], "uint8")
    >>> keras_lit.data.duplicates.match_hashes(hashes, max_distance=2)
    Matches(queries=array([2]), references=array([0]), scores=array([0.958...], dtype=float32))
    """
    faiss = _package("faiss", "faiss-cpu")
    found, against = _check_widths(queries, references, np.uint8)
    bits = 8 * found.shape[1]
    pieces = max_distance // 2 + 1  # with one flipped bit each: exact up to 2 * pieces - 1
    if not 0 <= max_distance <= bits // 6:
        raise ValueError(
            f"`max_distance` should be from 0 to {bits // 6}, a sixth of the {bits} bits. "
            f"Received: {max_distance}."
        )
    different, first = np.unique(against, axis=0, return_index=True)
    index = faiss.IndexBinaryMultiHash(bits, pieces, min(bits // pieces, 24))
    index.nflip = 1
    index.add(different)
    parts = []
    for start in range(0, len(found), _QUERIES):
        limits, distances, rows = index.range_search(
            np.ascontiguousarray(found[start : start + _QUERIES]), max_distance + 1
        )
        rows_of_queries = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(int)))
        parts.append((rows_of_queries, first[rows], 1 - distances / bits))
    return _join(parts, within=references is None)


def match_embeddings(
    queries: np.ndarray,
    references: np.ndarray | None = None,
    min_similarity: float = 0.9,
    whiten: float | None = None,
    neighbours: int = 10,
    probes: int = 16,
) -> Matches:
    """Embeddings whose cosine similarity is at least `min_similarity`.

    The references are divided into cells around some 4 * sqrt(n) centres, and a query is compared
    with those in its `probes` nearest cells, in time n ** 1.5; up to 5,000 references all are.
    Memory: 2 bytes for each number of the references, beside the arrays passed in.

    Args:
        queries: [n, dim] float array of embeddings; a `np.memmap` is read in parts.
        references: [m, dim] float array; None: match the queries with each other.
        min_similarity: float, the smallest cosine similarity of a match.
        whiten: float, the `penalty` of `whitening_kernel`, applied before the comparison: it
            separates images that a tower finds much alike.
        neighbours: int, the most matches for each query.
        probes: int, how many cells to look into: more find more of the distant ones.

    Returns:
        `Matches`; scores are cosine similarities.

    Raises:
        ValueError: the widths differ, or an embedding is NaN.

    Example:

    >>> embeddings = np.array([[1, 0], [0, 1], [1, 0.1]])
    >>> keras_lit.data.duplicates.match_embeddings(embeddings)
    Matches(queries=array([2]), references=array([0]), scores=array([0.995...], dtype=float32))
    """
    faiss = _package("faiss", "faiss-cpu")
    found, against = _check_widths(queries, references, None)
    prepare = _whitened((found, against), whiten) if whiten is not None else _unit_length
    count, dim = against.shape
    cells = 1 if count <= _EXACT_BELOW else int(4 * count**0.5)
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 5, 1, 40
    index.nprobe = min(probes, cells)
    index.train(prepare(against[:: max(1, count // (40 * cells))]))
    for start in range(0, count, _QUERIES):
        index.add(prepare(against[start : start + _QUERIES]))
    parts = []
    wanted = min(count, neighbours + (references is None))
    for start in range(0, len(found), _QUERIES):
        rows = prepare(found[start : start + _QUERIES])
        similarities, near = index.search(rows, wanted)
        # Half precision misses by less than 0.002.
        query, column = np.nonzero((similarities > min_similarity - 0.002) & (near >= 0))
        reference = near[query, column]
        for part in np.array_split(np.arange(len(query)), 1 + len(query) // _QUERIES):
            exact = np.einsum("nd,nd->n", rows[query[part]], prepare(against[reference[part]]))
            close = exact >= min_similarity
            parts.append((start + query[part][close], reference[part][close], exact[close]))
    return _join(parts, within=references is None)


def whitening_kernel(features: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean 0 and more even directions for rows like these: `(rows - mean) @ kernel`.

    Args:
        features: [n, dim] float array, of some hundred images or more.
        penalty: float, added to the variances in multiples of their mean: 0.1 is strong, 10 weak.

    Returns:
        The mean [dim] and the symmetric kernel [dim, dim], in the features' dtype.

    Example:

    >>> features = np.array([[3.0, 0.1], [3.0, -0.1], [5.0, 0.1], [5.0, -0.1]])
    >>> mean, kernel = whitening_kernel(features, penalty=0.0)
    >>> np.round((features - mean) @ kernel).tolist()
    [[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]
    """
    mean = features.mean(axis=0)
    centred = features - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(features))
    deviations = np.sqrt(np.maximum(variances, 0) + penalty * variances.mean())
    return mean, directions / deviations @ directions.T


def _whitened(embeddings: tuple[np.ndarray, ...], penalty: float) -> Any:
    sample = np.concatenate([rows[:: max(1, len(rows) // 10_000)] for rows in embeddings])
    mean, kernel = whitening_kernel(np.asarray(sample, np.float32), penalty)
    return lambda rows: _unit_length((rows - mean) @ kernel)


def _unit_length(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("Embeddings should be finite. Received NaN or infinite values.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(lengths, 1e-12))


def _join(parts: Sequence[tuple[np.ndarray, ...]], within: bool) -> Matches:
    """Joins parts; within one set each pair once, the later row as the query."""
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    columns = zip(none, *parts, strict=True)
    queries, references, scores = (np.concatenate(column) for column in columns)
    if within:
        queries, references = np.maximum(queries, references), np.minimum(queries, references)
        different = queries != references
        queries, references, scores = (x[different] for x in (queries, references, scores))
    matches = Matches(queries, references, scores.astype(np.float32))
    return matches | matches  # sorted, each pair once


def _check_widths(
    queries: np.ndarray, references: np.ndarray | None, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    against = queries if references is None else references
    for name, rows in (("queries", queries), ("references", against)):
        checks.check_rank(tf.TensorSpec(rows.shape), 2, name, "one row an image")
        if dtype is not None and rows.dtype != dtype:
            raise ValueError(f"`{name}` should be uint8 hashes. Received: {rows.dtype}.")
    if queries.shape[1] != against.shape[1]:
        raise ValueError(
            "Queries and references should have the same width, that of one tower or one hash. "
            f"Received: {queries.shape} and {against.shape}."
        )
    return queries, against


def _package(module: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Looking for duplicates needs the package {package or module}. Run "
            "`pip install 'keras_lit[data]'`."
        ) from error

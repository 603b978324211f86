"""Pairs of images that look the same: unite them, report them, drop the repeats."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


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
        """What either found; of what both found this one's score."""
        pairs = np.stack(
            [np.concatenate(sides) for sides in zip(self._rows(), other._rows(), strict=True)]
        )
        unique, first = np.unique(pairs, axis=1, return_index=True)
        return Matches(unique[0], unique[1], np.concatenate([self.scores, other.scores])[first])

    def report(
        self, query_names: Iterable[str], reference_names: Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        """One {"query", "reference", "score"} a match, by the images' names, best first.

        Args:
            query_names: the name of each query.
            reference_names: likewise; those of the queries where matches are within one set.

        Returns:
            A list of dicts.
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
        """[images] int: images that matches within one set connect have the same number.

        Args:
            images: int, how many images the set has.

        Returns:
            [images] int array.
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
        """
        groups = self.groups(images)
        first = np.unique(groups, return_index=True)[1]
        return np.setdiff1d(np.arange(images), first)

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.queries, self.references


def join(parts: Sequence[tuple[np.ndarray, ...]], within: bool) -> Matches:
    """Joins parts; within one set each pair once, the later row as the query."""
    if not parts:
        parts = [(np.zeros(0, np.int64),) * 3]
    queries, references, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    if within:
        queries, references = np.maximum(queries, references), np.minimum(queries, references)
        different = queries != references
        queries, references, scores = (x[different] for x in (queries, references, scores))
    matches = Matches(
        queries.astype(np.int64), references.astype(np.int64), scores.astype(np.float32)
    )
    none = Matches(*(x[:0] for x in (matches.queries, matches.references, matches.scores)))
    return matches | none

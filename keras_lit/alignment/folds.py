"""One pass for cross-validation: the moments of each fold, and some of its pairs."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_lit import checks
from keras_lit.alignment.moments import Moments

_OF_A_GROUP = 16  # Images that a group holds out before the others have as many.


class Rows(NamedTuple):
    """Some images, each with at least one text.

    `keys` [n] uint64 are equal within a group; `owners` [texts] are the rows of the texts' images.
    """

    keys: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    owners: np.ndarray

    def take(self, rows: np.ndarray) -> "Rows":
        """These images [m] int, in this order, and their texts."""
        places = np.full(len(self.keys), -1)
        places[rows] = np.arange(len(rows))
        owners = places[self.owners]
        texts = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
        return Rows(self.keys[rows], self.images[rows], self.texts[texts], owners[texts])

    def by_priority(self) -> np.ndarray:
        """[n] int: the order in which to hold out images, whatever the order of the rows.

        Small keys first, but only some of a group at a time: else that of a class would be all.
        """
        _, groups, counts = np.unique(self.keys, return_inverse=True, return_counts=True)
        # Numbers that look random, but that other rounding of the features hardly changes.
        scale = 1e3 * np.random.default_rng(0).normal(size=self.images.shape[1])
        places = np.where(counts[groups] > _OF_A_GROUP, self.images @ scale % 1, 0.0)
        order = np.lexsort([places, self.keys])
        firsts = np.cumsum(counts) - counts
        turns = (np.arange(len(order)) - firsts[groups[order]]) // _OF_A_GROUP
        return order[np.argsort(turns, kind="stable")]


class Folds:
    """What cross-validation needs of pairs of features, gathered in one pass.

    A hash of the group decides the fold, so that equal pairs are never in two of them. Each fold
    keeps its `Moments`, and those of its images whose hashes are smallest, for recalls, of large
    groups by turns: which ones does not depend on the order, the batches or the parts in which they
    came.

    Args:
        image_dim: int, the width of the image features.
        text_dim: int, the width of the text features.
        count: int, how many folds.
        held_out: int, how many images each keeps at most.

    Attributes:
        moments: a list of `Moments`, one a fold.

    Raises:
        ValueError: a width or number that is no positive int; a single fold.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> images = rng.normal(size=[200, 8]).astype("float32")
    >>> folds = keras_lit.alignment.Folds(8, 4)
    >>> folds.add(images, images[:, :4], groups=np.arange(200) // 2)
    >>> result = keras_lit.alignment.choose(folds, verbose=0)
    >>> result.dim, result.mean_recall > 0.9
    (4, True)
    """

    def __init__(self, image_dim: int, text_dim: int, count: int = 5, held_out: int = 2000):
        checks.check_count(held_out, "held_out")
        checks.check_count(text_dim, "text_dim")
        checks.check_count(count, "folds")
        if count < 2:
            raise ValueError(f"There should be at least 2 folds. Received: {count}.")
        self.held_out = held_out
        self.moments = [Moments(image_dim, text_dim) for _ in range(count)]
        self._kept: list[list[Rows]] = [[] for _ in range(count)]
        no_images, no_texts = (np.zeros([0, dim], "float32") for dim in (image_dim, text_dim))
        self._nothing = Rows(np.zeros(0, np.uint64), no_images, no_texts, np.zeros(0, int))
        self._highest = np.full(count, np.iinfo(np.uint64).max, np.uint64)

    def add(
        self,
        images: np.ndarray,
        texts: np.ndarray,
        groups: Iterable[Any] | None = None,
        given: np.ndarray | None = None,
    ) -> None:
        """Adds a batch of pairs.

        Args:
            images: [n, image_dim] floats.
            texts: [n, text_dim] floats, or [n, captions, text_dim]: each is a pair with the image.
            groups: [n] strings, ints or rows of ints: pairs that are right for each other, which
                belong in one fold. None: pairs whose (first) texts are equal.
            given: [n, captions] bool, False for captions that only fill up. None: all count.

        Raises:
            ValueError: other shapes; NaN or infinite values.

        Example:

        >>> folds = keras_lit.alignment.Folds(8, 4)
        >>> folds.add(np.ones([3, 8]), np.ones([3, 4]), groups=["cat", "cat", "dog"])
        >>> sum(moments.count for moments in folds.moments)
        3
        """
        images, texts = np.asarray(images, "float32"), np.asarray(texts, "float32")
        widths = self.moments[0].image_dim, self.moments[0].text_dim
        matrices = images.ndim == 2 and texts.ndim in (2, 3) and len(images) == len(texts)
        if not matrices or (images.shape[1], texts.shape[-1]) != widths:
            raise ValueError(
                f"Images should be [n, {widths[0]}], and texts [n, {widths[1]}] or [n, captions, "
                f"{widths[1]}]. Received: {images.shape} and {texts.shape}."
            )
        texts = texts.reshape(len(images), -1, widths[1])
        groups = [*(texts[:, 0] if groups is None else groups)]
        given = np.ones(texts.shape[:2], bool) if given is None else np.asarray(given, bool)
        if len(groups) != len(images) or given.shape != texts.shape[:2]:
            raise ValueError(
                f"`groups` should have one for each of {len(images)} images, and `given` the shape "
                f"{texts.shape[:2]}. Received: {len(groups)} and {given.shape}."
            )
        hashes = np.fromiter(map(_hash, groups), np.uint64, len(images))
        owners, columns = np.nonzero(given)
        batch = Rows(hashes, images, texts[owners, columns], owners)
        folds = (hashes % np.uint64(len(self.moments))).astype(int)
        folds[~given.any(axis=1)] = -1
        for fold in range(len(self.moments)):
            own = batch.take(np.flatnonzero(folds == fold))
            self.moments[fold].add(own.images[own.owners], own.texts)
            self._keep(fold, own)

    def merge(self, other: "Folds") -> None:
        """Adds what another has seen.

        Args:
            other: `Folds` of the same widths and number; it stays as it is.

        Raises:
            ValueError: other widths, another number of folds or of what they keep.

        Example:

        >>> first, second = (keras_lit.alignment.Folds(8, 4) for _ in range(2))
        >>> for folds in (first, second):
        ...     folds.add(np.ones([3, 8]), np.ones([3, 4]), groups=["cat", "cat", "dog"])
        >>> first.merge(second)
        >>> sum(moments.count for moments in first.moments)
        6
        """
        numbers = [(len(x.moments), x.held_out) for x in (self, other)]
        if numbers[0] != numbers[1]:
            raise ValueError(f"Folds should have the same number and size. Received: {numbers}.")
        for fold, (own, moments) in enumerate(zip(self.moments, other.moments, strict=True)):
            own.merge(moments)
            self._keep(fold, other.kept(fold))

    def join(self, gather: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        """Puts the folds of several processes together, the same on each.

        Args:
            gather: a function that all processes call with an array [n, ...] each, of an n of its
                own, and that gives each the list of all, in the same order.

        Example:

        >>> folds = keras_lit.alignment.Folds(8, 4)
        >>> folds.add(np.ones([3, 8]), np.ones([3, 4]))
        >>> folds.join(lambda array: [array, array])  # As if a second process had seen the same.
        >>> sum(moments.count for moments in folds.moments)
        6
        """
        for fold, own in enumerate(self.moments):
            known = map(gather, (np.array([own.count]), own.mean, own.scatter))
            parts = [
                Moments.of(own.image_dim, own.text_dim, int(count[0]), mean, scatter)
                for count, mean, scatter in zip(*known, strict=True)
            ]
            rows = self.kept(fold)
            columns = [gather(rows.keys.view("int64")), *map(gather, rows[1:])]
            self.moments[fold] = total(parts)
            self._kept[fold] = [
                Rows(keys.view("uint64"), *others) for keys, *others in zip(*columns, strict=True)
            ]

    def kept(self, fold: int) -> Rows:
        """The images that a fold holds out, by their hashes.

        Args:
            fold: int.

        Returns:
            `keys` [n] uint64, equal within a group; `images` [n, image_dim] float32; `texts`
            [texts, text_dim] float32; `owners` [texts], the rows of the texts' images.

        Example:

        >>> folds = keras_lit.alignment.Folds(8, 4, count=2)
        >>> folds.add(np.ones([3, 8]), np.ones([3, 4]), groups=["cat", "cat", "dog"])
        >>> sum(len(folds.kept(fold).keys) for fold in range(2))
        3
        """
        parts = [self._nothing, *self._kept[fold]]
        firsts = np.cumsum([0, *(len(part.keys) for part in parts)])
        owners = [part.owners + first for part, first in zip(parts, firsts, strict=False)]
        keys, images, texts, _ = map(np.concatenate, zip(*parts, strict=True))
        rows = Rows(keys, images, texts, np.concatenate(owners))
        rows = rows.take(rows.by_priority()[: self.held_out])
        rows = rows.take(np.argsort(rows.keys, kind="stable"))
        self._kept[fold] = [rows]
        return rows

    def _keep(self, fold: int, rows: Rows) -> None:
        """Takes those in that may be held out; forgets the others now and then."""
        self._kept[fold].append(rows.take(np.flatnonzero(rows.keys <= self._highest[fold])))
        if sum(len(part.keys) for part in self._kept[fold]) >= 2 * self.held_out:
            keys = self.kept(fold).keys
            if np.unique(keys, return_counts=True)[1].max() <= _OF_A_GROUP:
                self._highest[fold] = keys[-1]


def total(moments: Sequence[Moments]) -> Moments:
    """The moments of all rows that these have seen."""
    found = Moments(moments[0].image_dim, moments[0].text_dim)
    for part in moments:
        found.merge(part)
    return found


def _hash(group: Any) -> int:
    """64 bits that are the same in every process and on every machine."""
    if isinstance(group, str):
        content = group.encode()
    elif isinstance(group, bytes):
        content = group
    else:
        array = np.asarray(group)
        if array.dtype.kind in "iu":  # Equal whatever their type: labels int64, token ids int32.
            narrow = array.astype("int32")
            is_narrow = array.ndim and (narrow == array).all()
            array = narrow if is_narrow else array.astype("int64")
        content = np.ascontiguousarray(array).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

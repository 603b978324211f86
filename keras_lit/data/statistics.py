"""Statistics of a corpus of image-text pairs: one streaming pass, bounded memory."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks, files

__all__ = ["CorpusStatistics", "collect"]

_TABLES = ("texts", "images", "ngrams")
_CHUNK = 2**16


class KeyCounter:
    """Counts 64-bit keys in sorted arrays; exact for up to `capacity` different ones.

    Beyond that the rarest quarter is forgotten, again and again. A count is then too low by at
    most `error`, so frequent keys stay right; a forgotten key counts as 0.
    """

    def __init__(self, capacity: int):
        checks.check_positive(capacity, "capacity")
        self.capacity = capacity
        self.error = 0
        self.keys = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Counts [n] int64 keys; returns [n] bool, True where a key was not known."""
        unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
        places = np.searchsorted(self.keys, unique)  # where a key is or would be
        known = np.searchsorted(self.keys, unique, side="right") > places
        self.counts[places[known]] += counts[known]
        self.keys = np.insert(self.keys, places[~known], unique[~known])
        self.counts = np.insert(self.counts, places[~known], counts[~known])
        if len(self.keys) > self.capacity:
            self._forget()
        new = np.zeros(len(keys), bool)
        new[first[~known]] = True
        return new

    def above(self, count: int) -> np.ndarray:
        """The sorted keys that were counted more than `count` times."""
        return self.keys[self.counts > count]

    def commonest(self, number: int) -> np.ndarray:
        """The sorted commonest keys, at most `number`; ties at the cutoff are excluded."""
        if number >= len(self.keys):
            return self.keys
        cut = len(self.keys) - number - 1
        return self.above(np.partition(self.counts, cut)[cut])

    def _forget(self) -> None:
        keep = max(1, 3 * self.capacity // 4)
        order = np.argpartition(self.counts, len(self.counts) - keep)
        self.error += int(self.counts[order[:-keep]].max())
        kept = np.sort(order[-keep:])
        self.keys, self.counts = self.keys[kept], self.counts[kept]


@dataclass
class CorpusStatistics:
    """The counts that the filters need: how many images share a text, and so on.

    `collect` makes one. A table has `keys`, `counts` and the `error` by which they may be too low.

    Args:
        texts: how many different images each text has.
        images: how many different texts each image has.
        ngrams: how often each word and each pair of neighbouring words occurs in different pairs.
        pairs: how many different pairs there are.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
    >>> path = tempfile.mkdtemp() + "/corpus.npz"
    >>> keras_lit.data.statistics.collect(pairs).save(path)
    >>> keras_lit.data.statistics.CorpusStatistics.load(path).pairs
    1
    """

    texts: KeyCounter
    images: KeyCounter
    ngrams: KeyCounter
    pairs: int = 0

    def save(self, path: str | os.PathLike) -> None:
        """Writes a .npz file.

        Args:
            path: of the file, which is there when all of it is.

        Example:

        >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
        >>> keras_lit.data.statistics.collect(pairs).save(tempfile.mkdtemp() + "/corpus.npz")
        """
        arrays: dict[str, Any] = {"pairs": np.array(self.pairs)}
        for name in _TABLES:
            table = getattr(self, name)
            arrays[name] = np.stack([table.keys, table.counts])
            arrays[f"{name}_limits"] = np.array([table.capacity, table.error])
        with files.whole(path) as working, open(working, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CorpusStatistics":
        """Reads what `save` wrote.

        Args:
            path: of the file.

        Returns:
            `CorpusStatistics`.

        Example:

        >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
        >>> path = tempfile.mkdtemp() + "/corpus.npz"
        >>> keras_lit.data.statistics.collect(pairs).save(path)
        >>> keras_lit.data.statistics.CorpusStatistics.load(path).pairs
        1
        """
        with np.load(path, allow_pickle=False) as arrays:
            tables = {}
            for name in _TABLES:
                capacity, error = map(int, arrays[f"{name}_limits"])
                tables[name] = table = KeyCounter(capacity)
                table.error = error
                table.keys, table.counts = arrays[name]
            return cls(**tables, pairs=int(arrays["pairs"]))


def collect(pairs: tf.data.Dataset, capacity: int = 10_000_000) -> CorpusStatistics:
    """Counts texts, images and words of a corpus in one pass.

    A pair that occurs again is not counted again, as long as there are no more than `capacity`
    different ones. Four tables of at most `capacity` keys are kept, of 16 bytes each: at 10 million
    some 0.6 GB, and another 0.3 GB while one of them grows.

    Args:
        pairs: unbatched tf.data.Dataset of {"image", "text", ...}. An image is known by its encoded
            bytes; where it is not encoded, by "name".
        capacity: int, how many different keys (pairs, texts, images, n-grams) are counted exactly.

    Returns:
        `CorpusStatistics`; each table's `error` bounds by how much its counts may be too low. (They
        may be too high where pairs were forgotten and came again.)

    Raises:
        ValueError: the images are not encoded and the pairs have no "name".

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices(
    ...     {"image": ["jpeg 1", "jpeg 2"], "text": ["a dog", "A dog."]})
    >>> corpus = keras_lit.data.statistics.collect(pairs)
    >>> corpus.pairs, corpus.texts.above(1).size  # two images share a text
    (2, 1)
    """
    seen, texts, images, ngrams = (KeyCounter(capacity) for _ in range(4))
    corpus = CorpusStatistics(texts, images, ngrams)

    def keys(pair: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        text, image = text_key(pair["text"]), image_key(pair)
        both = tf.strings.as_string(tf.stack([text, image]))
        return _hash(tf.strings.reduce_join(both, separator=" ")), text, image, pair["text"]

    chunks = pairs.map(keys, tf.data.AUTOTUNE).batch(_CHUNK)
    with_ngrams = chunks.map(lambda pair, text, image, raw: (pair, text, image, _ngram_keys(raw)))
    for pair, text, image, grams in with_ngrams.prefetch(1):
        new = seen.add(pair.numpy())
        corpus.pairs += int(new.sum())
        corpus.texts.add(text.numpy()[new])
        corpus.images.add(image.numpy()[new])
        corpus.ngrams.add(tf.ragged.boolean_mask(grams, new).flat_values.numpy())
    return corpus


def words(text: tf.Tensor) -> tf.RaggedTensor:
    """Lower-case words without punctuation: [...] string -> [..., words]."""
    plain = tf.strings.lower(text, encoding="utf-8")
    plain = tf.strings.regex_replace(plain, r"[\pP\pS]+", " ")
    return tf.strings.split(plain)


def text_key(text: tf.Tensor) -> tf.Tensor:
    """A text's key, the same for the same words: scalar string -> scalar int64."""
    return _hash(tf.strings.reduce_join(words(text), separator=" "))


def word_keys(text: tf.Tensor) -> tf.Tensor:
    """The key of each word: scalar string -> [words] int64."""
    return _hash(words(text))


def image_key(pair: dict[str, tf.Tensor]) -> tf.Tensor:
    """An image's key, of its bytes or else of its name: scalar int64."""
    image = pair.get("image")
    if image is not None and image.dtype == tf.string:
        return _hash(image)
    if "name" not in pair:
        raise ValueError(
            'Pairs should have encoded images, or a "name" by which an image is known. Received: '
            f"{sorted(pair)}."
        )
    return _hash(pair["name"])


def _ngram_keys(texts: tf.Tensor) -> tf.RaggedTensor:
    """[n] string -> [n, words and pairs of words] int64."""
    split = words(texts)
    first, second = split[:, :-1], split[:, 1:]
    bigrams = tf.ragged.map_flat_values(lambda a, b: a + " " + b, first, second)
    return tf.ragged.map_flat_values(_hash, tf.concat([split, bigrams], axis=1))


def _hash(strings: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(strings, 2**63 - 1)

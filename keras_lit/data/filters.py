"""Filters of pairs: named predicates that compose; ALIGN's and LiT's rules are among them.

ALIGN is arXiv 2102.05918.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.data.statistics import CorpusStatistics, image_key, text_key, word_keys
from keras_lit.preprocessing.decoding import image_size

__all__ = [
    "Filter",
    "align_image_rules",
    "align_text_rules",
    "apply",
    "aspect_ratio",
    "common_words",
    "images_per_text",
    "language",
    "lit_text_rules",
    "short_side",
    "text_length",
    "texts_per_image",
]

Pair = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Filter:
    """A predicate of pairs that has a name; `&`, `|` and `~` make new ones.

    Args:
        name: str, the property of a pair that stays, under which it is counted.
        keep: from an unbatched pair {"image", "text", ...} to a scalar bool tensor, in a graph.

    Example:

    >>> red = Filter("says red", lambda pair: tf.strings.regex_full_match(pair["text"], ".*red.*"))
    >>> (red & ~keras_lit.data.filters.text_length(1, 2)).name
    'says red and not (1 to 2 words)'
    """

    name: str
    keep: Callable[[Pair], tf.Tensor]

    def __and__(self, other: "Filter") -> "Filter":
        name = f"{self.name} and {other.name}"
        return Filter(name, lambda pair: self.keep(pair) & other.keep(pair))

    def __or__(self, other: "Filter") -> "Filter":
        name = f"({self.name} or {other.name})"
        return Filter(name, lambda pair: self.keep(pair) | other.keep(pair))

    def __invert__(self) -> "Filter":
        return Filter(f"not ({self.name})", lambda pair: tf.logical_not(self.keep(pair)))


def apply(
    pairs: tf.data.Dataset, rules: Sequence[Filter], counts: Counter[str] | None = None
) -> tf.data.Dataset:
    """Leaves out the pairs that fail a rule, and counts them by the first rule that they fail.

    Args:
        pairs: unbatched tf.data.Dataset of {"image", "text", ...}.
        rules: `Filter`s with different names; a pair stays when it passes all. They are tried in
            their order, and what comes after a failure is not computed.
        counts: a Counter that grows as the dataset is read, in each epoch: "kept", and under the
            name of each rule the pairs that it dropped.

    Returns:
        A tf.data.Dataset of the same structure and order.

    Raises:
        ValueError: two rules have the same name, or the pairs are batched.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"text": ["a dog", "a red dog in the snow"]})
    >>> counts = Counter()
    >>> rules = [keras_lit.data.filters.text_length(3, 20)]
    >>> [p["text"].numpy() for p in apply(pairs, rules, counts)]
    [b'a red dog in the snow']
    >>> counts == {"3 to 20 words": 1, "kept": 1}
    True
    """
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"`rules` should have different names. Received: {names}.")
    checks.check_rank(pairs.element_spec["text"], 0, "text", "one caption: filter before `batch`")

    def first_failure(pair: Pair, index: int = 0) -> tf.Tensor:
        """The index of the rule, from `index` on, that drops the pair; their number if none."""
        if index == len(rules):
            return tf.constant(index)
        given = rules[index].keep(pair)
        stays = None if given is None else tf.convert_to_tensor(given)
        if stays is None or stays.dtype != tf.bool:
            raise ValueError(
                f"The rule {names[index]!r} should say by a bool whether a pair stays. Received: "
                f"{given}."
            )
        return tf.cond(stays, lambda: first_failure(pair, index + 1), lambda: tf.constant(index))

    def count(index: np.ndarray) -> np.bool_:
        assert counts is not None
        counts[[*names, "kept"][index]] += 1
        return np.bool_(index == len(names))

    def keep(pair: Pair, failure: tf.Tensor) -> tf.Tensor:
        if counts is None:
            return failure == len(rules)
        return tf.numpy_function(count, [failure], tf.bool)

    tried = internals.mapped(pairs, lambda pair: (pair, first_failure(pair)))
    return tried.filter(keep).map(lambda pair, _: pair)


def short_side(larger_than: int = 200) -> Filter:
    """Keeps images whose shorter side has more pixels than this.

    Args:
        larger_than: int, pixels.

    Returns:
        A `Filter`.

    Example:

    >>> bool(short_side(3).keep({"image": tf.zeros([4, 9, 3], tf.uint8)}))
    True
    """
    name = f"short side > {larger_than}"
    return Filter(name, lambda pair: tf.reduce_min(image_size(pair["image"])) > larger_than)


def aspect_ratio(smaller_than: float = 3.0) -> Filter:
    """Keeps images whose longer side is less than `smaller_than` times the shorter.

    Args:
        smaller_than: float.

    Returns:
        A `Filter`.

    Example:

    >>> bool(aspect_ratio(2.0).keep({"image": tf.zeros([4, 9, 3], tf.uint8)}))
    False
    """

    def keep(pair: Pair) -> tf.Tensor:
        size = tf.cast(image_size(pair["image"]), tf.float32)
        return tf.reduce_max(size) < smaller_than * tf.reduce_min(size)

    return Filter(f"aspect ratio < {smaller_than:g}", keep)


def texts_per_image(corpus: CorpusStatistics, at_most: int = 1000) -> Filter:
    """Keeps images that the corpus shows with at most `at_most` different texts.

    Args:
        corpus: of the same pairs, from `statistics.collect`.
        at_most: int.

    Returns:
        A `Filter`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"] * 2, "text": ["a dog", "ad"]})
    >>> rule = texts_per_image(keras_lit.data.statistics.collect(pairs), 1)
    >>> [bool(rule.keep(pair)) for pair in pairs]
    [False, False]
    """
    often = corpus.images.above(at_most)
    name = f"at most {at_most} texts an image"
    return Filter(name, lambda pair: ~_contains(often, image_key(pair)))


def text_length(shortest: int = 3, longest: int = 20) -> Filter:
    """Keeps texts of `shortest` to `longest` words, as whitespace divides them.

    Args:
        shortest: int, words.
        longest: int, words.

    Returns:
        A `Filter`.

    Example:

    >>> bool(text_length(3, 20).keep({"text": tf.constant("a dog!")}))
    False
    """

    def keep(pair: Pair) -> tf.Tensor:
        # What is punctuation only, such as a dash, is no word.
        parts = tf.strings.split(pair["text"])
        count = tf.math.count_nonzero(tf.strings.regex_full_match(parts, r".*[\pL\pM\pN].*"))
        return (count >= shortest) & (count <= longest)

    return Filter(f"{shortest} to {longest} words", keep)


def images_per_text(corpus: CorpusStatistics, at_most: int = 10) -> Filter:
    """Keeps texts that at most `at_most` different images of the corpus share.

    Args:
        corpus: of the same pairs, from `statistics.collect`.
        at_most: int.

    Returns:
        A `Filter`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices(
    ...     {"image": ["jpeg 1", "jpeg 2", "jpeg 3"], "text": ["a dog", "a dog", "a cat"]})
    >>> corpus = keras_lit.data.statistics.collect(pairs)
    >>> rule = keras_lit.data.filters.images_per_text(corpus, at_most=1)
    >>> [bool(rule.keep({"text": tf.constant(text)})) for text in ("a dog", "a cat")]
    [False, True]
    """
    often = corpus.texts.above(at_most)
    name = f"at most {at_most} images a text"
    return Filter(name, lambda pair: ~_contains(often, text_key(pair["text"])))


def common_words(corpus: CorpusStatistics, commonest: int = 100_000_000) -> Filter:
    """Keeps texts whose words all are among the corpus' commonest words and pairs of words.

    Ties at the cutoff are excluded.

    Args:
        corpus: of the same pairs, from `statistics.collect`.
        commonest: int, how many words and pairs of words are common.

    Returns:
        A `Filter`.

    Raises:
        ValueError: the statistics have forgotten words, and hold fewer than `commonest`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
    >>> rule = common_words(keras_lit.data.statistics.collect(pairs))
    >>> bool(rule.keep({"text": tf.constant("a cat")}))
    False
    """
    if corpus.ngrams.error and commonest > len(corpus.ngrams.keys):
        raise ValueError(
            f"The statistics had to forget: they hold {len(corpus.ngrams.keys):,} of the words and "
            f"pairs of words, and not the {commonest:,} commonest. Collect them with a "
            "larger `capacity`, or ask for fewer."
        )
    common = corpus.ngrams.commonest(commonest)
    name = f"words among the {commonest} commonest n-grams"
    return Filter(name, lambda pair: tf.reduce_all(_contains(common, word_keys(pair["text"]))))


def language(languages: Iterable[str], detect: Callable[[str], str]) -> Filter:
    """Keeps texts in one of the languages, as a Python function detects it (any library's).

    Args:
        languages: the names of those to keep.
        detect: from a str to the name of its language.

    Returns:
        A `Filter`.

    Example:

    >>> rule = language(["en"], lambda text: "fr" if "chien" in text else "en")
    >>> bool(rule.keep({"text": tf.constant("un chien")}))
    False
    """
    wanted = frozenset(languages)

    def keep(text: Any) -> np.bool_:
        text = np.asarray(text, object).item()  # bytes in a graph, an array of them eagerly
        return np.bool_(detect(text.decode("utf-8", "replace")) in wanted)

    name = f"language {', '.join(sorted(wanted))}"
    return Filter(name, lambda pair: tf.numpy_function(keep, [pair["text"]], tf.bool))


def align_image_rules(corpus: CorpusStatistics) -> list[Filter]:
    """ALIGN's rules for images (section 3), which LiT keeps: size, shape, number of texts.

    ALIGN also drops pornographic images, for which no rule is here.

    Args:
        corpus: of the same pairs, from `statistics.collect`.

    Returns:
        A list of `Filter`s, for `apply`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
    >>> corpus = keras_lit.data.statistics.collect(pairs)
    >>> len(keras_lit.data.filters.align_image_rules(corpus))
    3
    """
    return [short_side(200), aspect_ratio(3.0), texts_per_image(corpus, 1000)]


def align_text_rules(corpus: CorpusStatistics) -> list[Filter]:
    """ALIGN's for texts (section 3): shared by at most 10 images, common words only, 3 to 20 words.

    Args:
        corpus: of the same pairs, from `statistics.collect`.

    Returns:
        A list of `Filter`s, for `apply`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
    >>> corpus = keras_lit.data.statistics.collect(pairs)
    >>> [rule.name for rule in keras_lit.data.filters.align_text_rules(corpus)][2]
    '3 to 20 words'
    """
    return [images_per_text(corpus, 10), common_words(corpus), text_length(3, 20)]


def lit_text_rules(corpus: CorpusStatistics, images: int = 10) -> list[Filter]:
    """LiT's softer rules for texts (section 4): any length and any word, but no boilerplate.

    The paper says that its text filters are simpler than ALIGN's and not which it left out; this
    keeps the one that a contrastive loss needs, as texts that many images share are false
    negatives of each other.

    Args:
        corpus: of the same pairs, from `statistics.collect`.
        images: int, how many images may share a text.

    Returns:
        A list of `Filter`s, for `apply`.

    Example:

    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": ["jpeg"], "text": ["a dog"]})
    >>> corpus = keras_lit.data.statistics.collect(pairs)
    >>> [rule.name for rule in lit_text_rules(corpus)]
    ['1 to 2147483647 words', 'at most 10 images a text']
    """
    return [text_length(1, 2**31 - 1), images_per_text(corpus, images)]


def _contains(keys: np.ndarray, wanted: tf.Tensor) -> tf.Tensor:
    """Whether each of `wanted`, int64 of any shape, is among the sorted int64 `keys`."""
    if not len(keys):
        return tf.zeros_like(wanted, tf.bool)
    table = tf.constant(keys)
    flat = tf.reshape(wanted, [-1])
    places = tf.minimum(tf.searchsorted(table, flat), len(keys) - 1)
    return tf.reshape(tf.gather(table, places) == flat, tf.shape(wanted))

"""Filters of image-text pairs: named predicates that compose and count what they drop."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.data import statistics
from keras_lit.data.statistics import CorpusStatistics
from keras_lit.images import image_size

Pair = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Filter:
    """A predicate of pairs that has a name; `&`, `|` and `~` make new ones.

    Args:
        name: str, what a pair that stays has; counts go by it.
        keep: from an unbatched pair {"image", "text", ...} to a scalar bool tensor, in a graph.

    Example:

    >>> red = Filter("says red", lambda pair: tf.strings.regex_full_match(pair["text"], ".*red.*"))
    >>> (red & ~text_length(1, 2)).name
    'says red and not (1 to 2 words)'
    """

    name: str
    keep: Callable[[Pair], tf.Tensor]

    def __and__(self, other: "Filter") -> "Filter":
        return Filter(
            f"{self.name} and {other.name}",
            lambda pair: tf.logical_and(self.keep(pair), other.keep(pair)),
        )

    def __or__(self, other: "Filter") -> "Filter":
        return Filter(
            f"({self.name} or {other.name})",
            lambda pair: tf.logical_or(self.keep(pair), other.keep(pair)),
        )

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
    >>> [p["text"].numpy() for p in apply(pairs, [text_length(3, 20)], counts)]
    [b'a red dog in the snow']
    >>> counts == {"3 to 20 words": 1, "kept": 1}
    True
    """
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"`rules` should have different names. Received: {names}.")
    checks.check_rank(pairs.element_spec["text"], 0, "text", "one caption: filter before `batch`")

    def first_failure(pair: Pair) -> tf.Tensor:
        """The index of the rule that drops the pair; their number if none does."""

        def from_rule(index: int) -> tf.Tensor:
            if index == len(rules):
                return tf.constant(index)
            return tf.cond(
                rules[index].keep(pair),
                lambda: from_rule(index + 1),
                lambda: tf.constant(index),
            )

        return from_rule(0)

    def count(index: np.ndarray) -> np.bool_:
        counts[[*names, "kept"][index]] += 1
        return np.bool_(index == len(names))

    def keep(pair: Pair, failure: tf.Tensor) -> tf.Tensor:
        if counts is None:
            return failure == len(rules)
        return tf.numpy_function(count, [failure], tf.bool)

    tried = pairs.map(lambda pair: (pair, first_failure(pair)), tf.data.AUTOTUNE)
    return tried.filter(keep).map(lambda pair, _: pair)


# Rules for images.


def short_side(larger_than: int = 200) -> Filter:
    """Keeps images whose shorter side has more pixels than this."""
    return Filter(
        f"short side > {larger_than}",
        lambda pair: tf.reduce_min(image_size(pair["image"])) > larger_than,
    )


def aspect_ratio(smaller_than: float = 3.0) -> Filter:
    """Keeps images whose longer side is less than so many times the shorter."""

    def keep(pair: Pair) -> tf.Tensor:
        size = tf.cast(image_size(pair["image"]), tf.float32)
        return tf.reduce_max(size) < smaller_than * tf.reduce_min(size)

    return Filter(f"aspect ratio < {smaller_than:g}", keep)


def texts_per_image(corpus: CorpusStatistics, at_most: int = 1000) -> Filter:
    """Keeps images that the corpus shows with no more than so many different texts."""
    keys = corpus.images.above(at_most)
    return Filter(
        f"at most {at_most} texts an image",
        lambda pair: ~_contains(keys, statistics.image_key(pair)),
    )


# Rules for texts.


def text_length(shortest: int = 3, longest: int = 20) -> Filter:
    """Keeps texts of so many words, as whitespace divides them."""

    def keep(pair: Pair) -> tf.Tensor:
        words = tf.size(statistics.words(pair["text"]))
        return (words >= shortest) & (words <= longest)

    return Filter(f"{shortest} to {longest} words", keep)


def images_per_text(corpus: CorpusStatistics, at_most: int = 10) -> Filter:
    """Keeps texts that no more than so many different images of the corpus share."""
    keys = corpus.texts.above(at_most)
    return Filter(
        f"at most {at_most} images a text",
        lambda pair: ~_contains(keys, statistics.text_key(pair["text"])),
    )


def common_words(corpus: CorpusStatistics, commonest: int = 100_000_000) -> Filter:
    """Keeps texts whose words all are among the corpus' commonest words and pairs of words.

    Words that are as rare as the first that finds no place do not count as common.
    """
    keys = corpus.ngrams.commonest(commonest)
    return Filter(
        f"words among the {commonest} commonest n-grams",
        lambda pair: tf.reduce_all(_contains(keys, statistics.word_keys(pair["text"]))),
    )


def language(languages: Iterable[str], detect: Callable[[str], str]) -> Filter:
    """Keeps texts in one of the languages, which a Python function tells (any library's)."""
    wanted = frozenset(languages)

    def keep(text: bytes) -> np.bool_:
        return np.bool_(detect(text.decode("utf-8", "replace")) in wanted)

    return Filter(
        f"language {', '.join(sorted(wanted))}",
        lambda pair: tf.numpy_function(keep, [pair["text"]], tf.bool),
    )


# Sets of rules.


def align_image_rules(corpus: CorpusStatistics) -> list[Filter]:
    """ALIGN's rules for images, which LiT keeps: size, shape, number of texts.

    Args:
        corpus: of the same pairs, from `statistics.collect`.

    Reference: ALIGN (arXiv 2102.05918), section 3; the LiT paper, section 4. ALIGN also drops
    pornographic images, for which no rule is here.
    """
    return [short_side(200), aspect_ratio(3.0), texts_per_image(corpus, 1000)]


def align_text_rules(corpus: CorpusStatistics) -> list[Filter]:
    """ALIGN's rules for texts: shared by at most 10 images, common words only, 3 to 20 words.

    Args:
        corpus: of the same pairs, from `statistics.collect`.

    Reference: ALIGN (arXiv 2102.05918), section 3.
    """
    return [images_per_text(corpus, 10), common_words(corpus), text_length(3, 20)]


def lit_text_rules(corpus: CorpusStatistics, images: int = 10) -> list[Filter]:
    """LiT's softer rules for texts: any length and any word, but no boilerplate.

    The paper says that its text filters are simpler than ALIGN's and not which it left out; this
    keeps the one that a contrastive loss needs, as texts that many images share are false
    negatives of each other.

    Args:
        corpus: of the same pairs, from `statistics.collect`.
        images: int, how many images may share a text.

    Reference: the LiT paper, section 4.
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

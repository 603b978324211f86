"""Named predicates of pairs that compose, and count what they drop."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_lit import checks

Pair = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Filter:
    """A predicate of pairs that has a name; `&`, `|` and `~` make new ones.

    Args:
        name: str, what a pair that stays has; counts go by it.
        keep: from an unbatched pair {"image", "text", ...} to a scalar bool tensor, in a graph.

    Example:

    >>> red = Filter("says red", lambda pair: tf.strings.regex_full_match(pair["text"], ".*red.*"))
    >>> (red & ~keras_lit.data.filters.text_length(1, 2)).name
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
        assert counts is not None
        counts[[*names, "kept"][index]] += 1
        return np.bool_(index == len(names))

    def keep(pair: Pair, failure: tf.Tensor) -> tf.Tensor:
        if counts is None:
            return failure == len(rules)
        return tf.numpy_function(count, [failure], tf.bool)

    tried = pairs.map(lambda pair: (pair, first_failure(pair)), tf.data.AUTOTUNE)
    return tried.filter(keep).map(lambda pair, _: pair)

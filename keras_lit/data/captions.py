"""One caption of several, drawn in each epoch: any, of a language, or a back-translation.

Sections are those of the LiT paper.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

__all__ = ["draw", "draw_language", "with_alternatives"]

Example = dict[str, Any]


def is_utf8(text: str) -> bool:
    """Whether a text was UTF-8: `errors="surrogateescape"` reads other bytes as surrogates, and
    UTF-16 without a mark at its start has a NUL behind each letter.
    """
    return not re.search(r"[\0\ud800-\udfff]", text)


def draw(examples: tf.data.Dataset, key: str = "text", seed: int | None = None) -> tf.data.Dataset:
    """Draws one of an image's captions, another in each epoch.

    Args:
        examples: unbatched tf.data.Dataset of dicts with `key`, a [n] string tensor, n > 0.
        key: str, which entry holds the captions.
        seed: int, of the draws.

    Returns:
        The examples, with a scalar string under `key`.

    Example:

    >>> examples = tf.data.Dataset.from_tensor_slices({"text": [["a dog", "a puppy"]]})
    >>> drawn = {next(iter(draw(examples)))["text"].numpy() for _ in range(100)}
    >>> sorted(drawn)
    [b'a dog', b'a puppy']
    """

    def choose(example: Example, numbers: tf.Tensor) -> Example:
        texts = tf.reshape(example[key], [-1])
        return {**example, key: texts[_below(tf.size(texts), numbers[0])]}

    return _drawn(with_numbers(examples, 1, seed).map(choose))


def draw_language(
    examples: tf.data.Dataset,
    languages: Iterable[str] | Mapping[str, float] | None = None,
    seed: int | None = None,
    key: str = "captions",
) -> tf.data.Dataset:
    """Draws a language for each image in each epoch, and takes its caption (section 5.7).

    Args:
        examples: unbatched tf.data.Dataset of dicts with "captions": {"language": [n] string,
            "text": [n] string}, as `TuxPaintStamps` has, or with `key` in place of "captions".
        languages: which may be drawn, for example ["en", "fr"]; or how often, in any unit:
            {"en": 2.0, "fr": 1.0}. None: all equally often. An image that has none of them is left
            out.
        seed: int, of the draws.
        key: str, which entry holds the captions: "translations" of `demo.OpenPictures`.

    Returns:
        The examples, with "text" and "language" (scalar strings) in place of `key`.

    Example:

    >>> captions = {"language": [["en", "fr"]], "text": [["a dog", "un chien"]]}
    >>> examples = tf.data.Dataset.from_tensor_slices({"captions": captions})
    >>> [pair["text"].numpy() for pair in draw_language(examples, ["fr"])]
    [b'un chien']
    """
    weight = _weights(languages)

    def weigh(example: Example) -> tf.Tensor:
        return weight(tf.reshape(example[key]["language"], [-1]))

    def choose(example: Example, numbers: tf.Tensor) -> Example:
        weights = tf.cumsum(weigh(example))
        # `side="right"` never selects a language of zero weight.
        drawn = weights[-1] * tf.cast(numbers[0], tf.float64) / 2.0**32
        index = tf.searchsorted(weights, [drawn], side="right")[0]
        captions = {name: tf.reshape(x, [-1])[index] for name, x in example[key].items()}
        rest = {name: value for name, value in example.items() if name != key}
        return {**rest, "text": captions["text"], "language": captions["language"]}

    usable = examples.filter(lambda example: tf.reduce_sum(weigh(example)) > 0)
    return _drawn(with_numbers(usable, 1, seed).map(choose))


def with_alternatives(
    pairs: tf.data.Dataset,
    probability: float = 0.1,
    key: str = "alternatives",
    seed: int | None = None,
) -> tf.data.Dataset:
    """Replaces some captions by an alternative: a back-translation (section 5.7, Appendix J).

    Args:
        pairs: unbatched tf.data.Dataset of pairs with "text" (scalar string) and `key`, a [n]
            string tensor; n may be 0.
        probability: float in 0..1, how often any of the alternatives is taken (0.1 in the paper).
        key: str, which entry holds the alternatives; it is taken out.
        seed: int, of the draws, which are new in each epoch.

    Returns:
        The pairs without `key`.

    Raises:
        ValueError: `probability` is not in 0..1.

    Example:

    >>> pairs = tf.data.Dataset.from_tensors({"text": "a dog", "alternatives": ["one dog"]})
    >>> [pair["text"].numpy() for pair in with_alternatives(pairs, 1.0)]
    [b'one dog']
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` should be in 0..1. Received: {probability}.")

    def choose(pair: Example, numbers: tf.Tensor) -> Example:
        texts = tf.reshape(pair[key], [-1])
        # Without alternatives the text itself is the only choice.
        choices = tf.concat([texts, [pair["text"]]], axis=0)
        alternative = choices[_below(tf.maximum(tf.size(texts), 1), numbers[1])]
        replaced = tf.cast(numbers[0], tf.float64) < probability * 2.0**32
        rest = {name: value for name, value in pair.items() if name != key}
        return {**rest, "text": tf.where(replaced, alternative, pair["text"])}

    return with_numbers(pairs, 2, seed).map(choose)


def _drawn(examples: tf.data.Dataset) -> tf.data.Dataset:
    examples.draws_captions = True  # `tokenizers` warns whoever trains a vocabulary on them.
    return examples


def _weights(languages: Iterable[str] | Mapping[str, float] | None) -> Any:
    if languages is None:
        return lambda names: tf.ones_like(names, tf.float64)
    if isinstance(languages, str) or not languages:
        raise ValueError(f'`languages` should be a list such as ["en"]. Received: {languages!r}.')
    if not isinstance(languages, Mapping):
        languages = dict.fromkeys(languages, 1.0)
    initializer = tf.lookup.KeyValueTensorInitializer(
        list(languages), [float(weight) for weight in languages.values()], tf.string, tf.float64
    )
    return tf.lookup.StaticHashTable(initializer, default_value=0.0).lookup


def with_numbers(examples: tf.data.Dataset, count: int, seed: int | None) -> tf.data.Dataset:
    """(example, [count] whole numbers in [0, 2**32)), other numbers in each epoch."""
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip(examples, numbers.batch(count, drop_remainder=True))


def _below(count: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    return tf.cast(number % tf.cast(count, tf.int64), tf.int32)


def captions_of(text: str) -> list[str]:
    """The captions of a caption file, one a line; U+2028 and form feeds end no line."""
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]

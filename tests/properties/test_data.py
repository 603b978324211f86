"""Filters, counts and captions against the rules in plain Python."""

import collections
import re
import string
import unicodedata

import numpy as np
import tensorflow as tf
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_lit.data import captions, filters, statistics

# Letters whose categories no version of Unicode disputes, punctuation, symbols and white space.
TEXTS = st.text(string.printable + "éßÆ¿«»€№Ωπж漢字かな한글—…", max_size=40)


def words(text):
    """Without punctuation and symbols, split at ASCII white space."""
    plain = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text.lower())
    return [word for word in re.split(r"[ \t\n\v\f\r]+", plain) if word]


def count_words(text):
    """What ASCII white space divides, and has a letter or digit in it."""
    parts = re.split(r"[ \t\n\v\f\r]+", text)
    return sum(any(unicodedata.category(c)[0] in "LMN" for c in part) for part in parts)


def keep(rule, **pair):
    return bool(rule.keep({name: tf.constant(value) for name, value in pair.items()}))


@given(TEXTS, st.integers(0, 6), st.integers(0, 6))
def test_text_length(text, shortest, longest):
    found = keep(filters.text_length(shortest, longest), text=text)
    assert found == (shortest <= count_words(text) <= longest)


@given(TEXTS, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_rules_compose(text, a, b, c):
    rules = [filters.text_length(n, n) for n in (a, b, c)]
    count = count_words(text)
    found = keep((rules[0] | ~rules[1]) & ~rules[2], text=text)
    assert found == ((count == a or count != b) and count != c)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 8))
def test_size_of_an_image(height, width, larger_than, quarters):
    image = tf.io.encode_png(np.zeros([height, width, 3], "uint8"))
    assert keep(filters.short_side(larger_than), image=image) == (min(height, width) > larger_than)
    ratio = max(height, width) / min(height, width)
    assert keep(filters.aspect_ratio(quarters / 4), image=image) == (ratio < quarters / 4)


@given(
    st.lists(st.sampled_from(["a dog", "A dog!", "two dogs", "the sea"]), min_size=1),
    st.integers(0, 4),
)
def test_images_of_a_text(texts, at_most):
    corpus = statistics.CorpusStatistics(*(statistics.KeyCounter(100) for _ in range(3)))
    keys = [int(statistics.text_key(tf.constant(text))) for text in texts]
    corpus.texts.add(np.array(keys))
    rule = filters.images_per_text(corpus, at_most)
    counts = collections.Counter(" ".join(words(text)) for text in texts)
    for text in set(texts):
        assert keep(rule, text=text) == (counts[" ".join(words(text))] <= at_most)


@given(
    st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=12), max_size=6), st.integers(1, 12)
)
def test_counts(parts, capacity):
    """Exact while all keys have room; then too low by at most `error`, and never too high."""
    counter, expected = statistics.KeyCounter(capacity), collections.Counter()
    exact = True
    for part in parts:
        new = counter.add(np.array(part))
        if exact:
            assert [k for k, n in zip(part, new, strict=True) if n] == [
                k for i, k in enumerate(part) if k not in expected and k not in part[:i]
            ]
        expected.update(part)
        exact = exact and len(expected) <= capacity
    assert (np.diff(counter.keys) > 0).all()
    assert len(counter.keys) <= max(capacity, 1)
    found = dict(zip(counter.keys.tolist(), counter.counts.tolist(), strict=True))
    if exact:
        assert found == dict(expected) and counter.error == 0
    for key, count in expected.items():
        assert count - counter.error <= found.get(key, 0) <= count


class Stream:
    """A dataset that is made once and gives whatever `rows` holds."""

    def __init__(self, spec):
        self.rows = []
        self.dataset = tf.data.Dataset.from_generator(
            lambda: iter(self.rows), output_signature=spec
        )


LISTS = st.lists(TEXTS.filter(lambda text: "\0" not in text), min_size=1, max_size=5)
STRINGS, STRING = tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.string)


def test_draw():
    stream = Stream({"text": STRINGS})
    drawn = captions.draw(stream.dataset, seed=1)

    @given(st.lists(LISTS, min_size=1, max_size=4))
    def check(lists):
        stream.rows = [{"text": texts} for texts in lists]
        found = [row["text"].decode() for row in drawn.as_numpy_iterator()]
        assert len(found) == len(lists)
        assert all(text in texts for text, texts in zip(found, lists, strict=True))

    check()


def test_alternatives():
    stream = Stream({"text": STRING, "alternatives": STRINGS})
    always, never = (captions.with_alternatives(stream.dataset, p, seed=1) for p in (1.0, 0.0))

    @given(TEXTS, st.lists(TEXTS, max_size=4))
    def check(text, alternatives):
        stream.rows = [{"text": text, "alternatives": np.array(alternatives, dtype=object)}]
        (found,) = always.as_numpy_iterator()
        assert found["text"].decode() in (alternatives or [text])
        (found,) = never.as_numpy_iterator()
        assert found == {"text": text.encode()}

    check()


def test_draw_language():
    spec = {"captions": {"language": STRINGS, "text": STRINGS}}
    stream = Stream(spec)
    drawn = captions.draw_language(stream.dataset, {"en": 1.0, "fr": 2.0}, seed=1)
    languages = st.lists(st.sampled_from(["en", "fr", "de"]), min_size=1, max_size=4)

    @given(st.lists(languages, min_size=1, max_size=4))
    def check(rows):
        stream.rows = [
            {"captions": {"language": row, "text": [f"{name} {i}" for i, name in enumerate(row)]}}
            for row in rows
        ]
        found = list(drawn.as_numpy_iterator())
        usable = [row for row in rows if {"en", "fr"} & set(row)]
        assert len(found) == len(usable)
        for row, languages in zip(found, usable, strict=True):
            name, index = row["text"].decode().split()
            assert name == row["language"].decode() == languages[int(index)] != "de"

    check()


@given(st.binary(max_size=12))
def test_is_utf8(content):
    try:
        content.decode()
        valid = b"\0" not in content  # As UTF-16 has it.
    except UnicodeDecodeError:
        valid = False
    assert captions.is_utf8(content.decode("utf-8", "surrogateescape")) == valid


@given(TEXTS)
def test_words(text):
    assume("İ" not in text)
    found = [word.decode() for word in statistics.words(tf.constant(text)).numpy()]
    assert found == words(text)

from collections import Counter

import pytest
import tensorflow as tf

from keras_lit.data import captions


def texts(pairs):
    return [pair["text"].decode() for pair in pairs.as_numpy_iterator()]


def stamps(*rows):
    """Examples from {language: text} dicts, with a column to keep."""
    return tf.data.Dataset.from_tensor_slices(
        {
            "captions": {
                "language": tf.ragged.constant([list(row) for row in rows]),
                "text": tf.ragged.constant([list(row.values()) for row in rows]),
            },
            "name": [str(i) for i in range(len(rows))],
        }
    )


def test_a_caption_is_drawn_in_each_epoch():
    rows = tf.data.Dataset.from_tensor_slices(
        {"text": tf.ragged.constant([["a", "b", "c"]] * 300 + [["d"]])}
    )
    pairs = captions.draw(rows, seed=1)
    assert pairs.element_spec["text"].shape.rank == 0
    first, second = texts(pairs), texts(pairs)
    for epoch in (first, second):
        counts = Counter(epoch)
        assert counts.pop("d") == 1 and set(counts) == {"a", "b", "c"}
        assert all(60 < count < 140 for count in counts.values())
    assert 60 < sum(one == other for one, other in zip(first, second, strict=True)) < 140
    again = captions.draw(rows, seed=1)
    assert [texts(again), texts(again)] == [first, second]


def test_languages_are_drawn_by_weight():
    rows = [{"en": "a dog", "fr": "un chien", "de": "ein Hund"}, {"de": "eine Katze"}] * 500
    weights = {"en": 3.0, "fr": 1.0, "de": 0.0}
    pairs = list(captions.draw_language(stamps(*rows), weights, seed=1).as_numpy_iterator())
    assert len(pairs) == 500 and {pair["name"] for pair in pairs} == {
        str(i).encode() for i in range(0, 1000, 2)
    }
    counts = Counter((pair["language"].decode(), pair["text"].decode()) for pair in pairs)
    assert set(counts) == {("en", "a dog"), ("fr", "un chien")}
    assert 325 < counts["en", "a dog"] < 425
    assert "captions" not in pairs[0]


def test_all_languages_alike_and_new_in_each_epoch():
    pairs = captions.draw_language(stamps(*[{"en": "a", "fr": "b", "de": "c"}] * 300), seed=3)
    first, second = texts(pairs), texts(pairs)
    counts = Counter(first)
    assert set(counts) == {"a", "b", "c"} and all(60 < count < 140 for count in counts.values())
    assert first != second
    chosen = captions.draw_language(stamps({"en": "a", "fr": "b"}, {"en": "c"}), ["fr"])
    assert texts(chosen) == ["b"]
    renamed = stamps({"en": "a", "fr": "b"}).map(
        lambda pair: {"name": pair["name"], "translations": pair["captions"]}
    )
    chosen = captions.draw_language(renamed, ["fr"], key="translations")
    assert texts(chosen) == ["b"] and "translations" not in chosen.element_spec


def test_the_same_captions_for_the_same_seed():
    several = stamps(*[{"en": "a", "fr": "b", "de": "c"}] * 50)
    rows = {"text": ["a"] * 50, "alternatives": tf.ragged.constant([["b", "c"]] * 50)}
    alternatives = tf.data.Dataset.from_tensor_slices(rows)
    for draw in (
        lambda: captions.draw_language(several, seed=2),
        lambda: captions.with_alternatives(alternatives, 0.5, seed=2),
    ):
        assert texts(draw()) == texts(draw())


def test_back_translations_come_with_a_probability():
    rows = {
        "text": ["a dog"] * 1000 + ["alone"],
        "alternatives": tf.ragged.constant([["one dog", "the dog"]] * 1000 + [[]], dtype=tf.string),
    }
    pairs = tf.data.Dataset.from_tensor_slices(rows)
    drawn = texts(captions.with_alternatives(pairs, 0.1, seed=1))
    counts = Counter(drawn)
    assert drawn[-1] == "alone"
    assert 70 < counts["one dog"] + counts["the dog"] < 130
    assert min(counts["one dog"], counts["the dog"]) > 25
    assert set(texts(captions.with_alternatives(pairs, 0.0))) == {"a dog", "alone"}
    assert "a dog" not in texts(captions.with_alternatives(pairs, 1.0))
    assert list(captions.with_alternatives(pairs).element_spec) == ["text"]
    with pytest.raises(ValueError, match=r"`probability` should be in 0\.\.1\. Received: 10"):
        captions.with_alternatives(pairs, 10)

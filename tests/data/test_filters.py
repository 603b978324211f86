"""Every rule of ALIGN and LiT on worked examples, one on either side of its threshold."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.data import filters, statistics


def image(height, width, encode=tf.io.encode_png):
    return encode(tf.zeros([height, width, 3], tf.uint8)).numpy()


def pairs_of(texts, images=None, **columns):
    images = [f"image {i}" for i in range(len(texts))] if images is None else images
    return tf.data.Dataset.from_tensor_slices({"image": images, "text": texts, **columns})


def kept(pairs, *rules):
    return [pair["text"].decode() for pair in filters.apply(pairs, rules).as_numpy_iterator()]


ENCODERS = [tf.io.encode_png, tf.io.encode_jpeg]


@pytest.mark.parametrize("encode", ENCODERS)
def test_short_side_is_larger_than_200(encode):
    images = [image(201, 300, encode), image(200, 300, encode), image(300, 200, encode)]
    assert kept(pairs_of(["a", "b", "c"], images), filters.short_side()) == ["a"]


@pytest.mark.parametrize("encode", ENCODERS)
def test_aspect_ratio_is_below_3(encode):
    images = [image(10, 29, encode), image(10, 30, encode), image(30, 10, encode)]
    assert kept(pairs_of(["a", "b", "c"], images), filters.aspect_ratio()) == ["a"]


def test_sizes_of_pixels_and_of_other_formats():
    gif = tf.io.encode_png(tf.zeros([3, 4, 3], tf.uint8)).numpy()
    rule = filters.short_side(2)
    assert kept(pairs_of(["a"], [gif]), rule) == ["a"]
    bmp = b"BM" + np.array([66, 0, 54, 40, 1, 3], "<i4").tobytes()
    bmp += np.array([1, 24], "<i2").tobytes() + bytes(24) + bytes(12)
    assert not kept(pairs_of(["a"], [bmp]), rule)
    pixels = np.zeros([1, 3, 9, 3], "uint8")
    assert kept(pairs_of(["a"], pixels), rule) == ["a"]
    assert not kept(pairs_of(["a"], pixels), filters.short_side(3))


@pytest.mark.parametrize("number", [1000, 1001])
def test_an_image_has_at_most_1000_texts(number):
    pairs = pairs_of([*map(str, range(number)), "other"], ["one"] * number + ["two"])
    corpus = statistics.collect(pairs)
    found = kept(pairs, filters.texts_per_image(corpus))
    assert found == ([*map(str, range(1000)), "other"] if number == 1000 else ["other"])


def test_a_text_belongs_to_at_most_10_images():
    texts = ["Image for sale"] * 11 + ["a cat"] * 10 + ["image, for SALE!"]
    pairs = pairs_of(texts)
    corpus = statistics.collect(pairs)
    assert kept(pairs, filters.images_per_text(corpus)) == ["a cat"] * 10


def test_the_same_pair_twice_counts_once():
    pairs = pairs_of(["a cat"] * 12, ["one"] * 11 + ["two"])
    corpus = statistics.collect(pairs)
    assert corpus.pairs == 2 and corpus.images.counts.tolist() == [1, 1]
    assert len(kept(pairs, filters.images_per_text(corpus))) == 12


@pytest.mark.parametrize("texts", [["a b", "a b c d", "x " * 20, "x " * 21, "a, - b!"]])
def test_texts_have_3_to_20_words(texts):
    assert kept(pairs_of([*texts, "a b c"]), filters.text_length()) == [texts[1], texts[2], "a b c"]


def test_words_are_among_the_commonest():
    # Unigrams: the 3, dog 2, cat 1, a 1. Bigrams: "the dog" 2, "the cat" 1, "dog the" 1, "a dog"...
    texts = ["the dog", "the dog, the", "cat", "a"]
    pairs = pairs_of(texts)
    corpus = statistics.collect(pairs)
    counts = {
        text: int(corpus.ngrams.counts[corpus.ngrams.keys == statistics._hash(text).numpy()][0])
        for text in ("the", "dog", "the dog", "dog the", "cat", "a")
    }
    assert counts == {"the": 3, "dog": 2, "the dog": 2, "dog the": 1, "cat": 1, "a": 1}
    assert kept(pairs, filters.common_words(corpus, 6)) == texts
    assert kept(pairs, filters.common_words(corpus, 3)) == ["the dog", "the dog, the"]
    # "dog" and "the dog" share second place and only one could have it: neither does.
    assert kept(pairs, filters.common_words(corpus, 2)) == []


def test_language_is_told_by_a_function():
    def detect(text):
        return "el" if any("α" <= letter <= "ω" for letter in text) else "en"

    texts = ["ένα τουκάν", "a toucan"]
    assert kept(pairs_of(texts), filters.language({"el"}, detect)) == texts[:1]


def test_sets_of_rules_and_their_counts():
    texts = ["a b c"] * 12 + ["one two", "x y z", "x y z", "x y z"]
    sizes = [(300, 300 + i) for i in range(13)] + [(300, 300), (200, 300), (300, 900)]
    pairs = pairs_of(texts, [image(*size) for size in sizes])
    corpus = statistics.collect(pairs)
    counts = Counter()
    rules = filters.align_image_rules(corpus) + filters.align_text_rules(corpus)
    found = [pair["text"] for pair in filters.apply(pairs, rules, counts).as_numpy_iterator()]
    assert found == [b"x y z"]
    assert counts == {
        "short side > 200": 1,
        "aspect ratio < 3": 1,
        "at most 10 images a text": 12,
        "3 to 20 words": 1,
        "kept": 1,
    }
    assert kept(pairs, *filters.lit_text_rules(corpus)) == ["one two"] + ["x y z"] * 3
    assert len(kept(pairs, *filters.lit_text_rules(corpus, 12))) == 16


def test_rules_compose():
    short, red = filters.text_length(1, 2), filters.Filter("red", lambda p: p["text"] == "red")
    pairs = pairs_of(["red", "a blue one", "blue"])
    assert kept(pairs, short & red) == ["red"] and kept(pairs, ~short) == ["a blue one"]
    assert kept(pairs, ~short | red) == ["red", "a blue one"]
    assert (~short | red).name == "(not (1 to 2 words) or red)"


def test_rules_that_cannot_be_counted():
    rule = filters.text_length()
    with pytest.raises(ValueError, match="different names.*'3 to 20 words', '3 to 20 words'"):
        filters.apply(pairs_of(["a"]), [rule, rule])
    with pytest.raises(ValueError, match=r"`text` should have rank 0.*before `batch`"):
        filters.apply(pairs_of(["a"]).batch(1), [rule])


@pytest.mark.parametrize(("given", "received"), [(None, "None"), (1, "1"), ("yes", "yes")])
def test_a_rule_that_says_no_bool_is_named(given, received):
    """An int that is not 0 was an error of TensorFlow's compiler."""
    with pytest.raises(ValueError, match=f"rule 'mine' should say by a bool.*Received: {received}"):
        filters.apply(pairs_of(["a"]), [filters.Filter("mine", lambda pair: given)])
    for stays in (True, np.bool_(True)):
        rule = filters.Filter("mine", lambda pair, stays=stays: stays)
        assert kept(pairs_of(["a"]), rule) == ["a"]


def test_words_are_what_whitespace_divides():
    """ALIGN's 3 to 20: a hyphen or an apostrophe makes no second word, a lone dash makes none."""
    texts = [
        "a dog's",
        "rock'n'roll",
        "U.S. flag",
        "a - b",
        *(" ".join(["of-the-art"] * n) for n in (20, 21)),
    ]
    assert kept(pairs_of([*texts, "a dog's bed"]), filters.text_length()) == [
        texts[4],
        "a dog's bed",
    ]


def test_forgotten_words_are_not_judged_by():
    corpus = statistics.collect(pairs_of([f"word{i} here" for i in range(40)]), capacity=20)
    with pytest.raises(ValueError, match="had to forget.*larger `capacity`"):
        filters.common_words(corpus)
    filters.common_words(corpus, 5)

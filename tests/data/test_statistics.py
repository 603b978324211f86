from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.data import filters, statistics
from keras_lit.data.statistics import CorpusStatistics, KeyCounter


def counted(counter):
    return dict(zip(counter.keys.tolist(), counter.counts.tolist(), strict=True))


def test_counts_are_exact_below_the_capacity():
    rng = np.random.default_rng(0)
    counter, expected = KeyCounter(100), Counter()
    for _ in range(20):
        keys = rng.zipf(1.5, 50) % 90
        new = counter.add(keys)
        firsts = {key: i for i, key in reversed([*enumerate(keys.tolist())]) if key not in expected}
        assert sorted(np.flatnonzero(new)) == sorted(firsts.values())
        expected.update(keys.tolist())
    assert counted(counter) == expected and counter.error == 0
    assert counter.above(20).tolist() == sorted(k for k, n in expected.items() if n > 20)


def test_frequent_keys_outlast_the_capacity():
    counter = KeyCounter(40)
    for step in range(100):
        rare = np.arange(30) + 1000 * (step + 1)
        counter.add(np.concatenate([np.repeat(np.arange(5), 10), rare]))
        assert len(counter.keys) <= 40
    found = counted(counter)
    assert 0 < counter.error <= 200
    for key in range(5):
        assert 1000 - counter.error <= found[key] <= 1000
    assert counter.commonest(5).tolist() == [0, 1, 2, 3, 4]


def test_statistics_are_saved(tmp_path):
    pairs = tf.data.Dataset.from_tensor_slices({"image": ["1", "2", "3"], "text": ["a b"] * 3})
    corpus = statistics.collect(pairs, capacity=50)
    corpus.texts.error = 3
    corpus.save(tmp_path / "corpus.npz")
    loaded = CorpusStatistics.load(tmp_path / "corpus.npz")
    for name in ("texts", "images", "ngrams"):
        assert counted(getattr(loaded, name)) == counted(getattr(corpus, name))
        assert getattr(loaded, name).capacity == 50
    assert loaded.pairs == 3
    assert (loaded.texts.error, loaded.images.error) == (3, 0)
    assert not list(filters.apply(pairs, [filters.images_per_text(loaded, 2)]))
    loaded.texts.add(np.array([1]))  # what was loaded counts on


def test_the_same_over_chunks(monkeypatch):
    texts = [f"word {i % 7}" for i in range(100)]
    pairs = tf.data.Dataset.from_tensor_slices(
        {"image": [str(i % 30) for i in range(100)], "text": texts}
    )
    whole = statistics.collect(pairs)
    monkeypatch.setattr(statistics, "_CHUNK", 9)
    chunked = statistics.collect(pairs)
    assert chunked.pairs == whole.pairs == len({(i % 30, i % 7) for i in range(100)})
    assert counted(chunked.texts) == counted(whole.texts)
    assert counted(chunked.ngrams) == counted(whole.ngrams)


def test_images_that_are_not_encoded_go_by_name():
    pixels = np.zeros([3, 2, 2, 3], "uint8")
    pairs = {"image": pixels, "text": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="encoded images, or a \"name\".*'image', 'text'"):
        statistics.collect(tf.data.Dataset.from_tensor_slices(pairs))
    named = tf.data.Dataset.from_tensor_slices({**pairs, "name": ["x", "x", "y"]})
    assert sorted(statistics.collect(named).images.counts) == [1, 2]


def test_words_of_any_script():
    found = statistics.words(tf.constant(["Ein Tukan, bunt!", "«ТУКАН» — птица", ""])).to_list()
    assert [[w.decode() for w in row] for row in found] == [
        ["ein", "tukan", "bunt"],
        ["тукан", "птица"],
        [],
    ]

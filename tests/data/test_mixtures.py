from collections import Counter

import pytest
import tensorflow as tf

from keras_lit.data import mixtures


def dataset(name, count):
    return tf.data.Dataset.from_tensor_slices({"text": [f"{name}{i}" for i in range(count)]})


def test_batches_alternate():
    mixed = mixtures.alternate_batches([dataset("a", 4).batch(2), dataset("b", 6).batch(2)])
    found = [[text.decode() for text in batch["text"].numpy()] for batch in mixed.take(7)]
    assert found == [
        ["a0", "a1"],
        ["b0", "b1"],
        ["a2", "a3"],
        ["b2", "b3"],
        ["a0", "a1"],
        ["b4", "b5"],
        ["a2", "a3"],
    ]


def test_batches_take_turns_by_number():
    datasets = [dataset("a", 3).batch(1), dataset("b", 2).batch(1)]
    mixed = mixtures.alternate_batches(datasets, [2, 1])
    found = [batch["text"].numpy()[0].decode() for batch in mixed.take(6)]
    assert found == ["a0", "a1", "b0", "a2", "a0", "b1"]


def test_examples_are_sampled_by_weight():
    mixed = mixtures.sample_examples([dataset("a", 3), dataset("b", 1000)], [1, 3], seed=1)
    found = [pair["text"].decode() for pair in mixed.take(1000).as_numpy_iterator()]
    counts = Counter(text[0] for text in found)
    assert 200 < counts["a"] < 300
    # Neither loses an example, nor its order.
    assert [text for text in found if text[0] == "b"] == [f"b{i}" for i in range(counts["b"])]
    again = mixtures.sample_examples([dataset("a", 3), dataset("b", 1000)], [1, 3], seed=1)
    assert [pair["text"].decode() for pair in again.take(1000).as_numpy_iterator()] == found


def test_examples_are_sampled_anew_in_each_epoch():
    mixed = mixtures.sample_examples([dataset("a", 3), dataset("b", 3)], seed=1).take(30)
    first, second = ([pair["text"] for pair in mixed.as_numpy_iterator()] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("mix", [mixtures.alternate_batches, mixtures.sample_examples])
def test_bad_mixtures(mix):
    other = dataset("a", 2).map(lambda pair: {"caption": pair["text"]})
    with pytest.raises(ValueError, match=r"same entries. Received: \[\['text'\], \['caption'\]\]"):
        mix([dataset("a", 2), other])
    with pytest.raises(ValueError, match="as many `(turns|weights)`. Received: 1 and 2"):
        mix([dataset("a", 2)], [1, 2])
    with pytest.raises(ValueError, match="positive number. Received: 0"):
        mix([dataset("a", 2)], [0])

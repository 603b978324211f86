"""Batches of neighbours: near each other, never of one group or image, anew in each epoch."""

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.features import hard_batches

RNG = np.random.default_rng(0)


def dataset(count=64, dim=6, **columns):
    rows = {"image_features": RNG.normal(size=[count, dim]).astype("float32")}
    rows |= {"text": [f"caption {i}" for i in range(count)], "number": np.arange(count), **columns}
    return tf.data.Dataset.from_tensor_slices(rows)


def numbers(batches):
    return [batch["number"].tolist() for batch in batches.as_numpy_iterator()]


@pytest.mark.parametrize("by", ["image", "text"])
def test_a_batch_is_a_cluster(by):
    clusters = np.arange(64) % 8
    near = 100 + 10 * RNG.normal(size=[8, 6])[clusters] + 1e-3 * RNG.normal(size=[64, 6])
    pairs = dataset(**{f"{by}_features": near.astype("float32")})
    for _ in range(3):
        found = numbers(hard_batches(pairs, 8, by))
        assert sorted(clusters[batch].tolist() for batch in found) == [[i] * 8 for i in range(8)]


def test_they_are_nearer_than_chance():
    pairs = dataset(200, 3)
    rows = np.stack([pair["image_features"] for pair in pairs.as_numpy_iterator()])
    rows = rows - rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = numbers(hard_batches(pairs, 16, seed=1))
    assert len(found) == 12 and len({row for batch in found for row in batch}) == 192
    near = np.mean([(rows[batch] @ rows[batch].T).mean() for batch in found])
    chance = np.mean([(x @ x.T).mean() for x in rows[:192].reshape(12, 16, 3)])
    assert near > 0.5 and chance < 0.15


def test_each_epoch_is_another_and_a_seed_repeats_them():
    pairs = dataset(50)
    batches = hard_batches(pairs, 8, seed=3)
    epochs = [numbers(batches) for _ in range(3)]
    again = hard_batches(pairs, 8, seed=3)
    assert [numbers(again) for _ in range(3)] == epochs
    members = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert members[0] != members[1]
    left_out = [set(range(50)) - {x for batch in epoch for x in batch} for epoch in epochs]
    assert all(len(rows) == 2 for rows in left_out) and left_out[0] != left_out[1]


@pytest.mark.parametrize("column", ["group", "text", "text_features", "image_features"])
def test_what_is_no_negative_is_in_another_batch(column):
    """All of them are kept: sixteen of each number, in batches of four."""
    same = np.arange(64) // 16
    features = RNG.normal(size=[4, 6]).astype("float32")[same]
    columns = {"group": same, "text": [f"caption {i}" for i in same], "text_features": features}
    columns["image_features"] = features
    pairs = dataset(**{column: columns[column]})
    if column == "text_features":
        pairs = pairs.map(lambda pair: {x: pair[x] for x in pair if x != "text"})
    found = numbers(hard_batches(pairs, 4))
    assert [sorted(same[batch].tolist()) for batch in found] == [[0, 1, 2, 3]] * 16
    with pytest.raises(tf.errors.InvalidArgumentError, match="No batch of 5 pairs of different"):
        list(hard_batches(pairs, 5))


def test_a_group_decides_for_texts():
    pairs = dataset(16, text=["a"] * 16, group=np.arange(16))
    assert len(numbers(hard_batches(pairs, 4))) == 4


def test_a_model_takes_them():
    pairs = dataset(40, text_features=RNG.normal(size=[40, 5]).astype("float32"))
    towers = keras_lit.ImageTower.from_features(6), keras_lit.TextTower.from_features(5)
    model = keras_lit.LiT(*towers, "LL")
    model.compile("sgd", jit_compile=False)
    found = model.evaluate(hard_batches(pairs, 8), return_dict=True, verbose=0)
    assert found["chance_loss"] == pytest.approx(np.log(8))


def test_what_is_refused():
    with pytest.raises(ValueError, match='unbatched pairs with "image_features" \\[dim\\]'):
        hard_batches(dataset().batch(8), 8)
    with pytest.raises(ValueError, match='unbatched pairs with "text_features"'):
        hard_batches(dataset(), 8, by="text")
    for size in (1, 65):
        with pytest.raises(ValueError, match=f"at least 2, and at most.*{size}, of 64 pairs"):
            hard_batches(dataset(), size)

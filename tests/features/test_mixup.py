"""Mixtures of cached pairs."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.features import latent_mixup

RNG = np.random.default_rng(0)
ROWS = {
    "image_features": RNG.normal(size=[60, 3]).astype("float16"),
    "text_features": RNG.normal(size=[60, 5]).astype("float32"),
    "text": ["a"] * 60,
    "fingerprint": np.arange(60),
}


def batches(size=6):
    return tf.data.Dataset.from_tensor_slices(ROWS).batch(size)


def shares(mixed, size=6):
    """The share of each batch, from the first number; all others should be mixed by the same."""
    found = []
    for i, batch in enumerate(mixed.as_numpy_iterator()):
        rows = {k: ROWS[k][i * size : (i + 1) * size].astype("float32") for k in batch}
        half = len(rows["fingerprint"]) // 2
        first, second = (rows["image_features"][j, 0] for j in (0, half))
        share = (batch["image_features"][0, 0] - second) / (first - second)
        for side in ("image_features", "text_features"):
            a, b = rows[side][:half], rows[side][half : 2 * half]
            np.testing.assert_allclose(batch[side], share * a + (1 - share) * b, atol=1e-4)
        np.testing.assert_array_equal(batch["fingerprint"], rows["fingerprint"][:half])
        found.append(share)
    return np.array(found)


def test_both_sides_are_mixed_by_the_same_share():
    mixed = latent_mixup(batches(), seed=1)
    assert set(mixed.element_spec) == set(ROWS) - {"text"}
    epochs = [shares(mixed) for _ in range(2)]
    assert len({*np.round(np.concatenate(epochs), 4)}) == 20, "anew in each batch and epoch"
    assert ((epochs[0] >= 0) & (epochs[0] <= 1)).all()
    np.testing.assert_array_equal(shares(latent_mixup(batches(), seed=1)), epochs[0])
    assert next(iter(latent_mixup(batches(7))))["text_features"].shape == [3, 5]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_a_beta_distribution(alpha):
    """Its mean is 1/2, its variance 1 / (4 (2 alpha + 1))."""
    found = shares(latent_mixup(batches(2).repeat(20), alpha, seed=0).take(30), 2)
    many = tf.data.Dataset.from_tensors({k: ROWS[k][:2] for k in list(ROWS)[:2]}).repeat(4000)
    rows = [row["image_features"][0, 0] for row in latent_mixup(many, alpha, seed=3)]
    first, second = ROWS["image_features"][:2, 0].astype("float32")
    drawn = (np.array(rows) - second) / (first - second)
    assert len(found) == 30 and abs(drawn.mean() - 0.5) < 0.03
    assert abs(drawn.var() * 4 * (2 * alpha + 1) - 1) < 0.08


@pytest.mark.parametrize(
    "rows",
    [
        lambda: tf.data.Dataset.from_tensor_slices(ROWS),
        lambda: batches().map(lambda row: {k: x for k, x in row.items() if k != "text_features"}),
        lambda: batches().map(lambda row: row["text_features"]),
    ],
)
def test_only_batches_of_both_features(rows):
    with pytest.raises(ValueError, match=r"Latent mixup takes batches.*text_tower="):
        latent_mixup(rows())


def test_alpha_is_positive():
    with pytest.raises(ValueError, match="`alpha` should be a positive number"):
        latent_mixup(batches(), 0)

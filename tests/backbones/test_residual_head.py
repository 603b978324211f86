"""A linear head plus an MLP that starts at zero."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_lit import ImageTower, LiT, TextTower
from keras_lit.backbones import ResidualHead
from keras_lit.training import micro_batches
from tests.small import make_tower, mirrored

RNG = np.random.default_rng(0)
X = RNG.normal(size=[5, 6]).astype("float32")


def made(**options):
    """A head whose every weight counts."""
    head = ResidualHead(4, 7, **options)
    head.build((None, 6))
    for weight in head.trainable_variables:
        weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
    return head


def by_hand(x, head):
    """Layer norm, GELU and two dense layers beside a linear one."""
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    normed = normed * head.norm.gamma.numpy() + head.norm.beta.numpy()
    hidden = normed @ head.inner.kernel.numpy() + head.inner.bias.numpy()
    hidden = hidden * (1 + special.erf(hidden / np.sqrt(2))) / 2
    outer = hidden @ head.outer.kernel.numpy() + head.outer.bias.numpy()
    return x @ head.linear.kernel.numpy() + head.linear.bias.numpy() + outer


def test_it_is_a_linear_head_plus_an_mlp():
    head = made()
    # TensorFlow's fused GELU is within 5e-4 of the exact one.
    np.testing.assert_allclose(head(X), by_hand(X, head), rtol=1e-3)


def test_it_starts_as_the_linear_head_that_it_is_given():
    head = made(dropout=0.5)
    kernel, bias = RNG.normal(size=[6, 4]), RNG.normal(size=4)
    head.start(kernel, bias)
    np.testing.assert_allclose(head(X, training=True), X @ kernel + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("noise", "variance"), [(0.0, 0.0), (1.0, 9.0), (0.5, 4.5)])
def test_noise_in_training_has_the_variance_that_was_asked_for(noise, variance):
    head = ResidualHead(2, 3, dropout=0.0, noise=noise, dtype="float64")
    head.build((None, 2))
    head.start(np.eye(2), np.zeros(2), 9.0)
    x = np.ones([20_000, 2])
    found = head(x, training=True).numpy()
    np.testing.assert_allclose(found.var(axis=0), [variance] * 2, rtol=0.05)
    np.testing.assert_array_equal(head(x), x)


def test_align_sets_it_and_fit_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=[60, 8]).astype("float32") * 3 + 5
    pairs = {"image_features": images, "text_features": images[:, :5] ** 2}
    towers = (
        ImageTower.from_features(8, head=ResidualHead(4, 16)),
        TextTower.from_features(5, head=ResidualHead(4, 16)),
    )
    model = LiT(*towers, "LL")
    found = model.align(pairs, folds=3, verbose=0)
    penalties = (found.image_penalty, found.text_penalty)
    sides = zip(("image", "text"), towers, found.heads, penalties, strict=True)
    for side, tower, head, penalty in sides:
        features = pairs[f"{side}_features"]
        expected = features @ head.kernel + head.bias
        np.testing.assert_allclose(tower.project(features), expected, rtol=1e-4, atol=1e-4)
        variance = penalty * features.var(axis=0).mean()
        assert float(tower.head.variance) == pytest.approx(variance, rel=1e-4)
    towers[0].head.linear.trainable = False
    kernels = [tower.head.linear.kernel.numpy() for tower in towers]
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(pairs, batch_size=60, verbose=0)
    after = [tower.head.linear.kernel.numpy() for tower in towers]
    changed = [not np.array_equal(*pair) for pair in zip(kernels, after, strict=True)]
    assert changed == [False, True]
    assert all(np.abs(tower.head.outer.kernel).max() > 0 for tower in towers)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encode_image(images), model.encode_image(images))
    assert float(loaded.image_tower.head.variance) == float(towers[0].head.variance)


def two_headed(**options):
    """A LiT of features, and eight pairs of them."""
    rng = np.random.default_rng(1)
    heads = [ResidualHead(4, 7, **options) for _ in range(2)]
    model = LiT(
        ImageTower.from_features(6, head=heads[0]), TextTower.from_features(5, head=heads[1]), "LL"
    )
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) / 2)
    for head in heads:
        head.variance.assign(0.5)
    sides = zip(("image", "text"), (6, 5), strict=True)
    return model, {
        f"{side}_features": tf.constant(rng.normal(size=[8, dim]), tf.float32)
        for side, dim in sides
    }


def gradients(model, embed):
    """Of the loss of what `embed(tape)` gives."""
    with tf.GradientTape() as tape:
        loss, _ = model._contrast(embed(tape))
    return tape.gradient(loss, model.trainable_weights)


def test_noise_and_dropout_are_the_same_in_both_passes_of_micro_batches():
    model, pairs = two_headed(dropout=0.5)
    seeds = [head._seeds.state for head in (model.image_tower.head, model.text_tower.head)]
    seeds += [head.drop.seed_generator.state for head in (model.image_tower.head,)]
    seeds += [model.text_tower.head.drop.seed_generator.state]
    before = [seed.numpy() for seed in seeds]

    def in_turn(tape):
        chunks = [
            model({name: x[i : i + 3] for name, x in pairs.items()}, training=True)
            for i in (0, 3, 6)
        ]
        return {name: tf.concat([chunk[name] for chunk in chunks], 0) for name in chunks[0]}

    expected = gradients(model, in_turn)
    after = [seed.numpy() for seed in seeds]
    for seed, value in zip(seeds, before, strict=True):
        seed.assign(value)
    found = gradients(model, lambda tape: micro_batches.embed(model, pairs, 3, tape))
    assert len(found) == 17  # Eight of each head, and the temperature.
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
    for seed, old, new in zip(seeds, before, after, strict=True):
        assert np.array_equal(seed, new) and not np.array_equal(new, old)


@pytest.mark.slow
def test_two_replicas_find_the_gradients_of_one_device():
    """Without noise and dropout, which each draws on its own."""
    options = {"dropout": 0.0, "noise": 0.0}
    model, pairs = two_headed(**options)
    expected = gradients(model, lambda tape: model(pairs, training=True))
    strategy = mirrored(2)
    with strategy.scope():
        model, pairs = two_headed(**options)

    @tf.function
    def step():
        half = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = {name: x[half * 4 : half * 4 + 4] for name, x in pairs.items()}
        return gradients(model, lambda tape: model(own, training=True))

    found = strategy.reduce("SUM", strategy.run(step), axis=None)
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_an_exported_tower_has_no_noise(tmp_path):
    tower = make_tower(head=made())
    tower.head.variance.assign(9.0)
    pixels = RNG.normal(size=[2, 8, 8, 3]).astype("float32")
    features = tower.features(pixels).numpy()
    tower.export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    found = loaded.serve(pixels)
    np.testing.assert_allclose(found, by_hand(features, tower.head), rtol=1e-3)


def test_align_refuses_another_width():
    pairs = {f"{side}_features": RNG.normal(size=[60, 8]) for side in ("image", "text")}
    heads = ResidualHead(4, 16), ResidualHead(4, 16)
    towers = (
        ImageTower.from_features(8, head=heads[0]),
        TextTower.from_features(8, head=heads[1]),
    )
    model = LiT(*towers, "LL")
    for options in ({"dim": 3}, {"method": "ridge"}):
        with pytest.raises(ValueError, match="wide and the ResidualHead of the ImageTower 4"):
            model.align(pairs, folds=3, penalties=[0.1], verbose=0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` should be"),
        ({"width": 0}, "`width` should be"),
        ({"dropout": 1.0}, r"`dropout` should be in \[0, 1\)"),
        ({"noise": -1.0}, "`noise` should not be negative"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualHead(**{"dim": 4, **options})

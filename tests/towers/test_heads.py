"""Heads of the towers: linear, MLP, any layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import ImageTower, TextTower
from keras_lit.backbones import MLPHead, ResidualHead
from tests.small import mirrored

RNG = np.random.default_rng(0)


def mlp(x, head, training):
    """Three dense layers by hand, with batch norms (of the batch, or as learned) and ReLUs."""
    dense = [part for part in head.parts if isinstance(part, keras.layers.Dense)]
    norms = [part for part in head.parts if isinstance(part, keras.layers.BatchNormalization)]
    for layer, norm in zip(dense, norms, strict=False):
        x = x @ layer.kernel.numpy() + layer.bias.numpy()
        mean, variance = (
            (x.mean(0), x.var(0)) if training else (norm.moving_mean, norm.moving_variance)
        )
        x = (x - np.asarray(mean)) / np.sqrt(np.asarray(variance) + norm.epsilon)
        x = np.maximum(x * norm.gamma.numpy() + norm.beta.numpy(), 0)
    return x @ dense[-1].kernel.numpy() + dense[-1].bias.numpy()


def randomize(layer):
    for weight in layer.weights:
        weight.assign(RNG.uniform(0.5, 1.5, weight.shape))


@pytest.mark.parametrize("training", [False, True])
def test_an_mlp_is_that_of_its_paper(training):
    tower = TextTower.from_features(6, head=MLPHead(4, width=5, depth=3, dropout=0))
    assert [len(tower.head.parts), tower.embedding_dim, tower.projection_dim] == [7, 4, 4]
    randomize(tower.head)
    x = RNG.normal(size=[8, 6]).astype("float32")
    expected = mlp(x, tower.head, training)
    np.testing.assert_allclose(tower.project(x, training=training), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tower(x, training=training), tower.project(x, training=training))


def test_width_dropout_and_norm_are_options():
    tower = ImageTower.from_features(6, 3, head="mlp")
    assert [type(part).__name__ for part in tower.head.parts] == [
        *("Dense", "BatchNormalization", "ReLU", "Dropout", "Dense")
    ]
    assert tower.head.parts[0].kernel.shape == (6, 24)
    plain = MLPHead(3, width=7, dropout=0, batch_norm=False)
    plain.build((None, 6))
    assert [type(part).__name__ for part in plain.parts] == ["Dense", "ReLU", "Dense"]
    x = RNG.normal(size=[9, 6]).astype("float32")
    np.testing.assert_array_equal(tower(x), tower(x))
    assert not np.array_equal(tower(x, training=True), tower(x, training=True))


@pytest.mark.parametrize(
    "head",
    [
        lambda: "linear",
        lambda: "mlp",
        lambda: MLPHead(4, 5, 3, 0.1, False),
        lambda: ResidualHead(4, 5),
        lambda: keras.Sequential([keras.layers.Dense(9, "gelu"), keras.layers.Dense(4)]),
    ],
)
def test_heads_are_kept(head, tmp_path):
    """In a tower's file, a model's, and with new weights for a "u"."""
    tower = TextTower.from_features(6, 4, head=head())
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    x = RNG.normal(size=[2, 6]).astype("float32")
    np.testing.assert_array_equal(again(x), tower(x))
    assert type(again.head) is type(tower.head) and again.head_kind == tower.head_kind
    model = keras_lit.LiT(ImageTower.from_features(4), tower, "LL")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encode_text(x), model.encode_text(x))
    new = tower.reinitialized()
    assert [w.shape for w in new.weights] == [w.shape for w in tower.weights]
    assert not np.array_equal(new(x), tower(x))


def test_a_text_head_is_as_wide_as_the_image():
    tower = TextTower.from_features(6, head="mlp")
    assert tower.head is None
    again = TextTower.from_config(tower.get_config())
    for text_tower in (tower, again):
        keras_lit.LiT(ImageTower.from_features(5), text_tower, "LL")
        assert isinstance(text_tower.head, MLPHead) and text_tower.embedding_dim == 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageTower.from_features(6, head="mlp"), "needs a `projection_dim`"),
        (lambda: TextTower.from_features(6, 0, head="mlp"), "=0 means no head"),
        (lambda: TextTower.from_features(6, head="big"), "should be one of 'linear', 'mlp'"),
        (lambda: TextTower.from_features(6, 3, head=MLPHead(4)), r"\[batch, 3\].*MLPHead.*4"),
        (lambda: TextTower.from_features(6, head=keras.layers.Reshape([3, 2])), "Reshape that"),
        (lambda: TextTower.from_features(6).add_head(), "positive whole number"),
        (lambda: MLPHead(4, depth=0), "`depth` should be"),
        (lambda: MLPHead(4, dropout=1), r"`dropout` should be in \[0, 1\)"),
    ],
)
def test_heads_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def pairs():
    rng = np.random.default_rng(1)
    rows = {f"{side}_features": rng.normal(size=[16, 6]) for side in ("image", "text")}
    return tf.data.Dataset.from_tensor_slices(rows).batch(8)


def train(strategy=None, head=None, size=None, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        head = head or MLPHead(4, 8, dropout=0)
        towers = ImageTower.from_features(6, 4), TextTower.from_features(6, head=head)
        model = keras_lit.LiT(*towers, "LL", **options)
        model.compile("sgd", micro_batch_size=size)
        model.fit(pairs(), verbose=0)
    return model


@pytest.mark.slow
def test_batch_norm_is_of_the_global_batch():
    """The same weights and statistics on one device and on two replicas."""
    one, two = train(), train(mirrored(2))
    for found, expected in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(one.text_tower.head.parts[1].moving_mean, np.zeros(8))


def test_a_locked_head_runs_as_in_inference():
    model = train(head=MLPHead(4, 8, dropout=0.5), lock_heads=True, loss="sigmoid")
    np.testing.assert_array_equal(model.text_tower.head.parts[1].moving_mean, np.zeros(8))
    batch = next(iter(pairs()))
    first, second = (model(batch, training=True)["text_embeddings"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    model.lock_heads = False
    first, second = (model(batch, training=True)["text_embeddings"] for _ in range(2))
    assert not np.array_equal(first, second)


def test_micro_batches_take_heads_of_features():
    heads = [MLPHead(4, 8, dropout=0, batch_norm=False) for _ in range(2)]
    whole, chunks = (train(head=head, size=x) for head, x in zip(heads, (None, 3), strict=True))
    for found, expected in zip(chunks.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_project_without_training_still_serves():
    """As subclasses of before have it."""

    class Doubled(TextTower):
        def project(self, features):
            return 2 * super().project(features)

    tower = Doubled.from_features(4)
    model = keras_lit.LiT(ImageTower.from_features(4), tower, "LL")
    model.compile("sgd")
    rows = {f"{side}_features": np.eye(4, dtype="float32") for side in ("image", "text")}
    model.fit(rows, batch_size=4, verbose=0)
    np.testing.assert_allclose(tower(rows["text_features"]), 2 * tower.head(np.eye(4)), rtol=1e-6)


def test_big_visions_files_hold_linear_heads(tmp_path):
    image = keras_lit.backbones.VisionTransformer(16, 8, 8, 1, 16, 2)
    text = keras_lit.backbones.TextTransformer(20, 8, 8, 1, 16, 2)
    model = keras_lit.LiT(ImageTower(image, "first"), TextTower(text, None, 8, head="mlp"))
    with pytest.raises(ValueError, match=r"holds linear heads.*MLPHead.*\.keras"):
        keras_lit.checkpoints.save_lit(model, tmp_path / "model.npz")

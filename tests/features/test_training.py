"""Training from a cache: what the un-cached run gives, and nothing from another tower."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests import small
from tests.small import make_tower, mirrored, precompute

CAPTIONS = [f"caption number {i}" for i in range(small.COUNT)]
SLOW = pytest.mark.slow
TOKENIZER = keras_lit.tokenizers.train_wordpiece(CAPTIONS, 60)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    precompute(directory, dtype="float32")
    return directory


def make_model(image_tower, tuning="Lu", head=True, **options):
    keras.utils.set_random_seed(5)
    backbone = keras_lit.backbones.TextTransformer(60, 8, 16, 1, 32, 4, dropout=0.1)
    text_tower = keras_lit.TextTower(backbone, TOKENIZER, 8)
    if head:
        image_tower.add_head(10)
        image_tower.head.set_weights(
            [np.linspace(-1, 1, 10 * image_tower.feature_dim).reshape(-1, 10), np.arange(10) / 9]
        )
    return keras_lit.LiT(image_tower, text_tower, tuning, **options)


def train(model, pairs, batch_size=8, **options):
    keras.utils.set_random_seed(6)
    model.compile(keras_lit.optimizers.Adafactor(1e-2), **options)
    history = model.fit(pairs.batch(batch_size, drop_remainder=True), epochs=2, verbose=0)
    weights = {weight.path: weight.numpy() for weight in model.trainable_weights}
    return history.history["loss"], list(weights.values())


@pytest.mark.parametrize(
    ("replicas", "options", "compiled", "head"),
    [
        (1, {}, {}, True),
        pytest.param(1, {"loss": "sigmoid"}, {"micro_batch_size": 3}, True, marks=SLOW),
        pytest.param(2, {"lock_heads": True}, {"micro_batch_size": 2}, False, marks=SLOW),
        pytest.param(2, {"local_loss": True}, {}, True, marks=SLOW),
    ],
)
def test_is_the_uncached_run(cache, replicas, options, compiled, head):
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    results = []
    for pairs, tower in (
        (small.encoded_pairs(), make_tower),
        (keras_lit.features.load(cache), make_tower),
        (keras_lit.features.load(cache), lambda: keras_lit.features.image_tower(cache)),
    ):
        with strategy.scope():
            model = make_model(tower(), head=head, **options)
            results.append(
                (*train(model, pairs, **compiled), model.evaluate(pairs.batch(7), verbose=0))
            )
    for loss, weights, evaluated in results[1:]:
        np.testing.assert_allclose(loss, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(evaluated, results[0][2], rtol=1e-5)
        for found, expected in zip(weights, results[0][1], strict=True):
            np.testing.assert_allclose(
                found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
            )


@pytest.mark.slow
def test_float16_is_close(cache, tmp_path):
    precompute(tmp_path)
    losses = [
        train(make_model(make_tower()), keras_lit.features.load(path))[0]
        for path in (cache, tmp_path)
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize("changed", [{"seed": 2}, {"dtype": "mixed_bfloat16"}])
def test_another_tower_is_refused(cache, changed):
    model = make_model(make_tower(**changed))
    model.compile("sgd")
    pairs = keras_lit.features.load(cache).batch(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="features are of another image tower"):
        model.fit(pairs, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="features are of another image tower"):
        model.evaluate(pairs, verbose=0)


@pytest.mark.slow
def test_from_features_of_another_cache_is_refused(cache, tmp_path):
    precompute(tmp_path, make_tower(seed=2))
    model = make_model(keras_lit.features.image_tower(tmp_path))
    model.compile("sgd")
    with pytest.raises(tf.errors.InvalidArgumentError, match="another image tower"):
        model.fit(keras_lit.features.load(cache).batch(4), verbose=0)


def test_any_features_without_a_fingerprint(cache):
    model = make_model(keras_lit.ImageTower.from_features(small.DIM))
    assert np.isfinite(train(model, keras_lit.features.load(cache))[0]).all()


@pytest.mark.slow
def test_image_tower_is_attached_again(cache, tmp_path):
    """The model trained on features alone encodes and exports as the one that had its tower."""
    pairs = keras_lit.features.load(cache)
    whole, without = make_model(make_tower()), make_model(keras_lit.features.image_tower(cache))
    for model in (whole, without):
        train(model, pairs)
    features = np.stack([pair["image_features"] for pair in pairs])
    pixels = small.make_pixels()
    expected = whole.encode_image(pixels)
    np.testing.assert_allclose(without.encode_image(features), expected, atol=1e-6)
    without.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    attached = loaded.with_image_tower(make_tower())
    assert attached.tuning == "Lu" and not attached.image_tower.backbone.trainable
    np.testing.assert_allclose(attached.encode_image(pixels), expected, atol=1e-6)
    np.testing.assert_array_equal(attached.encode_text(CAPTIONS), whole.encode_text(CAPTIONS))
    np.testing.assert_array_equal(attached.temperature, whole.temperature)
    keras_lit.export.save(attached, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export" / "1"))
    png = tf.stack([tf.io.encode_png(image) for image in pixels])
    embedding = served.signatures["encode_image"](image_bytes=png)["embedding"]
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_the_attached_model_keeps_temperature_and_bias(cache):
    model = make_model(keras_lit.features.image_tower(cache), loss="sigmoid")
    model.log_temperature.assign(1.5)
    model.bias.assign(-3.0)
    attached = model.with_image_tower(make_tower())
    assert (float(attached.log_temperature), float(attached.bias)) == (1.5, -3.0)


def test_only_its_own_tower_is_attached(cache):
    model = make_model(keras_lit.features.image_tower(cache))
    with pytest.raises(ValueError, match="whose features the model was trained on.*weights: exp"):
        model.with_image_tower(make_tower(seed=2))
    with pytest.raises(ValueError, match="compute_dtype: expected 'float32'"):
        model.with_image_tower(make_tower(dtype="mixed_bfloat16"))
    with pytest.raises(ValueError, match="should have no head.*10"):
        model.with_image_tower(make_tower(projection_dim=10))
    with pytest.raises(ValueError, match="dim: expected 6, received 7"):
        model.with_image_tower(make_tower(filters=7))


def test_images_are_refused_without_a_backbone(cache, tmp_path):
    model = make_model(keras_lit.features.image_tower(cache))
    model.compile("sgd")
    message = "no backbone.*with_image_tower"
    with pytest.raises(ValueError, match=message):
        model.fit(small.encoded_pairs().batch(4))
    with pytest.raises(ValueError, match=message):
        model.encode_image(small.make_pixels())
    with pytest.raises(ValueError, match=message):
        keras_lit.export.save(model, tmp_path)
    with pytest.raises(ValueError, match=message):
        keras_lit.features.precompute(model.image_tower, small.encoded_pairs(), tmp_path)
    with pytest.raises(ValueError, match="nothing to train but its head.*Lu"):
        make_model(keras_lit.features.image_tower(cache), tuning="UU")
    with pytest.raises(ValueError, match="nothing to train but its head"):
        model.tuning = "UU"


@pytest.mark.slow
def test_tokens_train_what_text_does(tmp_path):
    text_preprocessor = keras_lit.preprocessing.TextPreprocessor(TOKENIZER, 8)
    precompute(tmp_path, text_preprocessor=text_preprocessor)
    results = [
        train(make_model(make_tower()), keras_lit.features.load(tmp_path, **options))
        for options in ({}, {"text_preprocessor": text_preprocessor})
    ]
    assert results[0][0] == results[1][0]


def test_features_should_be_floats(cache):
    model = make_model(make_tower())
    model.compile("sgd")
    with pytest.raises(ValueError, match="`image_features` should be floats. Received: int"):
        model.fit({"image_features": np.ones([4, 6], "int32"), "text": CAPTIONS[:4]})

"""Training from a cache: what the un-cached run gives, and nothing from another tower."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests import small
from tests.small import make_tower, mirrored, precompute

CAPTIONS = [f"caption number {i}" for i in range(small.COUNT)]


@functools.cache
def tokenizer():
    return keras_lit.tokenizers.train_wordpiece(CAPTIONS, 60)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    precompute(directory, dtype="float32")
    return directory


def make_model(image_tower, tuning="Lu", head=True, **options):
    keras.utils.set_random_seed(5)
    backbone = keras_lit.backbones.TextTransformer(60, 8, 16, 1, 32, 4, dropout=0.1)
    text_tower = keras_lit.TextTower(backbone, tokenizer(), 8)
    if head:
        image_tower.add_head(10)
        image_tower.head.set_weights(
            [np.linspace(-1, 1, 10 * image_tower.feature_dim).reshape(-1, 10), np.arange(10) / 9]
        )
    return keras_lit.LiT(image_tower, text_tower, tuning, **options)


def train(model, pairs, batch_size=8, optimizer=None, **options):
    keras.utils.set_random_seed(6)
    model.compile(optimizer or keras_lit.optimizers.Adafactor(1e-2), **options)
    history = model.fit(pairs.batch(batch_size, drop_remainder=True), epochs=2, verbose=0)
    weights = {weight.path: weight.numpy() for weight in model.trainable_weights}
    return history.history["loss"], list(weights.values())


def run(pairs, tower, replicas=1, compiled=None, **options):
    """The model, its losses and weights, and an evaluation."""
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model(tower(), **options)
        result = train(model, pairs, **(compiled or {}))
    return model, *result, model.evaluate(pairs.batch(7), verbose=0)


def assert_close(found, expected):
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-5)
    for weight, wanted in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def whole(cache):
    """Of features, with a whole image tower."""
    return run(keras_lit.features.load(cache), make_tower)


@pytest.fixture(scope="module")
def without(cache):
    """Of features, with nothing of the image tower but its head."""
    return run(keras_lit.features.load(cache), lambda: keras_lit.features.image_tower(cache))


@pytest.mark.slow
def test_is_the_uncached_run(whole, without):
    expected = run(small.encoded_pairs(), make_tower)
    assert_close(whole, expected)
    assert_close(without, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "size", "has_backbone"),
    [
        ({"loss": "sigmoid", "local_loss": True}, 3, False),
        ({"lock_heads": True, "head": False}, 2, True),
    ],
)
def test_is_the_uncached_run_on_replicas(cache, options, size, has_backbone):
    tower = make_tower if has_backbone else lambda: keras_lit.features.image_tower(cache)
    found, expected = (
        run(pairs, tower, 2, {"micro_batch_size": size, "optimizer": "sgd"}, **options)
        for pairs, tower in (
            (keras_lit.features.load(cache), tower),
            (small.encoded_pairs(), make_tower),
        )
    )
    assert_close(found, expected)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A cache in float16, with captions and their ids, and the losses that it gives."""
    directory, text = tmp_path_factory.mktemp("tokens"), text_preprocessor()
    precompute(directory, text_preprocessor=text)
    return directory, train(make_model(make_tower()), keras_lit.features.load(directory))[0]


def text_preprocessor():
    return keras_lit.preprocessing.TextPreprocessor(tokenizer(), 8)


@pytest.mark.slow
def test_float16_is_close(whole, tokens):
    assert whole[1] != tokens[1]
    np.testing.assert_allclose(tokens[1], whole[1], rtol=1e-3)


@pytest.mark.slow
def test_tokens_train_what_text_does(tokens):
    directory, expected = tokens
    pairs = keras_lit.features.load(directory, text_preprocessor=text_preprocessor())
    assert train(make_model(make_tower()), pairs)[0] == expected


@pytest.mark.slow
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


@pytest.mark.slow
def test_any_features_without_a_fingerprint(cache):
    model = make_model(keras_lit.ImageTower.from_features(small.DIM))
    assert np.isfinite(train(model, keras_lit.features.load(cache))[0]).all()


@pytest.mark.slow
def test_image_tower_is_attached_again(whole, without, cache, tmp_path):
    """The model trained on features alone encodes and exports as the one that had its tower."""
    whole, without = whole[0], without[0]
    features = np.stack([pair["image_features"] for pair in keras_lit.features.load(cache)])
    pixels = small.make_pixels()
    expected = whole.encode_image(pixels)
    np.testing.assert_allclose(without.encode_image(features), expected, atol=1e-6)
    without.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    attached = loaded.with_image_tower(make_tower())
    trained = {id(weight) for weight in attached.trainable_weights}
    assert attached.tuning == "Lu"
    assert not trained & {id(weight) for weight in attached.image_tower.backbone.weights}
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


@pytest.mark.slow
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


def test_features_should_be_floats(cache):
    model = make_model(make_tower())
    model.compile("sgd")
    with pytest.raises(ValueError, match="`image_features` should be floats. Received: int"):
        model.fit({"image_features": np.ones([4, 6], "int32"), "text": CAPTIONS[:4]})

"""What the code of 65fb67d wrote still loads and gives the numbers that it gave (golden/before)."""

import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests.small import make_pairs

BEFORE = pathlib.Path(__file__).parent / "golden" / "before"
EXPECTED = dict(np.load(BEFORE / "before.npz"))


def load(name):
    """Keras only warns where a file does not fit, "Skipping variable loading", and trains on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return keras.saving.load_model(BEFORE / name)


@pytest.fixture(scope="module")
def model():
    return load("before.keras")


def test_the_model_and_what_it_was_made_with(model):
    assert (model.tuning, model.loss_name, model.max_temperature) == ("LU", "sigmoid", 50.0)
    trained = {id(variable) for variable in model.trainable_variables}
    assert not trained & {id(variable) for variable in model.image_tower.backbone.variables}
    assert trained >= {id(variable) for variable in model.image_tower.head.variables}
    model.tuning = "UU"  # Which what locked it then has not frozen for good.
    assert len(model.trainable_variables) > len(trained)
    model.tuning = "LU"
    assert model.image_tower.preprocessor.random_crop == (0.3, 1.0)
    np.testing.assert_allclose(model.temperature, EXPECTED["temperature"], atol=1e-6)


def test_the_embeddings(model):
    images, texts = (EXPECTED[name] for name in ("images", "texts"))
    found = model.encode_image(images), model.encode_text(texts.tolist())
    np.testing.assert_allclose(found[0], EXPECTED["image_embeddings"], atol=1e-6)
    np.testing.assert_allclose(found[1], EXPECTED["text_embeddings"], atol=1e-6)


def test_the_fingerprints(model):
    """By which feature caches, with their token ids, belong to the tower."""
    found = keras_lit.fingerprints.fingerprint(model.image_tower)
    assert found == {
        "architecture": "450603fec347eba90d2627ca7cfedc4bacd6949834007f838da41e6d3f1d4a9c",
        "weights": "2ea47b048a7d833c853fc5e859551aaa6eb10237ad9552edc208da0e176b051b",
        "preprocessing": "b71313bc263047a17552b8f5fcb49084a701eecdfd04871377320f196c95408e",
        "compute_dtype": "float32",
    }
    assert (
        keras_lit.fingerprints.of_preprocessor(model.text_tower.preprocessor)
        == "410aed8140765344730b7219cdb71e535f516eb12447432f9beecff7ba6029f6"
    )


@pytest.mark.slow
def test_the_training_goes_on(model):
    """Of a copy, since the other tests look at the weights."""
    model = load("before.keras")
    optimizer = model.optimizer
    assert isinstance(optimizer, keras_lit.optimizers.Adafactor)
    assert int(optimizer.iterations) == EXPECTED["iterations"] == 2
    assert model.get_compile_config()["micro_batch_size"] == 4
    np.testing.assert_allclose(optimizer.learning_rate, 3e-3)
    # Two steps have filled every momentum and second moment.
    slots = [v.numpy() for v in optimizer.variables if "moment" in v.path]
    assert len(slots) >= 2 * len(model.trainable_variables) and all(x.any() for x in slots)
    before = model.encode_text(["a white moon"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*captions of a batch are cut")
        history = model.fit(make_pairs(8).batch(8), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert int(optimizer.iterations) == 3
    assert not np.array_equal(model.encode_text(["a white moon"]), before)


def test_a_model_of_features():
    model = load("before_features.keras")
    assert model.image_tower.backbone.fingerprint == {"weights": "a"}
    image, text = (
        model.encode_image(EXPECTED["features"]),
        model.encode_text(EXPECTED["token_ids"]),
    )
    np.testing.assert_allclose(image, EXPECTED["features_image"], atol=1e-6)
    np.testing.assert_allclose(text, EXPECTED["features_text"], atol=1e-6)


@pytest.mark.slow
def test_the_artifact(model):
    signatures = tf.saved_model.load(str(BEFORE / "artifact" / "1")).signatures
    images, texts = (EXPECTED[name] for name in ("image_embeddings", "text_embeddings"))
    bytes_ = tf.constant([tf.io.encode_png(image).numpy() for image in EXPECTED["images"]])
    strings = tf.constant(EXPECTED["texts"].tolist())

    encoded = signatures["encode_image"](image_bytes=bytes_)["embedding"]
    np.testing.assert_allclose(encoded, images, atol=1e-6)
    encoded = signatures["encode_text"](text=strings)["embedding"]
    np.testing.assert_allclose(encoded, texts, atol=1e-6)
    cosines = signatures["similarity"](image_bytes=bytes_, text=strings)["similarity"]
    np.testing.assert_allclose(cosines, images @ texts.T, atol=1e-6)

    answer = signatures["classify"](image_bytes=bytes_)
    assert [name.decode() for name in answer["classes"][0].numpy()] == ["dog", "moon"]
    of_classes = model.encode_text(["a dog", "a moon"])
    logits = EXPECTED["temperature"] * images @ of_classes.T + model.bias.numpy()
    np.testing.assert_allclose(answer["scores"], 1 / (1 + np.exp(-logits)), atol=1e-6)

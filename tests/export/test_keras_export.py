"""Keras' own `export` of a model or tower: preprocessed pairs in, embeddings out."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import keras_lit
from tests.small import make_model, make_tower


def test_model_and_towers_export_before_any_call_too(saved, tmp_path):
    model = saved.model
    pixels = model.image_tower.preprocessor(saved.inputs["pixels"])
    ids = model.text_tower.preprocessor(["a red dog", "moon"])
    for name, exported, given, expected in (
        ("image", model.image_tower, pixels, model.image_tower(pixels)),
        ("text", model.text_tower, ids, model.text_tower(ids)),
        ("both", model, {"image": pixels, "text": ids}, model({"image": pixels, "text": ids})),
    ):
        again = type(exported).from_config(exported.get_config())
        again.set_weights(exported.get_weights())
        again.export(tmp_path / name, verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / name))
        for key, values in (expected if isinstance(expected, dict) else {0: expected}).items():
            found = loaded.serve(given) if key == 0 else loaded.serve(given)[key]
            np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)


def test_an_input_signature_is_kept(tmp_path):
    tower = make_model().image_tower
    size = tower.preprocessor.image_size
    spec = keras.InputSpec("float32", (2, *size, 3))
    tower.export(tmp_path / "tower", verbose=False, input_signature=[spec])
    function = tf.saved_model.load(str(tmp_path / "tower")).signatures["serving_default"]
    (given,) = function.structured_input_signature[1].values()
    assert given.shape == (2, *size, 3)


def test_a_model_of_features_says_that_it_has_no_images(tmp_path):
    text_tower = make_model().text_tower
    model = keras_lit.LiT(keras_lit.ImageTower.from_features(16), text_tower)
    with pytest.raises(ValueError, match="no backbone"):
        model.export(tmp_path / "artifact", verbose=False)


def test_an_exact_gelu_runs_as_onnx(tmp_path):
    """tf2onnx has no erfc, and says so in a log only: onnxruntime refused the file."""
    head = keras_lit.backbones.ResidualHead(4, 7)
    tower = make_tower(head=head)
    head.outer.kernel.assign(np.random.default_rng(0).normal(size=[7, 4]))
    pixels = np.random.default_rng(1).normal(size=[3, 8, 8, 3]).astype("float32")
    tower.export(str(tmp_path / "tower.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "tower.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels})
    np.testing.assert_allclose(found, tower(pixels), rtol=0, atol=2e-6)

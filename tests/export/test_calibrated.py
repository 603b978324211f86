"""What a model's calibration says of a picture, its artifact says too."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.evaluation.calibration import Calibration
from keras_lit.export import signatures
from tests import small

NAMES = ("dog", "grey cat", "moon")


def promised(calibration, cosines, top_k, **images):
    weights = signatures._Weights([], "float32")
    of_cosines = signatures._calibrated(calibration, weights, float("nan"))
    _, top = tf.math.top_k(cosines, top_k)
    found = of_cosines(tf.constant(cosines, tf.float32), top, images)
    return {name: x.numpy() for name, x in found.items()}


@pytest.mark.parametrize("none_logit", [None, 0.3])
def test_one_label(none_logit):
    cosines = np.random.default_rng(0).normal(size=[50, 3]) * 0.1
    z = np.exp(8 * cosines)
    probabilities = z / (z.sum(axis=1, keepdims=True) + (np.exp(none_logit) if none_logit else 0))
    top = np.sort(probabilities, axis=1)[:, :0:-1]
    threshold = float(np.sort(top[:, 0])[20:22].mean())
    made = Calibration(8.0, none_logit=none_logit, threshold=threshold)
    found = promised(made, cosines, 2)
    np.testing.assert_allclose(found["probability"], top, atol=1e-5)
    accepted = (top[:, 0] >= threshold) & (top[:, 0] >= 1 - probabilities.sum(axis=1))
    np.testing.assert_array_equal(found["accepted"], accepted)
    np.testing.assert_array_equal(made.accepted(cosines), accepted)
    assert 0 < accepted.sum() < 50
    assert set(promised(Calibration(8.0), cosines, 2)) == {"probability"}


def test_several_labels():
    cosines = np.random.default_rng(1).normal(size=[20, 4]) * 0.5
    probabilities = np.sort(1 / (1 + np.exp(1 - 5 * cosines)), axis=1)[:, ::-1]
    made = Calibration(5.0, -1.0, multi_label=True, threshold=0.3)
    valid = np.arange(20) != 3
    found = promised(made, cosines, 4, valid=tf.constant(valid))
    np.testing.assert_allclose(found["probability"][valid], probabilities[valid], atol=1e-5)
    assert np.isnan(found["probability"][3]).all()
    np.testing.assert_array_equal(found["accepted"], (probabilities >= 0.3) & valid[:, None])


@pytest.mark.slow
def test_artifact(tmp_path):
    model = small.make_model()
    pictures = [pair["image"] for pair in small.encoded_pairs(6).as_numpy_iterator()]
    weights = keras_lit.evaluation.zero_shot_weights(model.encode_text, NAMES)
    cosines = model.encode_image(pictures) @ weights.T
    made = Calibration(
        30.0, threshold=0.4, precision=0.9, fitted_on="May's", rows=400, class_names=NAMES
    )
    model.calibration = made.to_dict()
    with pytest.raises(
        ValueError, match="fitted for, .*Received `class_names`.*calibration = None"
    ):
        keras_lit.export.save(model, tmp_path, class_names=NAMES[::-1])
    model.calibration = dataclasses.replace(made, templates=("a photo of a {}.",))
    with pytest.raises(
        ValueError, match=r"fitted for, \['a photo of a {}.'\]. Received `templates`"
    ):
        keras_lit.export.save(model, tmp_path, class_names=NAMES)
    model.calibration = made
    options = {"towers": "image", "on_corrupt": "zero", "top_k": 2}
    path = keras_lit.export.save(model, tmp_path, class_names=NAMES, **options)
    classify = tf.saved_model.load(str(path)).signatures["classify"]
    found = classify(image_bytes=tf.constant([*pictures, b"no picture"]))
    names = ("scores", "classes", "top_indices", "top_classes", "probability", "accepted", "valid")
    assert set(found) == set(names)
    z = np.exp(30 * cosines.astype("float64"))
    expected = np.sort(z / z.sum(axis=1, keepdims=True), axis=1)[:, :0:-1]
    np.testing.assert_allclose(found["probability"][:6], expected, atol=1e-4)
    np.testing.assert_array_equal(found["accepted"][:6], expected[:, 0] >= 0.4)
    assert found["probability"][6].numpy().tolist() == [0, 0] and not found["accepted"][6]
    said = (path / "README.md").read_text().split("## Calibration")[1].split("##")[0]
    for line in ("| fitted on | May's |", "| rows | 400 |", "| precision | 0.9 |"):
        assert line in said
    assert "recall" not in said

"""Matryoshka: the loss of each width, summed, and embeddings that are cut."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import losses
from tests.small import make_model, make_pairs, mirrored
from tests.test_distribution import sum_and_gradients

DIMS, SCALE = (3, 7), 3.0


def naive(image, text):
    """In float64, one pair at a time."""
    total = 0.0
    for dim in DIMS:
        a, b = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1)[:, None] for x in (image, text))
        logits = SCALE * a @ b.T
        for i in range(len(a)):
            total -= 0.5 * (logits[i, i] - np.log(np.exp(logits[i]).sum())) / len(a)
            total -= 0.5 * (logits[i, i] - np.log(np.exp(logits[:, i]).sum())) / len(a)
    return total


@pytest.mark.parametrize(("replicas", "tile_size"), [(1, None), (1, 3), (2, 3)])
def test_the_sum_and_its_gradient(replicas, tile_size):
    image, text = np.random.default_rng(0).normal(size=[2, 8, 7])

    def loss(image, text, log_temperature):
        options = {"log_temperature": log_temperature, "tile_size": tile_size}
        of_a_width = functools.partial(losses.softmax_contrastive_loss, **options)
        return losses.sum_over_prefixes(of_a_width, image, text, DIMS)

    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    rows = [x.astype("float32") for x in (image, text)]
    value, gradients, _ = sum_and_gradients(loss, strategy, *rows, np.float32(np.log(SCALE)))
    assert value == pytest.approx(naive(image, text), rel=1e-6)
    for side in (0, 1):
        for place in ((0, 0), (3, 4), (7, 6)):
            steps = [[image.copy(), text.copy()] for _ in range(2)]
            steps[0][side][place] -= 1e-5
            steps[1][side][place] += 1e-5
            slope = (naive(*steps[1]) - naive(*steps[0])) / 2e-5
            assert gradients[side][place] == pytest.approx(slope, rel=2e-4, abs=2e-6)


@pytest.fixture(scope="module")
def model():
    return make_model("LU", dims=(3, 7))


def test_a_model_sums_its_widths_and_logs_the_whole(model):
    pairs = make_pairs(8)
    model.compile("sgd")
    logs = model.evaluate(pairs.batch(8), verbose=0, return_dict=True)
    expected = []
    for dim in (3, 7, 16):
        image, text = (
            model.encode_image(pairs.batch(8), dim=dim),
            model.encode_text([row["text"].decode() for row in pairs.as_numpy_iterator()], dim=dim),
        )
        whole = model.encode_image(pairs.batch(8))[:, :dim]
        whole /= np.linalg.norm(whole, axis=1, keepdims=True)
        np.testing.assert_allclose(image, whole, atol=1e-6)
        both = losses.softmax_contrastive_loss(image, text, np.log(10.0))
        expected.append(float(both))
    assert logs["loss"] == pytest.approx(sum(expected), rel=1e-5)
    assert logs["chance_loss"] == pytest.approx(3 * np.log(8), rel=1e-6)


def test_widths_are_kept_and_checked(model):
    again = keras_lit.LiT.from_config(json.loads(json.dumps(model.get_config())))
    assert again.dims == (3, 7)
    for wrong in ((), (7, 3), (3, 3), (3, 17), (0, 3)):
        with pytest.raises(ValueError, match="`dims` should be"):
            make_model("LU", dims=wrong)
    for wrong, message in ((17, "at most 16"), (0, "positive whole number")):
        with pytest.raises(ValueError, match=f"`dim` should be .*{message}"):
            model.encode_text(["a red dog"], dim=wrong)
    with pytest.raises(ValueError, match="`dims` should be widths that rise to at most 5"):
        model.align(make_pairs(4).batch(4), dim=5)


def test_promises_are_not_served_of_short_embeddings(model, tmp_path):
    """They were fitted to cosines of whole ones."""
    again = keras_lit.LiT.from_config(model.get_config())
    again.calibration = keras_lit.evaluation.calibration.Calibration(temperature=2.0).to_dict()
    with pytest.raises(ValueError, match="calibration is one of whole embeddings"):
        keras_lit.export.save(again, tmp_path, dim=3, class_names=["dog", "cat"])
    with pytest.raises(ValueError, match="`calibration`, pictures, is for"):
        keras_lit.export.save(again, tmp_path, class_names=["dog"], calibration=again.calibration)


@pytest.mark.slow
def test_short_embeddings_in_artifacts(model, tmp_path):
    texts = ["a red dog", "a grey cat"]
    path = keras_lit.export.save(model, tmp_path, dim=3, class_names=["dog", "cat"])
    served = tf.saved_model.load(str(path)).signatures
    found = served["encode_text"](text=tf.constant(texts))["embedding"]
    expected = model.encode_text(texts)[:, :3]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    pixels = np.random.default_rng(0).integers(0, 256, [2, 9, 9, 3]).astype("uint8")
    contents = tf.stack([tf.io.encode_png(x) for x in pixels])
    scores = np.exp(
        10.0 * model.encode_image(pixels, dim=3) @ model.encode_text(["dog", "cat"], dim=3).T
    )
    scores /= scores.sum(axis=1, keepdims=True)
    found = served["classify"](image_bytes=contents)["scores"]
    np.testing.assert_allclose(found, scores, atol=1e-5)
    assert "float32 [n, 3]" in (path / "README.md").read_text()

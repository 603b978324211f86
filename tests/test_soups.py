"""Means of weights, and what they are worth along the way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import Lock
from tests.small import make_model
from tests.towers.test_locks import made, trained


def along_alpha(before, after):
    return keras_lit.evaluation.along(before, after, lambda model: 1.0, verbose=0)


@pytest.fixture(scope="module")
def ends():
    """Before and after, the image tower locked with its averages; another start apart."""
    before, after = make_model("LU"), make_model("LU")
    rng = np.random.default_rng(0)
    for variable in after.trainable_variables:
        variable.assign(variable + rng.normal(size=variable.shape))
    return before, after


def test_between_two(ends):
    before, after = ends
    kept = [np.array(x) for x in before.weights]
    found = keras_lit.interpolate(before, after, 0.3)
    for x, y, z in zip(before.weights, after.weights, found.weights, strict=True):
        expected = 0.7 * np.array(x, "float64") + 0.3 * np.array(y, "float64")
        np.testing.assert_allclose(z, expected, atol=1e-6)
    for alpha, end in ((0, before), (1, after)):
        for x, y in zip(keras_lit.interpolate(*ends, alpha).weights, end.weights, strict=True):
            np.testing.assert_array_equal(x, y)
    # What both have is exact, and neither has changed.
    locked = [x.image_tower.backbone.weights for x in (before, found)]
    for x, y in zip(*locked, strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(before.weights, kept, strict=True):
        np.testing.assert_array_equal(x, y)
    assert found.tuning == "LU" and found.encode_text(["a dog"]).shape == (1, 16)


def test_mean_of_files(ends, tmp_path):
    ends[1].save(tmp_path / "after.keras")
    found = keras_lit.soup([*ends, tmp_path / "after.keras"], [1, 2, 1])
    for x, y, z in zip(ends[0].weights, ends[1].weights, found.weights, strict=True):
        np.testing.assert_allclose(z, np.array(x) / 4 + 3 * np.array(y) / 4, atol=1e-6)


def test_lora_counts_as_part_of_its_kernels():
    """Means of A and of B are not the mean of their products."""
    plain, tuned = made(layers=1), trained(Lock(lora=2), layers=1)
    texts = ["a red dog", "a white moon and a toucan"]
    merged = keras_lit.soup([tuned, tuned])
    np.testing.assert_allclose(merged.encode_text(texts), tuned.encode_text(texts), atol=1e-6)
    assert merged.text_options is None
    found = keras_lit.interpolate(tuned, plain, 0.5)
    for x, y, z in zip(plain.weights, merged.weights, found.weights, strict=True):
        np.testing.assert_allclose(z, (np.array(x) + np.array(y)) / 2, atol=1e-6)


def test_what_has_no_mean_is_refused(ends):
    for models, options, message in (
        ([], {}, "0 models"),
        (ends, {"shares": [1, -1]}, "none negative"),
        (ends, {"shares": [1]}, "one number for each"),
        ([ends[0], made(layers=2)], {}, "of one architecture. First difference"),
        ([ends[0], keras.Sequential([])], {}, "Received: Sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_lit.soup(models, **options)
    with pytest.raises(ValueError, match=r"in 0..1. Received: 1.5"):
        keras_lit.interpolate(*ends, 1.5)


@pytest.mark.parametrize("call", [lambda *x: keras_lit.interpolate(*x, 0.5), along_alpha])
def test_one_model_twice_is_refused(call, ends):
    """It changes in place, so that each alpha is the trained one."""
    before = ends[0]
    same = keras_lit.LiT(before.image_tower, before.text_tower, "LU")
    for after in (before, same):
        with pytest.raises(ValueError, match=r"Received one, twice.*before\.keras"):
            call(before, after)


def test_a_mean_keeps_the_first_models_max_temperature():
    first, second = make_model("LU", max_temperature=20.0), make_model("LU")
    second.log_temperature.assign(np.log(90.0))
    assert keras_lit.soup([first, second]).temperature.numpy() == pytest.approx(20.0)


def test_what_weights_do_not_show_is_compared(ends):
    other = make_model("LU", loss="sigmoid")
    preprocessor = keras_lit.preprocessing.ImagePreprocessor(8, value_range=(0, 1))
    tower = keras_lit.ImageTower(ends[0].image_tower.backbone, "max", 16, preprocessor)
    crossed = keras_lit.LiT(tower, ends[0].text_tower, "LU")
    with pytest.raises(ValueError, match="of one make.*loss: expected 'softmax'.*'sigmoid'"):
        keras_lit.soup([ends[0], other])
    with pytest.raises(ValueError, match="image pooling.*image preprocessing") as said:
        keras_lit.soup([ends[0], crossed])
    assert "text" not in str(said.value)
    with pytest.raises(ValueError, match="of one make.*image pooling"):
        along_alpha(ends[0], crossed)
    with pytest.raises(TypeError, match="list of models or paths. Received: <LiT"):
        keras_lit.soup(ends[0])
    with pytest.raises(ValueError, match="`shares` should hold one number"):
        keras_lit.soup(ends, [np.inf, 1])


def test_along_the_way(ends, tmp_path):
    def temperature(model):
        return {"log": float(model.log_temperature)}

    def norm(model):
        return float(tf.norm(model.text_tower.head.bias))

    found = keras_lit.evaluation.along(
        *ends, {"t": temperature, "norm": norm}, alphas=[0, 0.25, 1], verbose=0
    )
    first, last = (float(x.log_temperature) for x in ends)
    np.testing.assert_allclose(
        found.metrics["t log"], [first, 0.75 * first + 0.25 * last, last], rtol=1e-6
    )
    whole = np.linalg.norm(ends[1].text_tower.head.bias)
    np.testing.assert_allclose(found.metrics["norm"], [0, 0.25 * whole, whole], rtol=1e-6)
    assert found.best("norm") == 1.0 and found.best("norm", lowest=True) == 0.0
    assert "alpha 1: norm" in repr(found)
    found.plot(tmp_path / "between.png")
    assert keras.utils.load_img(tmp_path / "between.png").size[0] > 300
    with pytest.raises(ValueError, match="no metric 'recall', but: t log, norm"):
        found.best("recall")
    with pytest.raises(ValueError, match="`alphas` should be some numbers"):
        keras_lit.evaluation.along(*ends, norm, alphas=[2], verbose=0)


def test_promises_of_other_weights_are_forgotten(ends):
    calibration = keras_lit.evaluation.calibration.Calibration(temperature=2.0).to_dict()
    first = keras_lit.LiT.from_config(ends[0].get_config())
    first.calibration = calibration
    assert keras_lit.soup([first, ends[1]]).calibration is None
    assert first.calibration == calibration


def test_the_best_is_a_number():
    found = keras_lit.evaluation.Between([0.0, 0.5, 1.0], {"precision": [np.nan, 0.4, 0.6]})
    assert found.best("precision") == 1.0 and found.best("precision", lowest=True) == 0.5

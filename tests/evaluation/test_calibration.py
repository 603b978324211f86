import dataclasses
import functools
import json
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_lit
from keras_lit.evaluation.calibration import Calibration, fit_calibration, reliability
from tests import small

SPLITS = 20


def answers(count, classes=10, seed=0, temperature=8.0):
    """Scores like cosines, and labels that softmax of `temperature` times them draws."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=[count, classes]) * 0.3).astype("float32")
    noise = rng.gumbel(size=logits.shape)
    return logits, (temperature * logits + noise).argmax(axis=1)


def several(count, seed=0, temperature=5.0, bias=-4.0):
    """Scores, and labels yes or no of each class for itself."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=[count, 4]) + 0.3).astype("float32")
    return logits, temperature * logits + bias > rng.logistic(size=logits.shape)


def softmax_loss(temperature, logits, labels):
    losses = []
    for row, label in zip(logits.astype("float64"), labels, strict=True):
        z = temperature * row
        losses.append(np.log(np.exp(z).sum()) - z[label])
    return np.mean(losses)


def sigmoid_loss(temperature, bias, logits, labels):
    sign = np.where(labels, 1, -1)
    return np.mean(np.log1p(np.exp(-sign * (temperature * logits.astype("float64") + bias))))


def test_temperature_has_the_least_cross_entropy():
    logits, labels = answers(500)
    grid = np.linspace(7, 9, 81)
    best = grid[np.argmin([softmax_loss(t, logits, labels) for t in grid])]
    found = fit_calibration(logits, labels)
    assert found.temperature == pytest.approx(best, abs=0.04) and found.bias == 0
    # Whatever logits are multiplied by, what comes of them is the same.
    other = fit_calibration(logits * 500 - 7, labels)
    assert other.temperature * 500 == pytest.approx(found.temperature, rel=1e-4)


def test_several_labels_have_a_temperature_and_a_bias():
    logits, labels = several(1500)
    found = fit_calibration(logits, labels)
    assert found.multi_label and found.set_threshold is None and found.coverage is None
    least = sigmoid_loss(found.temperature, found.bias, logits, labels)
    assert least <= sigmoid_loss(5.0, -4.0, logits, labels)
    for factor, shift in ((1.03, 0), (0.97, 0), (1, 0.1), (1, -0.1)):
        beside = sigmoid_loss(found.temperature * factor, found.bias + shift, logits, labels)
        assert beside > least
    z = found.temperature * logits.astype("float64") + found.bias
    np.testing.assert_allclose(found.probabilities(logits), 1 / (1 + np.exp(-z)), rtol=1e-9)


def test_rows_that_are_all_right_have_a_finite_temperature():
    labels = np.arange(30) % 3
    logits = np.eye(3)[labels] * 0.2
    found = fit_calibration(logits, labels)
    # 30 times log(1 + 2 exp(-0.2 t)), and a prior of deviation 3 on log(t * deviation of logits).
    grid = np.linspace(1, 200, 20000)
    prior = np.log(grid * logits.std()) ** 2 / (2 * 3**2)
    best = grid[np.argmin(30 * np.log1p(2 * np.exp(-0.2 * grid)) + prior)]
    assert found.temperature == pytest.approx(best, rel=1e-2)
    assert found.probabilities(np.eye(3) * 0.2).max() > 0.99


def test_reliability_counts_by_bin():
    confidences = np.array([0.0, 0.1, 0.2, 0.21, 0.55, 0.95, 1.0, 1.0])
    right = np.array([0, 1, 0, 0, 1, 1, 1, 0], bool)
    found = reliability(confidences, right, bins=5)
    assert found.counts.tolist() == [3, 1, 1, 0, 3]  # 0.2 is the upper edge of the first.
    np.testing.assert_allclose(found.confidences, [0.1, 0.21, 0.55, np.nan, 2.95 / 3])
    np.testing.assert_allclose(found.accuracies, [1 / 3, 0, 1, np.nan, 2 / 3])
    by_hand = 3 * (1 / 3 - 0.1) + 0.21 + 0.45 + 3 * (2.95 / 3 - 2 / 3)
    assert found.ece == pytest.approx(by_hand / 8)


def test_ece_noise_is_what_perfect_probabilities_have():
    rng = np.random.default_rng(3)
    confidences = rng.uniform(0.3, 1, size=500)
    drawn = [reliability(confidences, rng.uniform(size=500) < confidences) for _ in range(200)]
    assert drawn[0].ece_noise == pytest.approx(np.mean([found.ece for found in drawn]), rel=0.05)


def threshold_by_hand(confidences, right, enough):
    """The lowest and the highest of all confidences at which the answers taken are `enough`."""
    good = [
        limit
        for limit in confidences
        if enough(right[confidences >= limit].sum(), (confidences >= limit).sum())
    ]
    return min(good), max(good)


@pytest.mark.parametrize("make", [answers, several])
def test_thresholds_are_the_best_of_all(make):
    logits, labels = make(300)
    logits = logits.round(1)  # Ties.
    found = fit_calibration(logits, labels, precision=0.8)
    probabilities = found.probabilities(logits)
    right, wanted = labels, labels.sum()
    if make is answers:
        right, wanted = logits.argmax(axis=1) == labels, len(labels)
        probabilities = probabilities.max(axis=1)
    confidences, right = probabilities.ravel(), right.ravel()
    lowest, _ = threshold_by_hand(confidences, right, lambda hits, n: hits >= 0.8 * (n + 1))
    accepted = found.accepted(logits).ravel()
    np.testing.assert_array_equal(accepted, confidences >= lowest)
    assert 0 < accepted.sum() < len(accepted)

    found = fit_calibration(logits, labels, precision=None, recall=0.5)
    _, highest = threshold_by_hand(confidences, right, lambda hits, n: hits >= 0.5 * wanted)
    accepted = found.accepted(logits).ravel()
    np.testing.assert_array_equal(accepted, confidences >= highest)
    assert 0 < accepted.sum() < len(accepted)


def with_none(count, seed=0, temperature=8.0, none_logit=2.5):
    """As `answers`, with a class that has the same logit in all rows, and no column."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=[count, 5]) * 0.3 + 0.2).astype("float32")
    every = np.concatenate([temperature * logits, np.full([count, 1], none_logit)], axis=1)
    labels = (every + rng.gumbel(size=every.shape)).argmax(axis=1)
    return logits, np.where(labels == 5, -1, labels)


def test_none_of_these_has_a_probability():
    logits, labels = with_none(4000)
    found = fit_calibration(logits, labels)
    assert found.temperature == pytest.approx(8, rel=0.05)
    assert found.none_logit == pytest.approx(2.5, abs=0.2) and found.rows == 4000
    z = np.exp(found.temperature * logits.astype("float64"))
    rest = np.exp(found.none_logit)
    by_hand = z / (z.sum(axis=1, keepdims=True) + rest)
    np.testing.assert_allclose(found.probabilities(logits), by_hand, rtol=1e-9)
    # Where the cross-entropy is least, there are as many expected as there are.
    assert (1 - by_hand.sum(axis=1)).mean() == pytest.approx((labels < 0).mean(), abs=1e-3)


def test_measured_by_hand():
    logits, labels = with_none(300)
    found = fit_calibration(logits, labels, precision=0.6)
    measured = found.measure(logits, labels)
    known = labels >= 0
    probabilities = found.probabilities(logits)
    some = probabilities.sum(axis=1)
    auroc = (some[known][:, None] > some[~known]).mean()
    assert measured["none_auroc"] == pytest.approx(auroc) and auroc > 0.6
    top = probabilities.max(axis=1)
    taken = (top >= found.threshold) & (top >= 1 - some)
    assert (top[top < 1 - some] >= found.threshold).any()  # The second condition matters.
    np.testing.assert_array_equal(found.accepted(logits), taken)
    right = probabilities.argmax(axis=1) == labels
    assert measured["precision"] == pytest.approx((taken & right).sum() / taken.sum())
    assert measured["recall"] == pytest.approx((taken & right).sum() / known.sum())
    assert measured["accepted"] == pytest.approx(taken.mean())
    sets = probabilities >= found.set_threshold
    assert measured["coverage"] == pytest.approx(sets[known, labels[known]].mean())
    assert measured["set_size"] == pytest.approx(sets[known].sum(axis=1).mean())
    assert measured["ece"] == reliability(probabilities.max(axis=1), right).ece
    # Without a probability of none, the top one tells them apart, and they do not count for ECE.
    bare = Calibration(found.temperature)
    top = bare.probabilities(logits).max(axis=1)
    measured = bare.measure(logits, labels)
    assert measured["none_auroc"] == pytest.approx((top[known][:, None] > top[~known]).mean())
    assert measured["ece"] == reliability(top[known], right[known]).ece
    assert set(measured) == {"ece", "ece_noise", "none_auroc"}


def test_sets_are_split_conformal():
    logits, labels = answers(99)
    found = fit_calibration(logits, labels, precision=None)
    z = np.exp(found.temperature * logits.astype("float64"))
    probabilities = z / z.sum(axis=1, keepdims=True)
    own = sorted(p[label] for p, label in zip(probabilities, labels, strict=True))
    # 90 of (99 + 1) rows: of the 99, all but nine.
    assert found.set_threshold == pytest.approx(own[9])
    sets = found.sets(logits)
    assert sets[np.arange(99), labels].sum() == 90
    np.testing.assert_array_equal(sets.sum(axis=1), (probabilities >= own[9] - 1e-12).sum(axis=1))


@pytest.mark.parametrize(("coverage", "rows"), [(0.9, 9), (0.8, 4), (0.95, 19)])
def test_least_rows_of_sets(coverage, rows):
    logits, labels = answers(rows, seed=1)
    sets = fit_calibration(logits, labels, precision=None, coverage=coverage).sets(logits)
    assert sets[np.arange(rows), labels].all()
    with pytest.raises(
        ValueError, match=f"{rows} rows with a label at least. Received: {rows - 1}"
    ):
        fit_calibration(logits[1:], labels[1:], precision=None, coverage=coverage)


def halves(make, **wishes):
    """The means over random splits of what the other half measures, and the ECE before."""
    logits, labels = make(2000)
    found, before = [], []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(2000)
        fit, rest = order[:1000], order[1000:]
        calibration = fit_calibration(logits[fit], labels[fit], **wishes)
        found.append(calibration.measure(logits[rest], labels[rest]))
        unscaled = dataclasses.replace(calibration, temperature=1.0, bias=0.0, none_logit=None)
        before.append(unscaled.measure(logits[rest], labels[rest])["ece"])
    return {name: np.mean([row[name] for row in found]) for name in found[0]}, np.mean(before)


def test_promises_hold_on_the_other_half():
    found, before = halves(answers, precision=0.85)
    assert found["ece"] < 0.05 < before
    assert found["ece"] < 1.5 * found["ece_noise"]
    assert found["precision"] == pytest.approx(0.85, abs=0.03)
    assert found["coverage"] == pytest.approx(0.9, abs=0.02)
    found, before = halves(with_none, precision=0.85)
    assert found["ece"] < 0.05 < before
    assert found["precision"] == pytest.approx(0.85, abs=0.03)
    assert found["coverage"] == pytest.approx(0.9, abs=0.02)
    found, before = halves(several, precision=0.9)
    assert found["ece"] < 0.05 < before
    assert found["precision"] == pytest.approx(0.9, abs=0.03)
    found, _ = halves(several, precision=None, recall=0.7)
    assert found["recall"] == pytest.approx(0.7, abs=0.03)


NO_WISH = {"precision": None, "coverage": None}


def test_answers_that_are_all_wrong():
    """Are no better than guesses, whatever the logits are multiplied by; none can be accepted."""
    labels = np.arange(90) % 3
    logits = np.eye(3)[(labels + 1) % 3]
    for factor in (1e-6, 1.0, 1e6):
        found = fit_calibration(factor * logits, labels, **NO_WISH)
        # The prior of deviation 3 stops the way to a temperature of 0.
        assert found.probabilities(factor * logits).max() < 0.4
        with pytest.raises(ValueError, match="has precision=0.9: the most is 0.000"):
            fit_calibration(factor * logits, labels)


def test_sets_of_any_size_and_dtype():
    """Two rows, one class and none of it, classes that do not occur, halves of floats."""
    found = fit_calibration([[1.0, 0.0], [0.0, 1.0]], [0, 1], **NO_WISH)
    assert found.probabilities([[1.0, 0.0]])[0, 0] > 0.9
    logits = np.linspace(0, 1, 40)[:, np.newaxis]
    labels = np.where(np.arange(40) + 7 * (np.arange(40) % 3) > 24, 0, -1)
    found = fit_calibration(logits, labels, precision=0.8, coverage=0.8)
    # Of two classes, one of them constant, softmax is the sigmoid of their difference.
    z = found.temperature * logits - found.none_logit
    np.testing.assert_allclose(found.probabilities(logits), 1 / (1 + np.exp(-z)), atol=1e-7)
    losses = [
        np.log1p(np.exp(-np.where(labels == 0, 1, -1) * (t * logits[:, 0] - none))).sum()
        + np.log(t * logits.std()) ** 2 / 18
        for t, none in (
            (found.temperature * a, found.none_logit + b)
            for a, b in ((1, 0), (1.05, 0), (0.95, 0), (1, 0.1), (1, -0.1))
        )
    ]
    assert np.argmin(losses) == 0
    logits, labels = answers(400)
    some = labels < 6
    for dtype in ("float16", "float64"):
        given = logits[some].astype(dtype)
        found = fit_calibration(given, labels[some].astype("uint8"), precision=0.6)
        expected = fit_calibration(logits[some], labels[some], precision=0.6)
        assert found.temperature == pytest.approx(expected.temperature, rel=1e-2)
        assert found.threshold == pytest.approx(expected.threshold, abs=0.02)
    fields = fit_calibration(logits, labels, np.float32(0.5), fitted_on=pathlib.Path("a")).to_dict()
    assert json.loads(json.dumps(fields))["fitted_on"] == "a"


def test_rows_of_none_alone_are_measured():
    logits, labels = with_none(300)
    found = fit_calibration(logits, labels, precision=0.6)
    measured = found.measure(logits[labels < 0], labels[labels < 0])
    assert set(measured) == {"ece", "ece_noise", "precision", "recall", "accepted"}
    assert np.isnan(measured["recall"]) and measured["precision"] == 0
    bare = Calibration(found.temperature)
    assert bare.measure(logits[labels < 0], labels[labels < 0]) == {}


def test_classes_by_name():
    logits, numbers = with_none(300)
    names = ["cat", "dog", "cow", "hen", "pig"]
    strings = np.array([*names, ""])[numbers]
    found = fit_calibration(logits, strings, precision=0.6, class_names=names)
    plain = fit_calibration(logits, numbers, precision=0.6)
    assert found == dataclasses.replace(plain, class_names=tuple(names))
    assert found.measure(logits, strings) == plain.measure(logits, numbers)
    assert fit_calibration(logits, numbers, precision=0.6, class_names=names) == found
    with pytest.raises(ValueError, match="among .*'cat'.*Received 1 others: .'ox'."):
        fit_calibration(logits, ["ox", *strings[1:]], class_names=names)
    with pytest.raises(ValueError, match="should name the 5 columns of `logits`. Received: 2"):
        fit_calibration(logits, numbers, class_names=names[:2])
    with pytest.raises(ValueError, match=r"\[0, 5\), the classes. Received: from 0 to 5"):
        fit_calibration(logits, np.where(numbers < 0, 5, numbers), class_names=names)


def test_a_model_keeps_it_until_it_is_trained(tmp_path):
    """In its file, and in the one that another tower is put into."""
    towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
    model = keras_lit.LiT(*towers, tuning="LL")
    assert "calibration" not in model.get_config()
    logits, labels = answers(50)
    found = fit_calibration(logits, labels, precision=0.5, class_names=list("abcdefghij"))
    model.calibration = found  # Or `found.to_dict()`.
    assert model.calibration == found.to_dict()
    with pytest.raises(ValueError, match="`calibration` should be a `Calibration`.*Received: 0.5"):
        model.calibration = 0.5
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert Calibration.from_dict(model.calibration) == found
    backbone = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(8, 3)])
    whole = model.with_image_tower(keras_lit.ImageTower(backbone))
    assert Calibration.from_dict(whole.calibration) == found
    rng = np.random.default_rng(0)
    pairs = {"image_features": rng.normal(size=[40, 8]), "text_features": rng.normal(size=[40, 6])}
    model.align(pairs, dim=4, penalties=(0.1,), folds=2, verbose=0)
    assert model.calibration is None
    model.calibration = found.to_dict()
    model.compile("adam", run_eagerly=True)
    model.fit(pairs, batch_size=40, verbose=0)
    assert model.calibration is None


def test_other_weights_may_make_it_wrong(tmp_path, recwarn):
    towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
    model = keras_lit.LiT(*towers, tuning="LL")
    model.save_weights(tmp_path / "a.weights.h5")
    model.load_weights(tmp_path / "a.weights.h5")
    assert not [x for x in recwarn if "calibration" in str(x.message)]
    model.calibration = Calibration(2.0)
    with pytest.warns(UserWarning, match="`calibration` holds for the weights that it was fitted"):
        model.load_weights(tmp_path / "a.weights.h5")
    assert model.calibration["temperature"] == 2


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small.make_model()
    names = ["a cat", "a dog", "a horse"]
    weights = keras_lit.evaluation.zero_shot_weights(model.encode_text, names)
    pixels = np.random.default_rng(0).integers(0, 256, [400, 8, 8, 3]).astype("uint8")
    cosines = model.encode_image(pixels) @ weights.T
    # Of a model that is right in most cases: its cosines draw the labels.
    noise = np.random.default_rng(1).gumbel(size=cosines.shape)
    labels = np.array(names)[(8 / cosines.std(axis=1).mean() * cosines + noise).argmax(axis=1)]
    labels[:20] = ""
    found = {"model": model, "images": pixels[:5]}
    found |= {"validation_images": pixels[:200], "validation_labels": labels[:200]}
    found |= {"test_images": pixels[200:], "test_labels": labels[200:]}
    image_alone = functools.partial(keras_lit.export.save, towers="image")
    monkeypatch.setattr(keras_lit.export, "save", image_alone)  # Half of the time.
    page = pathlib.Path(__file__).parents[2] / "docs" / "calibration.md"
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, found)
    assert found["possible"].shape == (5, 3) and found["answers"].max() < 3
    assert found["measured"]["precision"] > 0.8 and found["curve"].counts.sum() == 200
    model = keras.saving.load_model("calibrated.keras")
    assert model.calibration["fitted_on"] == "400 pictures of March"
    assert "| fitted on | 400 pictures of March |" in (found["path"] / "README.md").read_text()


def test_it_is_json():
    logits, labels = answers(200)
    found = fit_calibration(logits, labels, precision=0.7, fitted_on="validation pictures")
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["fitted_on"] == "validation pictures" and fields["rows"] == 200
    assert Calibration.from_dict(fields) == found
    for bad in ({**fields, "scale": 1}, {"bias": 1.0}):
        with pytest.raises(ValueError, match="should be what `Calibration.to_dict` returned"):
            Calibration.from_dict(bad)


LOGITS, LABELS = answers(50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": LABELS[1:]}, "one label an image. Received: 50 images"),
        ({"labels": LABELS + 1}, r"in \[0, 10\), the classes. Received: from 1 to 10"),
        ({"labels": LABELS - 3}, "the classes. Received: from -3"),
        ({"labels": LABELS * 1.0}, "should be integers"),
        ({"labels": LABELS == 3}, "should be integers. Received: bool"),
        ({"labels": LABELS.astype(str)}, "names of classes go with `class_names`. Received: <U"),
        ({"labels": [None, *LABELS[1:]]}, "names of classes.*Received: object"),
        ({"labels": np.full([50, 10], "no")}, r"0 or 1 for each.*values \['no'\]"),
        ({"labels": np.zeros([0, 10])}, r"Received: shape \(0, 10\), values \[\]"),
        ({"labels": np.full([50, 10], np.nan)}, r"values \[nan\]"),
        ({"logits": LOGITS[:, 0]}, r"should have shape \[rows, dim\]"),
        ({"logits": (LOGITS * 1e6).astype("float16")}, "should be finite"),
        ({"labels": np.full([50, 10], 2)}, r"0 or 1 for each of the logits.*values \[2\]"),
        ({"labels": np.zeros([50, 3])}, r"of shape \(50, 10\). Received: shape \(50, 3\)"),
        ({"labels": np.zeros([50, 10])}, "Received: 50 rows of 10 classes, 0 labels"),
        ({"labels": np.full(50, -1)}, "Received: 50 rows of 10 classes, 0 labels"),
        ({"logits": LOGITS[:, :1], "labels": np.zeros(50, int)}, "50 rows of 1 classes, 50 labels"),
        ({"logits": np.full([50, 10], np.nan)}, "`logits` should be finite"),
        ({"logits": np.ones([50, 10])}, "fitted on logits that differ"),
        ({"precision": 90}, "`precision` should be between 0 and 1, or None. Received: 90"),
        ({"coverage": 1.0}, "`coverage` should be between 0 and 1"),
        ({"recall": 0.5}, "Either `precision` or `recall`.*Received: 0.9 and 0.5"),
        ({"precision": 0.99}, "has precision=0.99: the most is 0.*Ask for less"),
        ({"precision": None, "recall": 0.99}, "has recall=0.99: with all of them accepted it is 0"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(**{"logits": LOGITS, "labels": LABELS, **change})


def test_what_was_not_fitted_is_refused():
    bare = Calibration(3.0)
    with pytest.raises(ValueError, match="no `threshold`. Pass `precision` or `recall`"):
        bare.accepted(LOGITS)
    with pytest.raises(ValueError, match="no sets: they are for one label a row"):
        bare.sets(LOGITS)
    with pytest.raises(ValueError, match=r"the form of the fit: \[rows\]. Received shape: \(50, 1"):
        bare.measure(LOGITS, np.zeros([50, 10]))
    for bad in (
        {"temperature": 0.0},
        {"temperature": np.inf},
        {"temperature": 1, "none_logit": np.inf},
        {"temperature": 1, "threshold": 1.5},
        {"temperature": 1, "set_threshold": np.nan},
    ):
        with pytest.raises(ValueError, match="should be (finite|a positive number|a probability)"):
            Calibration(**bad)
    for arguments, message in (
        (([0.5], [True, False]), "the same shape"),
        (([1.5], [True]), "probabilities in 0..1. Received: from 1.5"),
        (([0.5], [True], 0), "`bins` should be a positive whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability(*arguments)


def test_one_label_a_row_is_not_taken_for_several_in_silence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=[90, 3])
    labels = np.eye(3)[(5 * logits + rng.gumbel(size=[90, 3])).argmax(axis=1)]
    with pytest.warns(UserWarning, match=r"Each row has one label.*labels\.argmax\(axis=1\)"):
        fit_calibration(logits, labels, precision=None)

import dataclasses
import json

import numpy as np
import pytest

from keras_lit.evaluation.calibration import Calibration, fit_calibration, reliability

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
        ({"labels": np.full([50, 10], 2)}, "0 or 1 for each of the logits.*values from 2 to 2"),
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
    ):
        with pytest.raises(ValueError, match="should be (finite|a positive number)"):
            Calibration(**bad)
    for arguments, message in (
        (([0.5], [True, False]), "the same shape"),
        (([1.5], [True]), "probabilities in 0..1. Received: from 1.5"),
        (([0.5], [True], 0), "`bins` should be a positive whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability(*arguments)

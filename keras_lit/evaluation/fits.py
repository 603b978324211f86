"""What calibration fits: temperature and bias, and the probabilities from which to accept."""

import math

import numpy as np


def temperature_and_bias(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Minimise the cross-entropy, of sigmoid, or of softmax with the label -1 as a class.

    With one label a row the "bias" is the logit of that class, the same for all rows; without rows
    of it, it is not fitted.
    """
    from scipy import optimize, special

    multi_label = labels.ndim == 2
    classes = np.append(np.arange(logits.shape[1]), -1)
    targets = labels if multi_label else labels[:, np.newaxis] == classes
    has_none = not multi_label and min(labels) < 0
    one_kind = targets.all() or not targets.any()
    if not multi_label:
        one_kind = max(labels) < 0 or logits.shape[1] + has_none == 1
    if one_kind or not logits.std():
        raise ValueError(
            "A calibration should be fitted on logits that differ, with labels of the classes and "
            f"rows or classes without them. Received: {len(logits)} rows of {logits.shape[1]} "
            f"classes, {int((labels if multi_label else labels >= 0).sum())} labels."
        )
    # Of unit deviation, so that cosines and logits of hundreds are as easy to fit.
    mean, deviation = logits.mean(), logits.std()
    scaled = (logits - mean) / deviation

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_temperature, bias = parameters
        z = np.exp(log_temperature) * scaled
        if multi_label:
            slope = special.expit(z + bias) - targets
            loss = (np.logaddexp(0, z + bias) - targets * (z + bias)).sum()
            by_bias = slope.sum()
        else:
            none = np.full([len(z), 1], bias if has_none else -np.inf)
            every = np.concatenate([z, none], axis=1)
            slope = special.softmax(every, axis=1) - targets
            loss = (special.logsumexp(every, axis=1) - every[targets]).sum()
            slope, by_bias = slope[:, :-1], slope[:, -1].sum()
        # A weak prior: without it rows that are all right have an infinite temperature.
        loss += log_temperature**2 / 18
        gradient = [(slope * z).sum() + log_temperature / 9, by_bias]
        return loss / len(z), np.array(gradient) / len(z)

    log_temperature, bias = optimize.minimize(
        objective,
        np.zeros(2),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-20, 20), (None, None)],  # Far beyond the prior: nothing overflows on the way.
        options={"ftol": 1e-12, "gtol": 1e-7},
    ).x
    temperature = float(np.exp(log_temperature) / deviation)
    return temperature, float(bias + (-1 if multi_label else 1) * temperature * mean)


def for_precision(confidences: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The lowest confidence above which this part of the answers is right.

    One wrong answer more than was seen is counted, as conformal selection does (Jin and Candès,
    arXiv 2210.01408): it makes up for taking the best of many thresholds.
    """
    ordered, hits, last = _in_order(confidences, right)
    parts = hits / (np.flatnonzero(last) + 2)
    enough = parts >= precision - 1e-12
    if not enough.any():
        raise ValueError(
            f"No threshold on these {len(right)} answers has precision={precision:g}: the most is "
            f"{parts.max():.3f}, one wrong answer more than was seen included. Ask for less, pass "
            "`precision=None`, or fit on more rows."
        )
    return _below(ordered, np.flatnonzero(last)[enough][-1])


def for_recall(confidences: np.ndarray, right: np.ndarray, wanted: int, recall: float) -> float:
    """The highest confidence above which this part of the `wanted` answers is given and right."""
    ordered, hits, last = _in_order(confidences, right)
    parts = hits / wanted
    enough = parts >= recall - 1e-12
    if not enough.any():
        raise ValueError(
            f"No threshold on these {len(right)} answers has recall={recall:g}: with all of them "
            f"accepted it is {parts[-1]:.3f}. Ask for less."
        )
    return _below(ordered, np.flatnonzero(last)[enough][0])


def for_coverage(probabilities: np.ndarray, coverage: float) -> float:
    """The value that ceil((rows + 1) * coverage) labels' probabilities reach: split conformal."""
    rank = math.ceil(round((len(probabilities) + 1) * coverage, 9))
    if rank > len(probabilities):
        least = math.ceil(round(coverage / (1 - coverage), 9))
        raise ValueError(
            f"Sets of coverage={coverage:g} should be fitted on {least} rows with a label at "
            f"least. Received: {len(probabilities)}."
        )
    return float(np.sort(probabilities)[-rank])


def _in_order(
    confidences: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, highest first; which is the last of its equals; the right ones up to those."""
    order = np.argsort(-confidences)
    ordered = confidences[order]
    last = np.append(ordered[1:] < ordered[:-1], True)
    return ordered, np.cumsum(right[order])[last], last


def _below(ordered: np.ndarray, row: int) -> float:
    """Half way to the next, for confidences that another machine rounds otherwise."""
    return float(ordered[row : row + 2].mean())

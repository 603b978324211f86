"""Whether answers are right as often as their probabilities say."""

from typing import NamedTuple

import numpy as np

from keras_lit import checks


class Reliability(NamedTuple):
    """A reliability diagram: draw `accuracies` over `confidences`; calibrated is the diagonal."""

    confidences: np.ndarray  # [bins], the mean of each; NaN for an empty one, as below.
    accuracies: np.ndarray
    counts: np.ndarray
    ece: float  # Expected calibration error: the mean distance from the diagonal.
    ece_noise: float  # What perfect probabilities would have, by chance, on as many rows.


def reliability(confidences: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """How often answers are right, by their confidence.

    Args:
        confidences: float array in 0..1: the probability of each answer.
        right: bool array of this shape, whether it is right.
        bins: int, of equal width.

    Returns:
        A `Reliability`: `.confidences`, `.accuracies`, `.counts` ([bins] arrays), `.ece`, and
        `.ece_noise`: the ECE to expect on as many rows if every probability were right.

    Raises:
        ValueError: shapes that do not match, no answers, values outside of 0..1.

    Example:

    >>> found = keras_lit.evaluation.calibration.reliability(
    ...     np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]), bins=2)
    >>> found.counts.tolist(), round(found.ece, 2)
    ([0, 4], 0.0)

    Reference: Guo et al. (arXiv 1706.04599), section 2.
    """
    confidences, right = np.asarray(confidences, "float64").ravel(), np.asarray(right).ravel()
    checks.check_count(bins, "bins")
    if confidences.shape != right.shape or not len(right):
        raise ValueError(
            "`confidences` and `right` should have the same shape, at least one answer. Received: "
            f"{confidences.shape} and {right.shape}."
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(
            "`confidences` should be probabilities in 0..1. Received: from "
            f"{confidences.min()} to {confidences.max()}."
        )
    # As Guo et al. have it, a bin holds its upper edge.
    rows = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(rows, minlength=bins)
    sums, hits, variances = (
        np.bincount(rows, values, minlength=bins)
        for values in (confidences, right, confidences * (1 - confidences))
    )
    with np.errstate(invalid="ignore"):
        means, accuracies = sums / counts, hits / counts
    # The mean absolute value of a normal number is sqrt(2 / pi) of its deviation.
    noise = np.sqrt(2 / np.pi * variances).sum()
    return Reliability(
        means,
        accuracies,
        counts,
        float(np.abs(hits - sums).sum() / len(right)),
        float(noise / len(right)),
    )

"""Scores one can trust: calibrated probabilities, "none of these", sets that hold the answer."""

import dataclasses
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lit.evaluation import fits
from keras_lit.evaluation.calibrated import (
    Calibration,
    checked_labels,
    checked_logits,
    right_ones,
    to_find,
)
from keras_lit.evaluation.reliability import reliability

__all__ = ["Calibration", "fit_calibration", "reliability"]


def fit_calibration(
    logits: np.ndarray,
    labels: Any,
    precision: float | None = 0.9,
    recall: float | None = None,
    coverage: float | None = 0.9,
    fitted_on: str = "",
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
) -> Calibration:
    """Fits temperature (and bias), then thresholds, on rows that the model has not trained on.

    The temperature minimises the cross-entropy of the labels. The threshold is the lowest
    probability above which `precision` of the answers are right, one more wrong answer than was
    seen included, or the highest for which `recall` of the rows get their right answer. Sets are
    split conformal: on new rows like these they hold the label with probability `coverage`.

    Args:
        logits: [rows, classes] float array, cosine similarities or logits; some hundred rows.
        labels: [rows] int array in [0, classes), or -1 for a row of none of the classes: then "none
            of these" gets a probability, too. With `class_names` strings, of which "" is none. For
            several labels a row [rows, classes] bool, or 0 and 1.
        precision: float in 0..1, the wanted part of right ones among accepted answers; None.
        recall: float in 0..1, the wanted part of the rows (with several labels: of the labels)
            whose right answer is accepted, with `precision=None`.
        coverage: float in 0..1, of the sets; None. Several labels a row have no sets.
        fitted_on: str, what the rows are, to be kept with the result.
        class_names: the names of the classes, one for each column of `logits`, to be kept, too.
        templates: the prompts that the classes were encoded with, to be kept, too: other prompts
            give other logits.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: shapes or labels do not match, NaN, all logits or labels equal, both
            `precision` and `recall`, or a `precision` or `recall` that no threshold reaches on
            these rows.

    Example:

    >>> logits = np.random.default_rng(0).normal(size=[500, 3])
    >>> labels = (5 * logits + np.random.default_rng(1).gumbel(size=[500, 3])).argmax(axis=1)
    >>> calibration = keras_lit.evaluation.calibration.fit_calibration(logits, labels)
    >>> round(calibration.temperature)  # The noise was made for 5.
    5

    Reference: Guo et al., "On calibration of modern neural networks" (arXiv 1706.04599); Platt's
        temperature and bias for several labels; Vovk et al., split conformal prediction.
    """
    logits = checked_logits(logits)
    labels = checked_labels(labels, logits, class_names)
    for name, value in {"precision": precision, "recall": recall, "coverage": coverage}.items():
        if value is not None and not (isinstance(value, numbers.Real) and 0 < value < 1):
            raise ValueError(f"`{name}` should be between 0 and 1, or None. Received: {value!r}.")
    if precision is not None and recall is not None:
        raise ValueError(
            "Either `precision` or `recall` should be given, the other one None: one threshold "
            f"serves one of them. Received: {precision} and {recall}."
        )
    multi_label = labels.ndim == 2
    if multi_label and (labels.sum(axis=1) == 1).all():
        warnings.warn(
            "Each row has one label, and `labels` [rows, classes] ask for a yes or no of each "
            "class. For one answer a row pass `labels.argmax(axis=1)`.",
            stacklevel=2,
        )
    known = slice(None) if multi_label else labels >= 0
    temperature, bias = fits.temperature_and_bias(logits, labels)
    fitted = Calibration(
        temperature,
        bias if multi_label else 0.0,
        none_logit=None if multi_label or labels.min() >= 0 else bias,
        multi_label=multi_label,
        precision=None if precision is None else float(precision),
        recall=None if recall is None else float(recall),
        coverage=None if multi_label or coverage is None else float(coverage),
        fitted_on=str(fitted_on),
        rows=len(logits),
        class_names=tuple(map(str, class_names)),
        templates=tuple(map(str, templates)),
    )
    confidences, answered = fitted._answers(logits)
    confidences = np.where(answered, confidences, 0).ravel()
    right = (answered & right_ones(logits, labels)).ravel()
    found: dict[str, Any] = {}
    if precision is not None:
        found["threshold"] = fits.for_precision(confidences, right, precision)
    if recall is not None:
        wanted = to_find(labels)
        found["threshold"] = fits.for_recall(confidences, right, wanted, recall)
    if fitted.coverage is not None:
        probabilities = fitted.probabilities(logits[known])
        own = probabilities[np.arange(len(probabilities)), labels[known]]
        found["set_threshold"] = fits.for_coverage(own, fitted.coverage)
    return dataclasses.replace(fitted, **found)

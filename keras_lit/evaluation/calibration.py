"""Scores one can trust: calibrated probabilities, "none of these", sets that hold the answer."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lit import checks
from keras_lit.evaluation import fits
from keras_lit.evaluation.reliability import reliability
from keras_lit.evaluation.rows import class_labels, finite_rows

__all__ = ["Calibration", "fit_calibration", "reliability"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What turns logits into probabilities, and says which of them to trust.

    `fit_calibration` makes one. Its methods take logits [rows, classes] of the kind it was fitted
    on: cosine similarities `images @ weights.T`, or the model's logits.

    Args:
        temperature: float, the multiplier of the logits, like `model.temperature`; Guo et al.
            divide by theirs.
        bias: float, added to them afterwards; 0 for one label a row, where it changes nothing.
        none_logit: float, with one label a row the logit of "none of these", after the temperature;
            None if that was not fitted.
        multi_label: bool, whether each class is a yes or no of its own: sigmoid, not softmax.
        threshold: float in 0..1, the probability from which an answer is accepted.
        set_threshold: float in 0..1, the probability from which a class belongs to a set.
        precision: what `threshold` was fitted for, or None.
        recall: what it was fitted for instead, or None.
        coverage: what `set_threshold` was fitted for, or None.
        fitted_on: str, the rows it was fitted on, in words.
        rows: int, how many there were.

    Raises:
        ValueError: a number that is not finite, or no temperature above zero.

    Example:

    >>> calibration = keras_lit.evaluation.calibration.Calibration(temperature=2.0, threshold=0.8)
    >>> logits = np.array([[1.0, 0.0], [0.2, 0.0]])
    >>> calibration.probabilities(logits).round(2).tolist()
    [[0.88, 0.12], [0.6, 0.4]]
    >>> np.where(calibration.accepted(logits), logits.argmax(axis=1), -1).tolist()  # none of these
    [0, -1]
    """

    temperature: float
    bias: float = 0.0
    none_logit: float | None = None
    multi_label: bool = False
    threshold: float | None = None
    set_threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    coverage: float | None = None
    fitted_on: str = ""
    rows: int = 0

    def __post_init__(self) -> None:
        checks.check_positive(self.temperature, "temperature")
        if not np.isfinite([self.temperature, self.bias, self.none_logit or 0]).all():
            raise ValueError(
                "`temperature`, `bias` and `none_logit` should be finite. Received: "
                f"{self.temperature}, {self.bias} and {self.none_logit}."
            )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax, or for several labels a row sigmoid, of the scaled logits.

        Rows add up to 1, or with a `none_logit` to 1 less the probability of "none of these".

        Args:
            logits: [rows, classes] float array.

        Returns:
            [rows, classes] float64 array in 0..1.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> Calibration(temperature=2.0).probabilities(np.array([[0.5, 0.0]])).round(2).tolist()
        [[0.73, 0.27]]
        """
        from scipy import special

        scaled = self.temperature * _logits(logits) + self.bias
        if self.multi_label:
            return special.expit(scaled)
        none = -np.inf if self.none_logit is None else self.none_logit
        every = np.pad(scaled, [(0, 0), (0, 1)], constant_values=none)
        return special.softmax(every, axis=1)[:, :-1]

    def accepted(self, logits: np.ndarray) -> np.ndarray:
        """Which answers to give; a row whose answer is not accepted is "none of these".

        Args:
            logits: [rows, classes] float array.

        Returns:
            [rows] bool array: the most probable class reaches `threshold`, and is no less probable
            than "none of these". For several labels a row [rows, classes]: the class reaches it.

        Raises:
            ValueError: no threshold was fitted.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> calibration = Calibration(temperature=2.0, threshold=0.7)
        >>> calibration.accepted(np.array([[0.5, 0.0], [0.1, 0.0]])).tolist()
        [True, False]
        """
        if self.threshold is None:
            raise ValueError(
                "This calibration has no `threshold`. Pass `precision` or `recall` to "
                "`fit_calibration`."
            )
        confidences, answered = self._answers(logits)
        return answered & (confidences >= self.threshold)

    def sets(self, logits: np.ndarray) -> np.ndarray:
        """Sets of classes that hold the label of a row in `coverage` of all rows.

        They are those whose probability is `set_threshold` at least, the smallest sets that do;
        a row that is unlike those of the fit may have none.

        Args:
            logits: [rows, classes] float array.

        Returns:
            [rows, classes] bool array.

        Raises:
            ValueError: no sets were fitted.

        Reference: Sadinle et al., "Least ambiguous set-valued classifiers" (arXiv 1609.00451).

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> calibration = Calibration(temperature=2.0, set_threshold=0.3)
        >>> calibration.sets(np.array([[0.5, 0.0], [0.1, 0.0]])).tolist()
        [[True, False], [True, True]]
        """
        if self.set_threshold is None:
            raise ValueError(
                "This calibration has no sets: they are for one label a row. Pass `coverage` to "
                "`fit_calibration`."
            )
        return self.probabilities(logits) >= self.set_threshold

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """How well the promises hold on rows that were not fitted on.

        Args:
            logits: [rows, classes] float array.
            labels: as for `fit_calibration`.

        Returns:
            "ece" and "ece_noise" (of `reliability`); "precision", "recall" and "accepted", the part
            of the answers that are (all of 0..1; recall counts right answers among the rows that
            have a class); "coverage" and "set_size" (a mean); "none_auroc": how well
            "none of these" (without a `none_logit` the top probability) tells rows of a class from
            rows of none. What was not fitted is left out.

        Raises:
            ValueError: logits or labels that `fit_calibration` refuses, or labels of another form
                than those of the fit.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> calibration = Calibration(temperature=2.0, threshold=0.7)
        >>> found = calibration.measure(np.array([[0.5, 0.0], [0.1, 0.0]]), np.array([0, 1]))
        >>> found["precision"], found["recall"], found["accepted"]
        (1.0, 0.5, 0.5)
        """
        logits = _logits(logits)
        labels = _labels(labels, logits)
        if (labels.ndim == 2) != self.multi_label:
            raise ValueError(
                "`labels` should have the form of the fit: "
                f"{'[rows, classes]' if self.multi_label else '[rows]'}. Received shape: "
                f"{labels.shape}."
            )
        confidences, answered = self._answers(logits)
        right = _right(logits, labels)
        known = np.full(labels.shape, True) if self.multi_label else labels >= 0
        # Where there is no probability of none, those of rows of none cannot be right.
        counted = known if self.none_logit is None else np.full_like(known, True)
        curve = reliability(confidences[counted], right[counted])
        found = {"ece": curve.ece, "ece_noise": curve.ece_noise}
        if self.threshold is not None:
            accepted = answered & (confidences >= self.threshold)
            hits = (accepted & right).sum()
            found["precision"] = float(hits / accepted.sum()) if accepted.any() else math.nan
            found["recall"] = float(hits / wanted) if (wanted := _wanted(labels)) else math.nan
            found["accepted"] = float(accepted.mean())
        if self.set_threshold is not None:
            sets = self.sets(logits[known])
            found["coverage"] = float(sets[np.arange(len(sets)), labels[known]].mean())
            found["set_size"] = float(sets.sum(axis=1).mean())
        if not known.all():
            from scipy import stats

            some = confidences
            if self.none_logit is not None:
                some = self.probabilities(logits).sum(axis=1)
            above = stats.mannwhitneyu(some[known], some[~known]).statistic
            found["none_auroc"] = float(above / (known.sum() * (~known).sum()))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON: a model card, say.

        Returns:
            What `from_dict` takes.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> Calibration(temperature=2.0, rows=99).to_dict()["temperature"]
        2.0
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """The calibration whose `to_dict` gave the fields.

        Args:
            fields: a mapping of names to values.

        Returns:
            A `Calibration` equal to that one.

        Raises:
            ValueError: a name that is no field, or no temperature.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> fields = Calibration(temperature=2.0, rows=99).to_dict()
        >>> Calibration.from_dict(fields).rows
        99
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if "temperature" not in fields or not names.issuperset(fields):
            raise ValueError(
                '`fields` should be what `Calibration.to_dict` returned: a "temperature" and '
                f"others of {sorted(names)}. Received: {sorted(fields)}."
            )
        return cls(**fields)

    def _answers(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the top class, or for several labels of all; whether none is less."""
        probabilities = self.probabilities(logits)
        if self.multi_label:
            return probabilities, np.full(probabilities.shape, True)
        top = probabilities.max(axis=1)
        return top, top >= 1 - probabilities.sum(axis=1)


def fit_calibration(
    logits: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    precision: float | None = 0.9,
    recall: float | None = None,
    coverage: float | None = 0.9,
    fitted_on: str = "",
) -> Calibration:
    """Fits temperature (and bias), then thresholds, on rows that the model has not trained on.

    The temperature minimises the cross-entropy of the labels. The threshold is the lowest
    probability above which `precision` of the answers are right, one more wrong answer than was
    seen included, or the highest for which `recall` of the rows get their right answer. Sets are
    split conformal: on new rows like these they hold the label with probability `coverage`.

    Args:
        logits: [rows, classes] float array, cosine similarities or logits; some hundred rows.
        labels: [rows] int array in [0, classes), or -1 for a row of none of the classes: then "none
            of these" gets a probability, too. For several labels a row [rows, classes] bool, or 0
            and 1.
        precision: float in 0..1, the wanted part of right ones among accepted answers; None.
        recall: float in 0..1, the wanted part of the rows (with several labels: of the labels)
            whose right answer is accepted, with `precision=None`.
        coverage: float in 0..1, of the sets; None. Several labels a row have no sets.
        fitted_on: str, what the rows are, to be kept with the result.

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
    logits = _logits(logits)
    labels = _labels(labels, logits)
    for name, value in {"precision": precision, "recall": recall, "coverage": coverage}.items():
        if value is not None and not (isinstance(value, numbers.Real) and 0 < value < 1):
            raise ValueError(f"`{name}` should be between 0 and 1, or None. Received: {value!r}.")
    if precision is not None and recall is not None:
        raise ValueError(
            "Either `precision` or `recall` should be given, the other one None: one threshold "
            f"serves one of them. Received: {precision} and {recall}."
        )
    multi_label = labels.ndim == 2
    known = slice(None) if multi_label else labels >= 0
    temperature, bias = fits.temperature_and_bias(logits, labels)
    fitted = Calibration(
        temperature,
        bias if multi_label else 0.0,
        none_logit=None if multi_label or labels.min() >= 0 else bias,
        multi_label=multi_label,
        precision=precision,
        recall=recall,
        coverage=None if multi_label else coverage,
        fitted_on=fitted_on,
        rows=len(logits),
    )
    confidences, answered = fitted._answers(logits)
    confidences = np.where(answered, confidences, 0).ravel()
    right = (answered & _right(logits, labels)).ravel()
    found: dict[str, Any] = {}
    if precision is not None:
        found["threshold"] = fits.for_precision(confidences, right, precision)
    if recall is not None:
        wanted = _wanted(labels)
        found["threshold"] = fits.for_recall(confidences, right, wanted, recall)
    if fitted.coverage is not None:
        probabilities = fitted.probabilities(logits[known])
        own = probabilities[np.arange(len(probabilities)), labels[known]]
        found["set_threshold"] = fits.for_coverage(own, fitted.coverage)
    return dataclasses.replace(fitted, **found)


def _logits(logits: np.ndarray) -> np.ndarray:
    return finite_rows(logits, "logits").astype("float64")


def _labels(labels: Any, logits: np.ndarray) -> np.ndarray:
    """[rows] int with -1 for none, or [rows, classes] bool; checked."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        if labels.shape != logits.shape or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                "`labels` of several labels a row should be 0 or 1 for each of the logits, of "
                f"shape {logits.shape}. Received: shape {labels.shape}, values from "
                f"{labels.min()} to {labels.max()}."
            )
        return labels.astype(bool)
    is_int = np.issubdtype(labels.dtype, np.integer)
    known = np.where(labels == -1, 0, labels) if is_int else labels
    class_labels(known, len(logits), logits.shape[1], "labels")
    return labels


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each answer, whether it is right; labels of -1 make every answer wrong."""
    return labels if labels.ndim == 2 else logits.argmax(axis=1) == labels


def _wanted(labels: np.ndarray) -> int:
    """How many right answers there are to find."""
    return int((labels if labels.ndim == 2 else labels >= 0).sum())

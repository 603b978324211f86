"""`Calibration`: probabilities of logits, and which of them to trust."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lit import checks
from keras_lit.evaluation.reliability import Reliability, reliability
from keras_lit.evaluation.rows import class_labels, finite_rows, label_numbers


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What turns logits into probabilities, and says which of them to trust.

    `fit_calibration` makes one. Its methods take logits [rows, classes] of the kind it was fitted
    on: cosine similarities `images @ weights.T`, or the model's logits. One of cosines can be kept
    in the model, `model.calibration = calibration.to_dict()`: it is then in its .keras file, in
    what `keras_lit.evaluation.classify` measures and in the SavedModel that `export.save` writes.

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
        class_names: the classes, in the order of the columns of logits; () where they are unknown.
        templates: the prompts of the classes, as `zero_shot_weights` takes them; () if unknown.

    Raises:
        ValueError: a number that is not finite, no temperature above zero, or a threshold outside
            of 0..1.

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
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "templates", tuple(self.templates))
        checks.check_positive(self.temperature, "temperature")
        for name in ("threshold", "set_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` should be a probability in 0..1. Received: {value}.")
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

        scaled = self.temperature * checked_logits(logits) + self.bias
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

    def reliability(self, logits: np.ndarray, labels: Any) -> Reliability:
        """How often the answers are right, by their probability: the reliability diagram.

        Args:
            logits: [rows, classes] float array.
            labels: as for `fit_calibration`. Rows of none count where they have a probability.

        Returns:
            A `Reliability`, see `reliability`.

        Raises:
            ValueError: as `measure`.

        Example:

        >>> from keras_lit.evaluation.calibration import Calibration
        >>> logits, labels = np.array([[0.5, 0.0], [0.1, 0.0]]), np.array([0, 1])
        >>> int(Calibration(temperature=2.0).reliability(logits, labels).counts.sum())
        2
        """
        logits, labels = self._checked(logits, labels)
        confidences, _ = self._answers(logits)
        # Where there is no probability of none, those of rows of none cannot be right.
        counted = np.full(labels.shape, True)
        if not self.multi_label and self.none_logit is None:
            counted = labels >= 0
        return reliability(confidences[counted], right_ones(logits, labels)[counted])

    def measure(self, logits: np.ndarray, labels: Any) -> dict[str, float]:
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
        logits, labels = self._checked(logits, labels)
        confidences, answered = self._answers(logits)
        right = right_ones(logits, labels)
        known = np.full(labels.shape, True) if self.multi_label else labels >= 0
        found = {}
        if known.any() or self.none_logit is not None:
            curve = self.reliability(logits, labels)
            found = {"ece": curve.ece, "ece_noise": curve.ece_noise}
        if self.threshold is not None:
            accepted = answered & (confidences >= self.threshold)
            hits = (accepted & right).sum()
            found["precision"] = float(hits / accepted.sum()) if accepted.any() else math.nan
            found["recall"] = float(hits / wanted) if (wanted := to_find(labels)) else math.nan
            found["accepted"] = float(accepted.mean())
        if self.set_threshold is not None and known.any():
            sets = self.sets(logits[known])
            found["coverage"] = float(sets[np.arange(len(sets)), labels[known]].mean())
            found["set_size"] = float(sets.sum(axis=1).mean())
        if known.any() and not known.all():
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
        names = {"class_names": list(self.class_names), "templates": list(self.templates)}
        return {**dataclasses.asdict(self), **names}

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

    def _checked(self, logits: np.ndarray, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        logits = checked_logits(logits)
        labels = checked_labels(labels, logits, self.class_names)
        if (labels.ndim == 2) != self.multi_label:
            raise ValueError(
                "`labels` should have the form of the fit: "
                f"{'[rows, classes]' if self.multi_label else '[rows]'}. Received shape: "
                f"{labels.shape}."
            )
        return logits, labels

    def _answers(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the top class, or for several labels of all; whether none is less."""
        probabilities = self.probabilities(logits)
        if self.multi_label:
            return probabilities, np.full(probabilities.shape, True)
        top = probabilities.max(axis=1)
        return top, top >= 1 - probabilities.sum(axis=1)


def checked_logits(logits: np.ndarray) -> np.ndarray:
    """[rows, classes] float64, finite."""
    return finite_rows(logits, "logits").astype("float64")


def checked_labels(labels: Any, logits: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """[rows] int with -1 for none, or [rows, classes] bool; checked."""
    if class_names and len(class_names) != logits.shape[1]:
        raise ValueError(
            f"`class_names` should name the {logits.shape[1]} columns of `logits`. Received: "
            f"{len(class_names)}."
        )
    labels = np.asarray(labels)
    if labels.ndim == 2:
        if labels.shape != logits.shape or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                "`labels` of several labels a row should be 0 or 1 for each of the logits, of "
                f"shape {logits.shape}. Received: shape {labels.shape}, values "
                f"{np.unique(labels)[:5].tolist()}."
            )
        return labels.astype(bool)
    if labels.dtype.kind in "OSU":
        if not class_names:
            raise ValueError(
                "`labels` should be integers, -1 for none of the classes; names of classes go with "
                f"`class_names`. Received: {labels.dtype}."
            )
        labels = label_numbers(labels, [*class_names, ""], "labels")
        labels = np.where(labels == len(class_names), -1, labels)
    is_int = np.issubdtype(labels.dtype, np.integer)
    # Unsigned ones could not be compared with -1.
    labels = labels.astype(np.int64) if is_int else labels
    known = np.where(labels == -1, 0, labels) if is_int else labels
    class_labels(known, len(logits), logits.shape[1], "labels")
    return labels


def right_ones(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each answer, whether it is right; labels of -1 make every answer wrong."""
    return labels if labels.ndim == 2 else logits.argmax(axis=1) == labels


def to_find(labels: np.ndarray) -> int:
    """How many right answers there are to find."""
    return int((labels if labels.ndim == 2 else labels >= 0).sum())

"""Few-shot linear probes on frozen representations, in closed form."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_lit import checks
from keras_lit.evaluation.rows import check_same_width, class_labels, finite_rows, label_numbers

# So large that the bias is all but free of the penalty (big_vision's fewshot_lsr).
_BIAS = 100.0


def linear_probe_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    l2: float | Sequence[float] = 1024.0,
) -> float | dict[float, float]:
    """Accuracy of a ridge regression from features to the classes, as big_vision's `fewshot_lsr`.

    Features are whitened with mean and deviation of the training rows, and get a constant 100 for
    the bias; targets are -1 and 1.

    Args:
        train_features: [train, dim] float array, of any length.
        train_labels: [train] int array, 0, 1, ...: each class up to the largest label has a row; or
            strings.
        test_features: [test, dim] float array.
        test_labels: [test] of the same kind and classes.
        l2: the penalty of the weights (big_vision: 1024), or several.

    Returns:
        The accuracy in 0..1; for several `l2` a dict of them.

    Raises:
        ValueError: counts or widths do not match, NaN, a class without an image, a test label
            outside of the classes, an `l2` that is not above zero.

    Example:

    >>> features = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> keras_lit.evaluation.linear_probe_accuracy(features, [0, 0, 1, 1], features, [0, 0, 1, 1])
    1.0

    Reference: the LiT paper, section 4.1 and Fig. 4; big_vision `evaluators/fewshot_lsr.py`.
    """
    data = _checked(train_features, train_labels, test_features, test_labels)
    penalties = np.ravel(l2).tolist()
    for penalty in penalties:
        checks.check_positive(penalty, "l2")
    found = _probe(data, np.arange(len(data.train)), penalties)
    return found[0] if np.ndim(l2) == 0 else dict(zip(penalties, found, strict=True))


def few_shot_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10, 25),
    seeds: int = 3,
    l2: float = 1024.0,
) -> dict[str, float]:
    """Accuracy of linear probes that see only a few images of each class.

    Args:
        train_features: [train, dim] float array: what the locked tower gives, before any head.
        train_labels: [train] int array, 0, 1, ..., or strings.
        test_features: [test, dim] float array.
        test_labels: [test] of the same kind.
        shots: how many images of each class; of a class with fewer, all are taken.
        seeds: int, how many draws to average over; draw s is big_vision's with seed s.
        l2: float, the penalty of the weights.

    Returns:
        {"1shot_accuracy": the mean over the seeds, "1shot_deviation": their standard deviation,
        "5shot_accuracy": ...}.

    Raises:
        ValueError: as `linear_probe_accuracy`.

    Example:

    >>> features = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> keras_lit.evaluation.few_shot_accuracy(
    ...     features, [0, 0, 1, 1], features, [0, 0, 1, 1], shots=(1,))
    {'1shot_accuracy': 1.0, '1shot_deviation': 0.0}

    Reference: the LiT paper, section 4.1 and Fig. 4; big_vision `evaluators/fewshot_lsr.py`.
    """
    data = _checked(train_features, train_labels, test_features, test_labels)
    checks.check_counts(shots, "shots")
    checks.check_count(seeds, "seeds")
    checks.check_positive(l2, "l2")
    found = np.zeros([len(shots), seeds])
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        own = [np.flatnonzero(data.train_labels == label) for label in range(data.classes)]
        drawn = [rng.permutation(rows) for rows in own]
        for i, count in enumerate(shots):
            rows = np.concatenate([order[:count] for order in drawn])
            found[i, seed] = _probe(data, rows, [l2])[0]
    results = {}
    for count, accuracies in zip(shots, found, strict=True):
        results[f"{count}shot_accuracy"] = float(accuracies.mean())
        results[f"{count}shot_deviation"] = float(accuracies.std())
    return results


class _Data(NamedTuple):
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    classes: int


def _checked(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> _Data:
    train = finite_rows(train, "train_features")
    test = finite_rows(test, "test_features")
    check_same_width(train, test, "Train and test features")
    train_labels, test_labels = _numbered(train_labels, test_labels)
    largest = int(np.max(train_labels, initial=0))
    train_labels = class_labels(train_labels, len(train), largest + 1, "train_labels")
    counts = np.bincount(train_labels)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise ValueError(
            f"Every class should have an image in training. Received none for {len(empty)} of the "
            f"{len(counts)} classes, the first of them: {empty[:5].tolist()}. Number the classes "
            "that exist from 0."
        )
    test_labels = class_labels(test_labels, len(test), len(counts), "test_labels")
    return _Data(train, train_labels, test, test_labels, len(counts))


def _numbered(train_labels: Any, test_labels: Any) -> tuple[Any, Any]:
    """Labels that are strings as numbers in the order of the alphabet."""
    of_train, of_test = (np.asarray(labels) for labels in (train_labels, test_labels))
    strings = [labels.dtype.kind in "OSU" for labels in (of_train, of_test)]
    if strings[0] != strings[1]:
        raise ValueError(
            "Labels of training and test should both be integers or both strings. Received: "
            f"{of_train.dtype} and {of_test.dtype}."
        )
    if not strings[0]:
        return train_labels, test_labels
    names = sorted({x.decode() if isinstance(x, bytes) else str(x) for x in of_train.ravel()})
    return tuple(
        label_numbers(labels, names, name)
        for labels, name in ((of_train, "train_labels"), (of_test, "test_labels"))
    )


def _probe(data: _Data, rows: np.ndarray, penalties: Sequence[float]) -> list[float]:
    """The accuracy on test of a fit on the `rows` of training, for each penalty.

    With X = whitened rows and Y = targets the weights are (X'X + l2)^-1 X'Y, or, where there are
    fewer rows than features, X'(XX' + l2)^-1 Y; either matrix is Q diag(e) Q'.

    JAX takes float32 and LAPACK's `ssyevd` on a CPU, as SciPy does here. With about as many rows as
    features and a small penalty the rounding, large because of the bias, decides over some images.
    """
    import scipy.linalg

    train = data.train[rows]
    mean, deviation = train.mean(axis=0), train.std(axis=0) + np.float32(1e-5)

    def whitened(features: np.ndarray) -> np.ndarray:
        return np.pad((features - mean) / deviation, [(0, 0), (0, 1)], constant_values=_BIAS)

    x = whitened(train)
    y = data.train_labels[rows, np.newaxis] == np.arange(data.classes)
    y = 2 * y.astype("float32") - 1
    if len(x) >= x.shape[1]:
        eigenvalues, left = scipy.linalg.eigh(x.T @ x, driver="evd")
        right = left.T @ (x.T @ y)
    else:
        eigenvalues, q = scipy.linalg.eigh(x @ x.T, driver="evd")
        left, right = x.T @ q, q.T @ y
    weights = [(left / (eigenvalues + np.float32(penalty))) @ right for penalty in penalties]
    right_answers = np.zeros(len(penalties))
    for start in range(0, len(data.test), 8192):
        tile = slice(start, start + 8192)
        test = whitened(data.test[tile])
        for i, kernel in enumerate(weights):
            predicted = (test @ kernel).argmax(axis=1)
            right_answers[i] += (predicted == data.test_labels[tile]).sum()
    return (right_answers / len(data.test)).tolist()

"""What a model is worth on the way from before a training to after it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lit import files
from keras_lit.evaluation.results import Result, in_columns, shown
from keras_lit.model import LiT
from keras_lit.soups import (
    Mean,
    Model,
    check_same_make,
    check_two,
    opened,
    weights_of,
    without_lora,
)


@dataclasses.dataclass(repr=False)
class Between:
    """Metrics along the way from one model to another.

    `print` shows both ends, and where the first metric is highest.

    Args:
        alphas: [n] floats, 0 before the training, 1 after it.
        metrics: {name: [n] floats}.

    Example:

    >>> found = keras_lit.evaluation.Between([0.0, 0.5, 1.0], {"recall@1": [0.2, 0.6, 0.5]})
    >>> found.best("recall@1")
    0.5
    """

    alphas: list[float]
    metrics: dict[str, list[float]]

    def best(self, name: str, lowest: bool = False) -> float:
        """The alpha where a metric is best; of several the smallest.

        Args:
            name: of the metric.
            lowest: bool, whether lower is better.

        Returns:
            A float in 0..1.

        Raises:
            ValueError: no such metric.

        Example:

        >>> keras_lit.evaluation.Between([0.0, 1.0], {"median_rank": [3, 2]}).best(
        ...     "median_rank", lowest=True)
        1.0
        """
        if name not in self.metrics:
            raise ValueError(f"There is no metric {name!r}, but: {', '.join(self.metrics)}.")
        values = np.array(self.metrics[name])
        return self.alphas[int(np.nanargmin(values) if lowest else np.nanargmax(values))]

    def plot(self, filepath: str | os.PathLike, names: Sequence[str] | None = None) -> None:
        """Draws metrics over alpha, with matplotlib.

        Args:
            filepath: str or path, ending in ".png", ".svg" or ".pdf".
            names: of the metrics. None: all.

        Raises:
            ImportError: matplotlib is not installed.

        Example:

        >>> found = keras_lit.evaluation.Between([0.0, 0.5, 1.0], {"recall@1": [0.2, 0.6, 0.5]})
        >>> found.plot(pathlib.Path(tempfile.mkdtemp()) / "between.png")
        """
        from matplotlib.figure import Figure  # Imported lazily: it is needed here alone.

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name in names or self.metrics:
            axes.plot(self.alphas, self.metrics[name], marker=".", label=name)
        axes.set_xlabel("alpha: 0 before the training, 1 after it")
        axes.legend()
        axes.grid(alpha=0.3)
        path = pathlib.Path(filepath)
        with files.whole(path) as working:
            figure.savefig(working, format=path.suffix[1:])

    def __repr__(self) -> str:
        first = np.array(next(iter(self.metrics.values())), "float64")
        places = [0, int(np.argmax(np.nan_to_num(first, nan=-np.inf))), len(self.alphas) - 1]
        cells = []
        for i in dict.fromkeys(places):
            at = {f"alpha {self.alphas[i]:g}: {k}": v[i] for k, v in self.metrics.items()}
            cells += shown(at)
        return "\n".join([f"{len(self.alphas)} models from before to after", *in_columns(cells, 9)])


def along(
    before: Model,
    after: Model,
    evaluate: Mapping[str, Callable[[LiT], Any]] | Callable[[LiT], Any],
    alphas: Sequence[float] = tuple(np.linspace(0, 1, 11).round(3).tolist()),
    verbose: int = 1,
) -> Between:
    """Evaluates `keras_lit.interpolate(before, after, alpha)` at each alpha.

    Args:
        before: a `LiT`, or the path of its `.keras` file.
        after: the same model later, or the path of its file.
        evaluate: from a `LiT` to a `Result`, {name: number} or a number; or several by name, whose
            names stand before those of their metrics.
        alphas: floats in 0..1.
        verbose: 0 or 1: a progress bar.

    Returns:
        A `Between`: `.alphas` and `.metrics`, `.best(name)`, `.plot(filepath)`.

    Raises:
        ValueError: as `keras_lit.interpolate`.

    Example:

    >>> def model(bias):
    ...     towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(4)
    ...     model = keras_lit.LiT(*towers, tuning="LL")
    ...     model.text_tower.head.bias.assign(np.full(8, bias))
    ...     return model
    >>> found = keras_lit.evaluation.along(
    ...     model(1.0), model(3.0), {"bias": lambda model: float(model.text_tower.head.bias[0])},
    ...     alphas=(0, 0.5, 1), verbose=0)
    >>> found.metrics
    {'bias': [1.0, 2.0, 3.0]}

    Reference: WiSE-FT, Wortsman et al. 2022 (arXiv 2109.01903), figure 1.
    """
    alphas = [float(alpha) for alpha in alphas]
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ValueError(f"`alphas` should be some numbers in 0..1. Received: {alphas}.")
    functions = evaluate if isinstance(evaluate, Mapping) else {"": evaluate}
    first, last = opened(before), opened(after)
    check_two(first, last)
    check_same_make(first, last)
    ends = weights_of(first), weights_of(last)
    model = without_lora(first)  # One model for all: what is compiled of it is compiled once.
    metrics: dict[str, list[float]] = {}
    progress = keras.utils.Progbar(len(alphas), verbose=verbose, unit_name="model")
    for alpha in alphas:
        mean = Mean(ends[0])
        mean.add(ends[1], alpha)
        mean.assign_to(model)
        for name, function in functions.items():
            for metric, value in _by_name(name, function(model)).items():
                metrics.setdefault(metric, []).append(float(value))
        progress.add(1)
    return Between(alphas, metrics)


def _by_name(name: str, found: Any) -> dict[str, float]:
    """Metrics of one evaluation, with its name before theirs."""
    found = found.metrics if isinstance(found, Result) else found
    if not isinstance(found, Mapping):
        return {name or "metric": found}
    return {f"{name} {metric}".strip(): value for metric, value in found.items()}

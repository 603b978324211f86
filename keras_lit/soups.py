"""Means of the weights of several trainings that began at the same place."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_lit import internals
from keras_lit.model import LiT
from keras_lit.towers import fingerprints, locks, settings

Model = LiT | str | os.PathLike


def interpolate(before: Model, after: Model, alpha: float) -> LiT:
    """A model whose weights lie between those before a training and those after it.

    Between the two there often is a model that is nearly as good as the trained one on its own
    pairs, and nearly as good as the other on all else: `keras_lit.evaluation.along` looks for it.
    All weights go along, heads and the logarithm of the temperature too.

    Args:
        before: a `LiT`, or the path of its `.keras` file.
        after: the same model later, or the path of its file. Either may have LoRA, which counts as
            part of its kernels.
        alpha: float in 0..1; 0 is `before`, 1 is `after`.

    Returns:
        A new `LiT` like `before`, not compiled, without LoRA.

    Raises:
        ValueError: models that differ in more than values, or are one; `alpha` outside of 0..1.

    Example:

    >>> def model(bias):
    ...     towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(4)
    ...     model = keras_lit.LiT(*towers, tuning="LL")
    ...     model.text_tower.head.bias.assign(np.full(8, bias))
    ...     return model
    >>> keras_lit.interpolate(model(1.0), model(3.0), 0.25).text_tower.head.bias.numpy()[:3]
    array([1.5, 1.5, 1.5], dtype=float32)

    Reference: WiSE-FT, Wortsman et al. 2022 (arXiv 2109.01903), section 3.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` should be in 0..1. Received: {alpha!r}.")
    both = [opened(before), opened(after)]
    check_two(*both)
    return soup(both, [1 - alpha, alpha])


def soup(models: Iterable[Model], shares: Sequence[float] | None = None) -> LiT:
    """A model whose weights are the mean of those of several.

    For several trainings from the same start, with other seeds or rates, or several checkpoints of
    one. They are read one after the other, so paths need memory for two.

    Args:
        models: `LiT` models or paths of `.keras` files, of one architecture.
        shares: for each its share of the mean, not negative. None: equal.

    Returns:
        A new `LiT` like the first, not compiled, without LoRA.

    Raises:
        ValueError: no models; shares that do not fit; models that differ in more than values.

    Example:

    >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(4)
    >>> first = keras_lit.LiT(*towers, tuning="LL")
    >>> mean = keras_lit.soup([first, first])
    >>> np.array_equal(mean.text_tower.head.kernel, first.text_tower.head.kernel)
    True

    Reference: model soups, Wortsman et al. 2022 (arXiv 2203.05482), the uniform soup.
    """
    if isinstance(models, LiT | str | os.PathLike):
        raise TypeError(f"`models` should be a list of models or paths. Received: {models!r:.80}.")
    models = list(models)
    parts = np.array([1.0] * len(models) if shares is None else shares, "float64")
    good = parts.shape == (len(models),) and (parts >= 0).all() and 0 < parts.sum() < np.inf
    if not models or not good:
        raise ValueError(
            "`shares` should hold one number for each of the models, none negative, not all 0. "
            f"Received: {len(models)} models, shares {shares}."
        )
    first = opened(models[0])
    mean = Mean(weights_of(first))
    for model, part in zip(models[1:], parts[1:] / parts.sum(), strict=True):
        other = opened(model)
        check_same_make(first, other)
        mean.add(weights_of(other), part)
    found = without_lora(first)
    mean.assign_to(found)
    return found


class Mean:
    """The first model's weights, and what others add to them: exact where all are equal."""

    def __init__(self, first: list[tuple[str, np.ndarray]]):
        self._first = first
        self._added = [np.zeros(x.shape) for _, x in first]

    def add(self, others: list[tuple[str, np.ndarray]], share: float) -> None:
        """Moves the mean towards other weights by this share of the way from the first."""
        check_alike(self._first, others)
        for (_, x), (_, y), sums in zip(self._first, others, self._added, strict=True):
            if x.dtype.kind not in "iub":
                sums += share * (y.astype("float64") - x.astype("float64"))

    def assign_to(self, model: LiT) -> None:
        """Gives a model without LoRA the mean."""
        pairs = zip(model.weights, self._first, self._added, strict=True)
        for variable, (_, x), sums in pairs:
            variable.assign(x if x.dtype.kind in "iub" else (x + sums).astype(x.dtype))
        if model.max_temperature:  # The first model's; others may be above it.
            model.log_temperature.assign(model._cap(model.log_temperature))


def opened(model: Model) -> LiT:
    """A model, read where it is a path."""
    found: Any = model
    if isinstance(model, str | os.PathLike):
        found = keras.saving.load_model(model, compile=False)
    if not isinstance(found, LiT):
        raise ValueError(
            "Models should be `keras_lit.LiT` or paths of their `.keras` files. Received: "
            f"{type(found).__name__}."
        )
    return found


def weights_of(model: LiT) -> list[tuple[str, np.ndarray]]:
    """Name and value of each weight, as if LoRA were merged."""
    of_lora = "lora_kernel_", "lora_embeddings_"
    with settings.merged(internals.flat_layers(model)):
        kept = [x for x in model.weights if not x.name.startswith(of_lora)]
        return [(x.name, np.array(x)) for x in kept]


def without_lora(model: LiT) -> LiT:
    """A new model of the same make, whose weights are to be assigned."""
    with model.distribute_strategy.scope():
        found = type(model).from_config(model.get_config())
        for layer in settings.with_lora(internals.flat_layers(found)):
            settings.merge(layer)
        for tower in (found.image_tower, found.text_tower):
            if tower.lock is not None and tower.lock.lora is not None:
                locks.take(tower, None)
    found.calibration = None  # It was one of other weights.
    return found


def check_two(before: LiT, after: LiT) -> None:
    """Raises ValueError if these are one model."""
    both = [(x.image_tower.weights, x.text_tower.weights) for x in (before, after)]
    of_first, of_last = ([*map(id, image + text)] for image, text in both)
    if of_first == of_last:
        raise ValueError(
            "There should be two models. Received one, twice: `fit` changes a model in place, so "
            'keep it before, `model.save("before.keras")`, and pass that path.'
        )


def check_same_make(first: LiT, other: LiT) -> None:
    """Raises ValueError where weights of the same shapes have another meaning."""
    if found := fingerprints.differences(_make(first), _make(other)):
        raise ValueError(
            "Models whose weights are averaged should be of one make. Differences: "
            f"{'; '.join(found)}. Take checkpoints of one model."
        )


def _make(model: LiT) -> dict[str, Any]:
    """What the weights do not show of how a model comes to its embeddings."""
    found = {"loss": model.loss_name}
    for side, tower in (("image", model.image_tower), ("text", model.text_tower)):
        found[f"{side} preprocessing"] = fingerprints.of_preprocessor(tower.preprocessor)
        for name in ("pooling", "sequence_length", "pad_token_id"):
            found[f"{side} {name}"] = getattr(tower, name, None)
    return found


def check_alike(first: list[tuple[str, np.ndarray]], other: list[tuple[str, np.ndarray]]) -> None:
    """Raises ValueError unless weights have the same names, shapes and dtypes, integers values."""
    checked = [[(n, x.shape, x.dtype.name) for n, x in weights] for weights in (first, other)]
    if checked[0] != checked[1]:
        pairs = zip(*checked, strict=False)
        differ = next((pair for pair in pairs if pair[0] != pair[1]), tuple(map(len, checked)))
        raise ValueError(
            "Models whose weights are averaged should be of one architecture. First difference: "
            f"{differ[0]} and {differ[1]}. Take checkpoints of one model."
        )
    for (name, x), (_, y) in zip(first, other, strict=True):
        if x.dtype.kind in "iub" and not np.array_equal(x, y):
            raise ValueError(f"Integers have no mean, and those of {name} differ.")

"""Penalties, width and temperature by cross-validation."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_lit import checks
from keras_lit.alignment import heads as closed_form
from keras_lit.alignment.folds import Folds, Rows, total
from keras_lit.alignment.heads import Heads
from keras_lit.alignment.moments import Moments
from keras_lit.losses.global_batch import EPSILON

Method = Literal["cca", "ridge"]
Choice = tuple[float, float | None, int | None]  # image penalty, text penalty, dim
PENALTIES = (0.03, 0.1, 0.2, 0.3, 1.0, 3.0, 10.0)
KS = (1, 5, 10)
_FIRST = 0.3  # The text penalty during the first search for the image penalty.
_TEXTS = 4000  # Of a fold's held-out images, in a recall.
_BATCH = 512  # Held-out pairs whose loss the temperature should make least.
_RANGE = (1.0, 100.0)  # Of the temperature.


@dataclasses.dataclass(frozen=True, repr=False)
class Alignment:
    """Heads in closed form, and what cross-validation chose for them; prints as a table.

    Args:
        method: "cca" or "ridge".
        image_penalty: float, in multiples of the mean variance of the image features.
        text_penalty: float, in multiples of that of the text features; None for ridge.
        dim: int, the width of the embeddings.
        temperature: float, the multiplier of cosines for which the loss of held-out pairs is least,
            in batches of up to 512.
        bias: float, that of the sigmoid loss; None for softmax.
        recalls: {"image_to_text_recall@1": ...}, @5, @10 and both ways: means over the folds, each
            of held-out pairs that its heads have not seen.
        scores: {(image penalty, text penalty, dim): mean recall}, all that were tried; dim None is
            the full width.
        pairs: int, of how many pairs the heads are made.
        held_out: int, the mean number of different groups that a recall searched among.
        heads: `Heads`, made of all pairs.

    Example:

    >>> features = np.random.default_rng(0).normal(size=[60, 4])
    >>> folds = keras_lit.alignment.Folds(4, 4, count=2)
    >>> folds.add(features, features)
    >>> found = keras_lit.alignment.choose(folds, verbose=0)
    >>> found.method, found.dim, found.pairs, sorted(found.recalls)[0]
    ('cca', 4, 60, 'image_to_text_recall@1')
    >>> print(found)
    cca of 60 pairs, 4 wide, temperature 100.0
      penalties: 0.03 for images, 0.03 for texts; the best of 21 tries
      held-out pairs  recall@1  recall@5  recall@10
      image to text    100.00%   100.00%    100.00%
      text to image    100.00%   100.00%    100.00%
      mean 100.00%, each searched among 30
    """

    method: str
    image_penalty: float
    text_penalty: float | None
    dim: int
    temperature: float
    bias: float | None
    recalls: dict[str, float]
    scores: dict[Choice, float]
    pairs: int
    held_out: int
    heads: Heads

    @property
    def mean_recall(self) -> float:
        """The mean of the six recalls.

        Example:

        >>> features = np.random.default_rng(0).normal(size=[60, 4])
        >>> folds = keras_lit.alignment.Folds(4, 4, count=2)
        >>> folds.add(features, features)
        >>> keras_lit.alignment.choose(folds, verbose=0).mean_recall > 0.9
        True
        """
        return float(np.mean([*self.recalls.values()]))

    def to_dict(self) -> dict[str, Any]:
        """All but the heads, as `json.dump` takes it.

        Returns:
            {"method", "image_penalty", ..., "recalls", "pairs", "held_out", "mean_recall",
            "scores": [{"image_penalty", "text_penalty", "dim", "mean_recall"}]}.

        Example:

        >>> features = np.random.default_rng(0).normal(size=[60, 4])
        >>> folds = keras_lit.alignment.Folds(4, 4, count=2)
        >>> folds.add(features, features)
        >>> found = keras_lit.alignment.choose(folds, "ridge", verbose=0).to_dict()
        >>> found["method"], found["pairs"], len(found["scores"])
        ('ridge', 60, 7)
        """
        names = ("image_penalty", "text_penalty", "dim", "mean_recall")
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del found["heads"]
        return {
            **found,
            "recalls": dict(self.recalls),
            "mean_recall": self.mean_recall,
            "scores": [
                dict(zip(names, (*choice, recall), strict=True))
                for choice, recall in self.scores.items()
            ],
        }

    def __repr__(self) -> str:
        title = f"{self.method} of {self.pairs:,} pairs, {self.dim} wide"
        text = "" if self.text_penalty is None else f", {self.text_penalty:g} for texts"
        lines = [
            f"{title}, temperature {self.temperature:.1f}"
            + ("" if self.bias is None else f", bias {self.bias:.1f}"),
            f"  penalties: {self.image_penalty:g} for images{text}; "
            f"the best of {len(self.scores)} tries",
            "  held-out pairs" + "".join(f"  recall@{k}" for k in KS),
        ]
        for way in ("image_to_text", "text_to_image"):
            cells = [f"{self.recalls[f'{way}_recall@{k}']:.2%}" for k in KS]
            widths = [len(f"  recall@{k}") for k in KS]
            values = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
            lines.append(f"  {way.replace('_', ' ')} " + "".join(values))
        searched = f"each searched among {self.held_out:,}"
        return "\n".join([*lines, f"  mean {self.mean_recall:.2%}, {searched}"])


def choose(
    folds: Folds,
    method: Method = "cca",
    penalties: Sequence[float] = PENALTIES,
    dim: int | None = None,
    loss: Literal["softmax", "sigmoid"] = "softmax",
    verbose: int | Literal["auto"] = "auto",
) -> Alignment:
    """Heads whose penalties and width are best for pairs that they have not seen.

    One penalty is sought after the other until neither changes, then the width: the full one, or
    its half, quarter or eighth where that is better by more than the standard error over the folds,
    as with few pairs a fold holds few out. The criterion is the mean of recall@1, 5 and 10, both
    ways, over the folds; a group is found at k if fewer than k others come before it or are as
    near.

    Args:
        folds: `Folds` that have seen the pairs; for "ridge" with texts of unit length.
        method: "cca", or "ridge" from images to texts.
        penalties: the ones to try, for images and for texts.
        dim: int, the width of the embeddings. None: the best; for "ridge" that of the texts.
        loss: "softmax" or "sigmoid", for which the temperature, and bias, should be best.
        verbose: 0, 1 or "auto": a progress bar for features as wide as pretrained towers' are.

    Returns:
        An `Alignment`.

    Raises:
        ValueError: unknown method, a penalty that is not positive, too few different groups to
            hold out, a `dim` that is too large, or with "ridge".

    Example:

    >>> features = np.random.default_rng(0).normal(size=[60, 4])
    >>> folds = keras_lit.alignment.Folds(4, 4, count=2)
    >>> folds.add(features, features)
    >>> keras_lit.alignment.choose(folds, "ridge", penalties=[0.1, 1.0], verbose=0).method
    'ridge'
    """
    checks.check_one_of(method, get_args(Method), "method")
    checks.check_positives(penalties, "penalties")
    if dim is not None:
        checks.check_count(dim, "dim")
    if dim is not None and method == "ridge":
        raise ValueError(f"Ridge has the width of the text features. Received `dim`: {dim}.")
    if verbose == "auto":
        verbose = int(len(folds.moments[0].mean) >= 512)
    trial = _Trials(folds, method, verbose)
    found = _search(trial, sorted(penalties), dim)
    heads = trial.heads(total(folds.moments), found)
    recalls = trial.recalls(found)
    names = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in KS]
    return Alignment(
        method,
        found[0],
        found[1],
        heads.image.kernel.shape[1],
        *best_scale(trial.similarities(found), loss),
        dict(zip(names, recalls.tolist(), strict=True)),
        {choice: float(value.mean()) for choice, value in trial.known.items()},
        sum(moments.count for moments in folds.moments),
        round(np.mean([len(np.unique(rows.keys)) for rows in trial.rows])),
        heads,
    )


def _search(trial: "_Trials", penalties: list[float], dim: int | None) -> Choice:
    """The best (image penalty, text penalty, dim); among equals the smallest penalties."""

    def best(choices: list[Choice]) -> Choice:
        return max(choices, key=lambda choice: trial.recalls(choice).mean())

    if trial.method == "ridge":
        return best([(image, None, None) for image in penalties])
    start = min(penalties, key=lambda penalty: abs(np.log(penalty / _FIRST)))
    found: Choice = (start, start, dim)
    while True:
        image = best([(choice, found[1], dim) for choice in penalties])[0]
        before, found = found, best([(image, choice, dim) for choice in penalties])
        if found[1] == before[1]:
            break  # The search over image penalties would find the same again.
    if dim is None:
        most = trial.most
        dims = sorted({max(1, most // part) for part in (8, 4, 2)} - {most})
        narrow = best([(*found[:2], width) for width in dims]) if dims else found
        if trial.is_clearly_better(narrow, found):
            found = narrow
    return found


class _Trials:
    """Remembers the six recalls of what was tried, by (image penalty, text penalty, dim)."""

    def __init__(self, folds: Folds, method: str, verbose: int) -> None:
        self.method = method
        self.known: dict[Choice, np.ndarray] = {}
        counts = [moments.count for moments in folds.moments]
        usable = [
            fold
            for fold, count in enumerate(counts)
            if len(np.unique(folds.kept(fold).keys)) > 1 and sum(counts) - count > 1
        ]
        if not usable:
            raise ValueError(
                "Cross-validation holds pairs out and needs at least some different captions, or "
                f"groups, in each of the {len(counts)} folds. Received {sum(counts)} pairs. Give "
                "more pairs, or call `keras_lit.alignment.cca` with penalties of your own."
            )
        self.most = min(folds.moments[0].image_dim, folds.moments[0].text_dim)
        self.rows = [_at_most(_TEXTS, folds.kept(fold)) for fold in usable]
        self.others = [total(folds.moments[:i] + folds.moments[i + 1 :]) for i in usable]
        self._regressions: dict[float, list[np.ndarray]] = {}  # Of one image penalty at a time.
        self.progress = keras.utils.Progbar(None, verbose=verbose, unit_name="trial")

    def heads(self, moments: Moments, choice: Choice) -> Heads:
        """Of all pairs."""
        image, text, dim = choice
        if text is None:
            return closed_form.ridge(moments, image)
        return closed_form.cca(moments, image, text, dim)

    def heads_of_folds(self, choice: Choice) -> list[Heads]:
        """For each fold those of the others."""
        image, text, dim = choice
        if text is None:
            return [closed_form.ridge(moments, image) for moments in self.others]
        if image not in self._regressions:
            self._regressions = {image: [closed_form.regression(x, image) for x in self.others]}
        return [
            closed_form.cca_of(moments, kernel, text, dim)
            for moments, kernel in zip(self.others, self._regressions[image], strict=True)
        ]

    def is_clearly_better(self, choice: Choice, than: Choice) -> bool:
        """Whether its mean recall is above by more than the standard error over the folds."""
        gain = self.of_folds(choice).mean(axis=1) - self.of_folds(than).mean(axis=1)
        return bool(gain.mean() > gain.std() / max(1, len(gain) - 1) ** 0.5)

    def recalls(self, choice: Choice) -> np.ndarray:
        """[6]: image to text @1, 5, 10, text to image @1, 5, 10, means over the folds."""
        return self.of_folds(choice).mean(axis=0)

    def of_folds(self, choice: Choice) -> np.ndarray:
        """[folds, 6]."""
        if choice not in self.known:
            found = []
            for heads, rows in zip(self.heads_of_folds(choice), self.rows, strict=True):
                images, texts = _embed(heads, rows)
                found.append(group_recalls(images @ texts.T, rows.keys, rows.keys[rows.owners]))
            self.known[choice] = np.array(found)
            self.progress.add(1)
        return self.known[choice]

    def similarities(self, choice: Choice) -> list[np.ndarray]:
        """[n, n] cosines of the first image and text of n held-out groups, for each fold."""
        batches = []
        for heads, rows in zip(self.heads_of_folds(choice), self.rows, strict=True):
            firsts = np.unique(rows.keys[rows.owners], return_index=True)[1][:_BATCH]
            images, texts = _embed(heads, rows)
            batches.append(images[rows.owners[firsts]] @ texts[firsts].T)
        return batches


def _at_most(texts: int, rows: Rows) -> Rows:
    """Some images, with at most `texts` texts in all: each trial compares all of them."""
    order = rows.by_priority()
    counts = np.cumsum(np.bincount(rows.owners, minlength=len(rows.keys))[order])
    some = order[: max(2, int(np.searchsorted(counts, texts, side="right")))]
    return rows.take(some[np.argsort(rows.keys[some], kind="stable")])


def _embed(heads: Heads, rows: Rows) -> list[np.ndarray]:
    """[images, dim] and [texts, dim] of unit length."""
    found = [
        head.project(features)
        for head, features in zip(heads, (rows.images, rows.texts), strict=True)
    ]
    lengths = [np.linalg.norm(embeddings, axis=1, keepdims=True) for embeddings in found]
    return [x / np.maximum(length, 1e-12) for x, length in zip(found, lengths, strict=True)]


def group_recalls(
    similarities: np.ndarray, image_keys: np.ndarray, text_keys: np.ndarray
) -> np.ndarray:
    """[6]: recall@1, 5, 10 of image to text, and of text to image, among groups.

    The similarity of a group is that of its best member; one that is as near as the right group (to
    1e-6) comes before it. `similarities` [images, texts], keys sorted, of the same groups.
    """
    keys = np.unique(text_keys)
    found = []
    for axis, queries, answers in ((1, image_keys, text_keys), (0, text_keys, image_keys)):
        best, starts = similarities, np.searchsorted(answers, keys)
        if len(starts) < len(answers):
            best = np.maximum.reduceat(similarities, starts, axis=axis)
        places = np.expand_dims(np.searchsorted(keys, queries), axis)
        right = np.take_along_axis(best, places, axis)
        before = np.count_nonzero(best >= right - EPSILON, axis=axis) - 1
        found += [np.mean(before < k) for k in KS]
    return np.array(found)


def best_scale(batches: Sequence[np.ndarray], loss: str) -> tuple[float, float | None]:
    """The multiplier and bias for which the mean loss of these cosines [n, n] is least.

    Right answers are on the diagonal. Both losses are convex in what is sought.
    """
    from scipy import optimize, special  # Imported lazily: takes 0.2 s.

    def softmax(temperature: float) -> float:
        return sum(
            special.logsumexp(temperature * table, axis=axis).mean()
            - temperature * np.diag(table).mean()
            for table in batches
            for axis in (0, 1)
        )

    def sigmoid(scale: np.ndarray) -> float:
        logits = [scale[0] * table + scale[1] for table in batches]
        return sum(
            (np.logaddexp(0, table).sum() - np.trace(table)) / len(table) for table in logits
        )

    if loss == "softmax":
        return float(optimize.minimize_scalar(softmax, bounds=_RANGE, method="bounded").x), None
    found = optimize.minimize(sigmoid, [10.0, -10.0], bounds=[_RANGE, (-100.0, 100.0)]).x
    return float(found[0]), float(found[1])

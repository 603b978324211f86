"""Zero-shot classification: class names in prompts become the weights of a classifier."""

import collections
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from keras_lit import checks
from keras_lit.data.captions import is_utf8
from keras_lit.evaluation.rows import (
    check_same_width,
    class_labels,
    finite_rows,
    float_rows,
    unit_rows,
)
from keras_lit.losses.global_batch import EPSILON

# Scores that exist at one time: 64 MB in float32.
_TILE_ELEMENTS = 2**24


def zero_shot_weights(
    encode_text: Any,
    class_names: Sequence[str],
    templates: Sequence[str] = ("{}",),
    renormalize: bool = True,
    batch_size: int = 16384,
    verbose: int | Literal["auto"] = "auto",
) -> np.ndarray:
    """The embedding of each class: its prompts' embeddings, averaged and made unit length.

    Args:
        encode_text: a `LiT`, or a function of strings [n] to [n, dim] rows (made unit length before
            they are averaged), such as `model.encode_text`.
        class_names: the names of the classes, all different: two classes of one name, or of names
            that the tokenizer does not tell apart, have the same embedding, which counts as wrong
            for both (a warning names them).
        templates: prompts with one `{}` for the name, see `keras_lit.evaluation.prompts`.
        renormalize: bool, whether the averages are made unit length, as CLIP and big_vision do. The
            LiT authors' Colab does not, which favours classes whose prompts agree.
        batch_size: int, about how many prompts to hand to `encode_text` at a time.
        verbose: 0, 1 or "auto": a progress bar for more than 10 batches.

    Returns:
        [classes, dim] float32 array of unit-length rows.

    Raises:
        ValueError: no classes, no templates, an empty class name or template, a template without a
            slot, or embeddings of another shape, with NaN or of length zero.

    Example:

    >>> weights = keras_lit.evaluation.zero_shot_weights(
    ...     lambda texts: np.eye(3)[[len(text) % 3 for text in texts]], ["cat", "horse"])
    >>> weights.shape
    (2, 3)

    Reference: the LiT paper, Appendix I.1 (CLIP's prompt ensembling).
    """
    encode_text = getattr(encode_text, "encode_text", encode_text)
    if isinstance(getattr(encode_text, "__self__", None), keras.Model):  # A LiT's: one bar only.
        encode_text = functools.partial(encode_text, verbose=0)
    check_prompts(class_names, templates)
    checks.check_positive(batch_size, "batch_size")
    step = max(1, batch_size // len(templates))
    starts = range(0, len(class_names), step)
    verbose = len(starts) > 10 if verbose == "auto" else verbose
    progress = keras.utils.Progbar(len(starts), verbose=int(verbose), unit_name="batch")
    means = []
    for start in starts:
        names = class_names[start : start + step]
        prompts = [x.replace("{}", name) for name in names for x in templates]
        rows = float_rows(encode_text(prompts), "encode_text(prompts)")
        if len(rows) != len(prompts):
            raise ValueError(
                f"`encode_text` should return a row for each of {len(prompts)} prompts. Received "
                f"shape: {rows.shape}."
            )
        means.append(_unit(rows).reshape(len(names), len(templates), -1).mean(axis=1))
        progress.add(1)
    weights = np.concatenate(means)
    weights = _unit(weights) if renormalize else weights
    _say_what_is_equal(class_names, weights)
    return weights


def zero_shot_accuracy(
    image_embeddings: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray,
    top: Sequence[int] = (1, 5),
    classes: Sequence[int] | np.ndarray | None = None,
) -> dict[str, float]:
    """The part of the images whose class is among the k with the nearest weights.

    Args:
        image_embeddings: [images, dim] unit-length floats; others are normalised, with a warning.
        labels: [images] int array in [0, classes).
        weights: [classes, dim] float array, from `zero_shot_weights`.
        top: the k to report; those above the number of classes are left out.
        classes: optional [classes] int array, the labels that the rows of `weights` stand for,
            where these are not 0, 1, 2...: ImageNet-A and -R have 200 of ImageNet's classes.

    Returns:
        {"accuracy@1": float in 0..1, "accuracy@5": ..., "mean_per_class_recall": the mean over the
        classes that occur of their accuracy@1}. Of classes that tie, as those of one name do, the
        wrong ones count before the right one.

    Raises:
        ValueError: counts or widths do not match, a label is outside of the classes, NaN.

    Example:

    >>> keras_lit.evaluation.zero_shot_accuracy(np.eye(2), [0, 0], np.eye(2), top=(1,))
    {'accuracy@1': 0.5, 'mean_per_class_recall': 0.5}
    """
    labels, ranks, _ = _ranks_and_rivals(image_embeddings, labels, weights, classes)
    right, counts = np.bincount(labels, ranks == 0), np.bincount(labels)
    return {
        **_top_accuracies(ranks, top, len(weights)),
        "mean_per_class_recall": float(np.mean(right[counts > 0] / counts[counts > 0])),
    }


def multi_label_accuracy(
    image_embeddings: np.ndarray,
    labels: Sequence[Sequence[int]] | np.ndarray,
    weights: np.ndarray,
    top: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """The part of the labelled images for which one of their classes is among the k nearest.

    Args:
        image_embeddings: [images, dim] unit-length floats; others are normalised, with a warning.
        labels: for each image its labels in [0, classes): a list of lists, or an [images, most] int
            array whose rows end with -1. An image without a label is left out, as ReaL does.
        weights: [classes, dim] float array, from `zero_shot_weights`.
        top: the k to report; those above the number of classes are left out.

    Returns:
        {"accuracy@1": float in 0..1, ..., "labelled": int, how many images have a label}. Of
        classes that tie, the wrong ones count before the right ones.

    Raises:
        ValueError: counts or widths do not match, a label is outside of the classes, NaN, no image
            has a label, or every image both of two classes.

    Example:

    >>> keras_lit.evaluation.multi_label_accuracy(np.eye(3), [[0, 1], [0], []], np.eye(3), top=(1,))
    {'accuracy@1': 0.5, 'labelled': 2}

    Reference: Beyer et al., "Are we done with ImageNet?" (arXiv 2006.07159); LiT, Table 1.
    """
    images, weights = _check_images_and_weights(image_embeddings, weights)
    if len(labels) != len(images):
        raise ValueError(
            f"`labels` should hold a list for each of the {len(images)} images. Received: "
            f"{len(labels)}."
        )
    lists = [_distinct(row, i) for i, row in enumerate(labels)]
    lists = [row[row >= 0] if isinstance(labels, np.ndarray) else row for row in lists]
    flat = np.concatenate(lists)
    if not len(flat):
        raise ValueError("`labels` should hold at least one label. Received none for any image.")
    class_labels(flat, len(flat), len(weights), "labels")
    if len(weights) == 2 and len(flat) == 2 * len(lists):
        raise ValueError(
            "`labels` should tell two classes apart. Received both for every image. Of 0 or 1 for "
            "each class pass `[np.flatnonzero(row) for row in labels]`."
        )
    ranks = np.zeros(len(images), int)
    for rows, scores in _tiles(images, weights):
        right = np.zeros(scores.shape, bool)
        for mark, row in zip(right, lists[rows], strict=True):
            mark[row] = True
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = ((scores >= best - EPSILON) & ~right).sum(axis=1)
    ranks = ranks[[len(row) > 0 for row in lists]]
    return {**_top_accuracies(ranks, top, len(weights)), "labelled": len(ranks)}


def _distinct(labels: Sequence[int] | np.ndarray, image: int) -> np.ndarray:
    """The labels of an image, and -1, as int64."""
    row = np.asarray(labels).ravel()
    known = row[row != -1]
    if row.size and (row.dtype.kind not in "iu" or len(np.unique(known)) < len(known)):
        raise ValueError(
            "`labels` should list for each image its labels, different integers. Received for "
            f"image {image}: {row[:10].tolist()}. Of 0 or 1 for each class pass "
            "`[np.flatnonzero(row) for row in labels]`."
        )
    return row.astype("int64")


class Confusion(NamedTuple):
    """How many images of a class were taken for another; both are labels."""

    label: int
    predicted: int
    count: int  # type: ignore[assignment]  # It hides that of a tuple.
    fraction: float  # Of the images with this label.


def zero_shot_confusions(
    image_embeddings: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray,
    count: int = 20,
    classes: Sequence[int] | np.ndarray | None = None,
) -> list[Confusion]:
    """The pairs of classes that are confused most often.

    Args:
        image_embeddings: as for `zero_shot_accuracy`, and so are `labels`, `weights`, `classes`.
        labels: [images] int array.
        weights: [classes, dim] float array.
        count: int, how many pairs to return at most.
        classes: optional [classes] int array.

    Returns:
        Tuples with `.label`, `.predicted`, `.count` and `.fraction` (of the images with this
        label), the most frequent first.

    Raises:
        ValueError: as `zero_shot_accuracy`.

    Example:

    >>> keras_lit.evaluation.zero_shot_confusions(np.eye(2), [0, 0], np.eye(2))
    [Confusion(label=0, predicted=1, count=1, fraction=0.5)]
    """
    labels, ranks, rivals = _ranks_and_rivals(image_embeddings, labels, weights, classes)
    wrong = ranks > 0
    pairs = collections.Counter(zip(labels[wrong].tolist(), rivals[wrong].tolist(), strict=True))
    totals = np.bincount(labels)
    names = np.arange(len(weights)) if classes is None else np.asarray(classes)
    worst = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [
        Confusion(int(names[label]), int(names[other]), times, float(times / totals[label]))
        for (label, other), times in worst
    ]


def check_prompts(class_names: Sequence[str], templates: Sequence[str]) -> None:
    """Raises ValueError unless there are class names, and templates with one slot each."""
    _check_strings(class_names, "class_names")
    _check_strings(templates, "templates")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"A template should have one slot {{}} for the class name. Received: {template!r}."
            )


def _say_what_is_equal(class_names: Sequence[str], weights: np.ndarray) -> None:
    names = list(class_names)
    counts = collections.Counter(names)
    equal = [name for name, count in counts.items() if count > 1]
    if equal:
        rows = [i for i, name in enumerate(names) if name == equal[0]]
        what = f"{len(equal)} class names occur more than once, the first is {equal[0]!r} in the"
        what += f" rows {rows}. Classes of one name tie"
    elif alike := _neighbours(weights):
        first, second = alike[0]
        what = f"{len(alike)} class names have the embedding of another, first {names[first]!r} and"
        what += f" {names[second]!r}: the tokenizer does not tell them apart, by their case, as "
        what += "unknown words, or as they are cut off. Such classes tie"
    else:
        return
    warnings.warn(
        f"{what}, and ties count as wrong: the accuracy of these classes is 0, where argmax (of "
        "CLIP_benchmark, say) gives all of their images to the first. Give each class another "
        "name.",
        stacklevel=3,
    )


def _neighbours(weights: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of equal rows (all but rounding), which are neighbours in order of any projection."""
    order = np.argsort(weights @ np.linspace(1, 2, weights.shape[1], dtype=weights.dtype))
    near = np.abs(np.diff(weights[order], axis=0)).max(axis=1) < EPSILON
    pairs = order[:-1][near], order[1:][near]
    return sorted((int(min(x)), int(max(x))) for x in zip(*pairs, strict=True))


def _check_strings(values: Sequence[str], name: str) -> None:
    if isinstance(values, Mapping):
        raise ValueError(
            f"`{name}` should be a list. Received a dict. Of {{label: name}} pass the names in the "
            "order of the labels; of prompts for each class the means are weights: "
            "`np.stack([model.encode_text(x).mean(axis=0) for x in prompts.values()])`."
        )
    if isinstance(values, str) or not hasattr(values, "__getitem__") or not len(values):
        raise ValueError(
            f"`{name}` should be a list: there is at least one class name and one template. "
            f"Received: {values!r}."
        )
    bad = [value for value in values if not (isinstance(value, str) and value.strip())]
    if bad:
        raise ValueError(f"`{name}` should be strings that are not empty. Received: {bad[0]!r}.")
    if not all(map(is_utf8, values)):
        raise ValueError(
            f"`{name}` should be Unicode. Received: {next(x for x in values if not is_utf8(x))!r}. "
            "Read the file that they come from in its own `encoding`."
        )


def _check_images_and_weights(
    image_embeddings: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32; raises ValueError for bad shapes, NaN, and widths that do not match."""
    images = unit_rows(image_embeddings, "image_embeddings")
    weights = finite_rows(weights, "weights")
    check_same_width(images, weights, "Image embeddings and weights")
    return images, weights


def _top_accuracies(ranks: np.ndarray, top: Sequence[int], classes: int) -> dict[str, float]:
    """{"accuracy@k": the part of the ranks (from 0) below k}."""
    checks.check_counts(top, "top")
    return {f"accuracy@{k}": float(np.mean(ranks < k)) for k in top if k <= classes}


def _tiles(images: np.ndarray, weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (slice of images, their scores [rows, classes]) with bounded memory."""
    step = max(1, _TILE_ELEMENTS // len(weights))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        yield rows, images[rows] @ weights.T


def _ranks_and_rivals(
    image_embeddings: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray,
    classes: Sequence[int] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image, checked: its row of `weights`, that row's rank (from 0), the best other."""
    images, weights = _check_images_and_weights(image_embeddings, weights)
    labels = _positions(labels, len(images), len(weights), classes)
    ranks, rivals = np.zeros(len(images), int), np.zeros(len(images), int)
    for rows, scores in _tiles(images, weights):
        own = np.arange(len(scores)), labels[rows]
        right = scores[own][:, np.newaxis]
        scores[own] = -np.inf
        ranks[rows] = (scores >= right - EPSILON).sum(axis=1)
        rivals[rows] = scores.argmax(axis=1)
    return labels, ranks, rivals


def _positions(
    labels: Sequence[int] | np.ndarray,
    images: int,
    count: int,
    classes: Sequence[int] | np.ndarray | None,
) -> np.ndarray:
    """The row of `weights` of each image's class."""
    if classes is None:
        return class_labels(labels, images, count, "labels")
    classes = np.asarray(classes)
    if (
        classes.shape != (count,)
        or len({*classes.tolist()}) != count
        or classes.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"`classes` should hold for each of the {count} rows of `weights` its label, each "
            f"another integer. Received: {classes.dtype} of shape {classes.shape}, "
            f"{len({*classes.ravel().tolist()})} of them different."
        )
    labels = class_labels(labels, images, max(classes) + 1, "labels")
    missing = np.setdiff1d(labels, classes)
    if len(missing):
        raise ValueError(
            f"`labels` should be among `classes`. Received {len(missing)} that are not: "
            f"{missing[:5].tolist()}. Leave these images out, or name their classes too."
        )
    order = np.argsort(classes)
    return order[np.searchsorted(classes, labels, sorter=order)]


def _unit(rows: np.ndarray) -> np.ndarray:
    """Unit-length rows, in float32 from float32."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError(
            "The prompts' embeddings (and their averages) should be finite and not zero. Received "
            "NaN, infinite values or zeros from `encode_text`."
        )
    return rows / lengths

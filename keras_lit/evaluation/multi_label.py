"""Zero-shot classification of images with several right labels: the ReaL rule."""

from collections.abc import Sequence

import numpy as np

from keras_lit.evaluation import zero_shot
from keras_lit.evaluation.rows import EPSILON


def multi_label_accuracy(
    image_embeddings: np.ndarray,
    labels: Sequence[Sequence[int]] | np.ndarray,
    weights: np.ndarray,
    top: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """The part of the labelled images for which one of their classes is among the k nearest.

    Args:
        image_embeddings: [images, dim] float array of unit-length rows; others are normalised, with
            a warning.
        labels: for each image its labels in [0, classes): a list of lists, or an [images, most] int
            array whose rows end with -1. An image without a label is left out, as ReaL does.
        weights: [classes, dim] float array, from `zero_shot_weights`.
        top: the k to report; those above the number of classes are left out.

    Returns:
        {"accuracy@1": float in 0..1, ..., "labelled": int, how many images have a label}. Of
        classes that tie, the wrong ones count before the right ones.

    Raises:
        ValueError: counts or widths do not match, a label is outside of the classes, NaN, or no
            image has a label.

    Example:

    >>> keras_lit.evaluation.multi_label_accuracy(np.eye(3), [[0, 1], [0], []], np.eye(3), top=(1,))
    {'accuracy@1': 0.5, 'labelled': 2}

    Reference: Beyer et al., "Are we done with ImageNet?" (arXiv 2006.07159); LiT, Table 1.
    """
    images, weights = zero_shot.check_images_and_weights(image_embeddings, weights)
    if len(labels) != len(images):
        raise ValueError(
            f"`labels` should hold a list for each of the {len(images)} images. Received: "
            f"{len(labels)}."
        )
    lists = [np.asarray(row, "int64").ravel() for row in labels]
    lists = [row[row >= 0] if isinstance(labels, np.ndarray) else row for row in lists]
    counts = np.array([len(row) for row in lists])
    flat = np.concatenate(lists)
    if not len(flat):
        raise ValueError("`labels` should hold at least one label. Received none for any image.")
    if flat.min() < 0 or flat.max() >= len(weights):
        raise ValueError(
            f"`labels` should be in [0, {len(weights)}), the classes. Received: from {flat.min()} "
            f"to {flat.max()}."
        )
    found = []
    for rows, scores in zero_shot.tiles(images, weights):
        right = np.zeros(scores.shape, bool)
        for mark, row in zip(right, lists[rows], strict=True):
            mark[row] = True
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found.append(((scores >= best - EPSILON) & ~right).sum(axis=1))
    ranks = np.concatenate(found)[counts > 0]
    return {**zero_shot.top_accuracies(ranks, top, len(weights)), "labelled": len(ranks)}

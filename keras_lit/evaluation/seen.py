"""Evaluation with and without the images that also occur in the training set."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lit.data import duplicates
from keras_lit.evaluation.encoded import Images


def seen_in_training(images: Images, training: Any, max_distance: int = 32) -> np.ndarray:
    """The images of an evaluation that a model has seen in training, or near-duplicates of them.

    Args:
        images: the `Images` to evaluate on (of `ImagesAndTexts`: its `images`), not features.
        training: the training images: an unbatched tf.data.Dataset of images or of pairs with an
            "image", or any iterable of encoded images or uint8 pixels.
        max_distance: int, by how many of 256 bits of the perceptual hash they may differ.

    Returns:
        Ascending rows of `images`, for `classify(..., duplicates=...)` and `retrieve`.

    Raises:
        ImportError: the package ImageHash is missing.

    Example:

    >>> images = keras_lit.evaluation.Images(test)  # doctest: +SKIP
    >>> seen = keras_lit.evaluation.seen_in_training(images, train)  # doctest: +SKIP
    >>> keras_lit.evaluation.classify(model, images, names, duplicates=seen)  # doctest: +SKIP

    Reference: the LiT paper, section 5.5 and Table 5.
    """
    hashes = duplicates.perceptual_hashes(images.rows())
    matches = duplicates.match_hashes(
        hashes, duplicates.perceptual_hashes(training), max_distance=max_distance
    )
    return np.unique(matches.queries)


def with_and_without(
    evaluate: Callable[[np.ndarray], dict[str, float]], images: int, duplicates: Any
) -> dict[str, float]:
    """The metrics of all images, and where there are duplicates those of the others too.

    Args:
        evaluate: from a [images] bool array, which of them to evaluate on, to the metrics.
        images: int, how many there are.
        duplicates: the rows of the images to do without, or a [images] bool array that marks them;
            None for the plain metrics.

    Returns:
        The metrics; with duplicates also each as "..._without_duplicates" and "duplicates", how
        many there are.

    Raises:
        ValueError: a row outside of the images, a mask of another length, or nothing but
            duplicates.
    """
    metrics = evaluate(np.ones(images, bool))
    if duplicates is None:
        return metrics
    unseen = ~_mask(duplicates, images)
    if not unseen.any():
        raise ValueError(
            f"All {images} images are duplicates, so that nothing is left to evaluate."
        )
    others = {f"{name}_without_duplicates": value for name, value in evaluate(unseen).items()}
    return {**metrics, **others, "duplicates": int(images - unseen.sum())}


def _mask(duplicates: Any, images: int) -> np.ndarray:
    rows = np.asarray(duplicates)
    if rows.dtype == bool:
        if rows.shape != (images,):
            raise ValueError(
                f"A mask of duplicates should have shape ({images},). Received: {rows.shape}."
            )
        return rows
    rows = rows.astype("int64").ravel()
    if rows.size and not (rows.min() >= 0 and rows.max() < images):
        raise ValueError(
            f"`duplicates` should hold rows in [0, {images}), the images. Received: from "
            f"{rows.min()} to {rows.max()}."
        )
    mask = np.zeros(images, bool)
    mask[rows] = True
    return mask

"""Zero-shot classification: class names in prompts become the weights of a classifier."""

from collections.abc import Callable, Sequence

import keras
import numpy as np


def zero_shot_weights(
    encode_text: Callable[[list[str]], np.ndarray],
    class_names: Sequence[str],
    templates: Sequence[str] = ("{}",),
) -> np.ndarray:
    """The embedding of each class: its prompts' embeddings, averaged and made unit length.

    Args:
        encode_text: strings [n] -> [n, dim] unit-length rows, for example `model.encode_text`.
        class_names: the names of the classes.
        templates: prompts with one `{}` for the name, for example "a photo of a {}.".

    Returns:
        [classes, dim] float32 array of unit-length rows.

    Raises:
        ValueError: no classes, no templates, or a template without a slot.

    Example:

    >>> weights = keras_lit.evaluation.zero_shot_weights(
    ...     lambda texts: np.eye(3)[[len(text) % 3 for text in texts]], ["cat", "horse"])
    >>> weights.shape
    (2, 3)

    Reference: the LiT paper, Appendix I.1 (CLIP's prompt ensembling).
    """
    if not len(class_names) or not len(templates):
        raise ValueError(
            "There should be at least one class name and one template. Received: "
            f"{len(class_names)} and {len(templates)}."
        )
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"A template should have one slot {{}} for the class name. Received: {template!r}."
            )
    prompts = [template.format(name) for name in class_names for template in templates]
    embeddings = np.asarray(encode_text(prompts), "float32")
    mean = (
        keras.utils.normalize(embeddings).reshape(len(class_names), len(templates), -1).mean(axis=1)
    )
    return keras.utils.normalize(mean)


def zero_shot_accuracy(
    image_embeddings: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray,
    top: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """The part of the images whose class is among the k with the nearest weights.

    Args:
        image_embeddings: [images, dim] float array.
        labels: [images] int array in [0, classes).
        weights: [classes, dim] float array, from `zero_shot_weights`.
        top: the k to report; those above the number of classes are left out.

    Returns:
        {"accuracy@1": float in 0..1, "accuracy@5": ...}. Of classes that tie, the wrong ones count
        before the right one.

    Raises:
        ValueError: counts do not match, or a label is outside of the classes.

    Example:

    >>> keras_lit.evaluation.zero_shot_accuracy(np.eye(2), [0, 0], np.eye(2), top=(1,))
    {'accuracy@1': 0.5}
    """
    labels = np.asarray(labels)
    if labels.shape != (len(image_embeddings),) or len(labels) == 0:
        raise ValueError(
            f"There should be one label an image. Received: {len(image_embeddings)} images and "
            f"labels of shape {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= len(weights):
        raise ValueError(
            f"Labels should be in [0, {len(weights)}), the classes. Received: from {labels.min()} "
            f"to {labels.max()}."
        )
    scores = np.asarray(image_embeddings, "float32") @ np.asarray(weights, "float32").T
    own = scores[np.arange(len(labels)), labels][:, None]
    rank = (scores >= own).sum(axis=1) - 1
    return {f"accuracy@{k}": float(np.mean(rank < k)) for k in top if k <= len(weights)}

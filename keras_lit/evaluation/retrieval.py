"""Text-image retrieval."""

from collections.abc import Sequence

import numpy as np

from keras_lit import checks

# Rows of the similarity matrix that exist at one time, times its columns: 64 MB in float32.
_TILE_ELEMENTS = 2**24


def retrieval_recall(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_index: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    image_groups: np.ndarray | None = None,
) -> dict[str, float]:
    """Recall@k both ways: how often a right answer is among the k nearest.

    Image to text: the part of the images for which one of their own texts is among the k nearest
    texts. Text to image: the part of the texts whose image is among the k nearest images. Wrong
    answers that are as near as the best right one count before it.

    Args:
        image_embeddings: [images, dim] float array of unit-length rows.
        text_embeddings: [texts, dim] float array of unit-length rows.
        image_index: [texts] int array, `image_index[j]` is the row of text j's image. An image may
            have any number of texts; one that has none is left out of image to text.
        ks: the k to report.
        image_groups: optional [images] int array. Images of the same group are equally right, for
            example those with the same caption; and so are their texts.

    Returns:
        {"image_to_text_recall@1": float in 0..1, ..., "text_to_image_recall@1": ...}.

    Raises:
        ValueError: counts or widths do not match, an index is out of range, NaN.

    Example:

    >>> embeddings = np.eye(3, dtype="float32")
    >>> keras_lit.evaluation.retrieval_recall(embeddings, embeddings, [0, 1, 1], ks=(1,))
    {'image_to_text_recall@1': 1.0, 'text_to_image_recall@1': 0.666...}

    Reference: the LiT paper, section 4.1 and Appendix I.3.
    """
    images, texts = _finite(image_embeddings, "image"), _finite(text_embeddings, "text")
    index = np.asarray(image_index)
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            "Image and text embeddings should have the same width. Received: "
            f"{images.shape} and {texts.shape}."
        )
    if index.shape != (len(texts),) or not ((index >= 0) & (index < len(images))).all():
        raise ValueError(
            f"`image_index` should hold for each of the {len(texts)} texts the row of its image, "
            f"in [0, {len(images)}). Received shape {index.shape}, from {index.min(initial=0)} to "
            f"{index.max(initial=0)}."
        )
    for k in ks:
        checks.check_positive(k, "ks")
    groups = np.arange(len(images)) if image_groups is None else np.asarray(image_groups)
    if groups.shape != (len(images),):
        raise ValueError(
            f"`image_groups` should have shape ({len(images)},). Received: {groups.shape}."
        )
    ranks = {
        "image_to_text": _ranks(images, texts, groups, groups[index]),
        "text_to_image": _ranks(texts, images, groups[index], groups),
    }
    return {
        f"{way}_recall@{k}": float(np.mean(values < k)) for way, values in ranks.items() for k in ks
    }


def _ranks(
    queries: np.ndarray, answers: np.ndarray, query_groups: np.ndarray, answer_groups: np.ndarray
) -> np.ndarray:
    """For each query that has a right answer the number of wrong ones that come before it."""
    ranks = []
    tile = max(1, _TILE_ELEMENTS // len(answers))
    for start in range(0, len(queries), tile):
        similarities = queries[start : start + tile] @ answers.T
        right = query_groups[start : start + tile, None] == answer_groups
        best = np.where(right, similarities, -np.inf).max(axis=1, keepdims=True)
        before = ((similarities >= best) & ~right).sum(axis=1)
        ranks.append(before[right.any(axis=1)])
    return np.concatenate(ranks)


def _finite(embeddings: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(embeddings, "float32")
    if array.ndim != 2 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"`{name}_embeddings` should be [{name}s, dim], at least one row, without NaN. "
            f"Received shape {array.shape}{'' if np.isfinite(array).all() else ' with NaN'}."
        )
    return array

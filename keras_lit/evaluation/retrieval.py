"""Text-image retrieval, in one language or in each of several."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.evaluation.rows import check_same_width, unit_rows
from keras_lit.losses.global_batch import EPSILON

# (images, texts) whose similarities exist at one time: 24 MB in float32, which the allocator keeps
# for the next ones; more than 32 it would get anew.
_TILE = (1024, 6144)
_RIGHT = 2**24  # Numbers of right answers (rows and similarities) at a time.


def retrieval_recall(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_index: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    image_groups: np.ndarray | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> dict[str, float]:
    """Recall@k and median rank both ways: how often a right answer is among the k nearest.

    Image to text: the part of the images for which one of their own texts is among the k nearest.
    Text to image: the part of the texts whose image is. Wrong answers that are as near as the best
    right one (to 1e-6) count before it. The similarities, in float32, exist a tile at a time.

    Args:
        image_embeddings: [images, dim] unit-length floats; others are normalised, with a warning.
        text_embeddings: [texts, dim] unit-length floats, as above.
        image_index: [texts] int array, `image_index[j]` is the row of text j's image. An image may
            have any number of texts; one that has none is left out of image to text.
        ks: the k to report.
        image_groups: optional [images] int array. Images of the same group are equally right, for
            example those with the same caption; and so are their texts.
        verbose: 0, 1 or "auto": a progress bar from 100 tiles of 2048 x 8192 on.

    Returns:
        {"image_to_text_recall@1": float in 0..1, ..., "image_to_text_median_rank": float from 1,
        "text_to_image_recall@1": ..., "text_to_image_median_rank": ...}.

    Raises:
        ValueError: counts or widths do not match, an index is out of range, NaN, a row of zeros.

    Example:

    >>> embeddings = np.eye(3, dtype="float32")
    >>> result = keras_lit.evaluation.retrieval_recall(embeddings, embeddings, [0, 1, 1], ks=(1,))
    >>> result["image_to_text_recall@1"], result["text_to_image_recall@1"]
    (1.0, 0.666...)

    Reference: the LiT paper, section 4.1 and Appendix I.3.
    """
    images = unit_rows(image_embeddings, "image_embeddings")
    texts = unit_rows(text_embeddings, "text_embeddings")
    check_same_width(images, texts, "Image and text embeddings")
    index = np.asarray(image_index)
    is_int = index.dtype.kind in "iu"
    if index.shape != (len(texts),) or not (
        is_int and 0 <= index.min() <= index.max() < len(images)
    ):
        received = f", from {index.min(initial=0)} to {index.max(initial=0)}" if is_int else ""
        raise ValueError(
            f"`image_index` should hold for each of the {len(texts)} texts the row of its image, "
            f"in [0, {len(images)}). Received {index.dtype} of shape {index.shape}{received}."
        )
    checks.check_counts(ks, "ks")
    groups = np.arange(len(images)) if image_groups is None else np.asarray(image_groups)
    if groups.shape != (len(images),):
        raise ValueError(
            f"`image_groups` should have shape ({len(images)},). Received: {groups.shape}."
        )
    # `np.unique` takes all NaN for one group.
    gaps = [i for i, group in enumerate(groups.tolist()) if group is None or group != group]
    if gaps:
        raise ValueError(
            "`image_groups` should name a group for each image; give one that has none a group of "
            f"its own. Received: {groups[gaps[0]]} for image {gaps[0]}."
        )
    groups = np.unique(groups, return_inverse=True)[1]
    found = _wrong_before_right(images, texts, groups, groups[index], verbose)
    metrics: dict[str, float] = {}
    for way, before in zip(("image_to_text", "text_to_image"), found, strict=True):
        metrics |= {f"{way}_recall@{k}": float(np.mean(before < k)) for k in ks}
        metrics[f"{way}_median_rank"] = float(np.median(before) + 1)
    return metrics


def recall_by_language(
    encode_text: Callable[[list[str]], np.ndarray],
    image_embeddings: np.ndarray,
    captions: Sequence[Mapping[str, str]],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
    """Recall@k both ways among the images that have a caption in a language, for each language.

    Images with the same caption in that language are equally right.

    Args:
        encode_text: from a list of n strings to [n, dim] unit-length rows: `LiT.encode_text`.
        image_embeddings: [images, dim] float array of unit-length rows.
        captions: for each image {language: caption}.
        ks: the k to report.

    Returns:
        {language: {"images": their number, "image_to_text_recall@1": ..., ...}}, by name.

    Raises:
        ValueError: the number of captions is not that of the images.

    Example:

    >>> eye = np.eye(2)
    >>> encode = lambda texts: eye[[int("cat" in text) for text in texts]]
    >>> captions = [{"en": "a dog", "fr": "un chien"}, {"en": "a cat"}]
    >>> keras_lit.evaluation.recall_by_language(encode, eye, captions, ks=(1,))["fr"]["images"]
    1

    Reference: the LiT paper, section 5.7 and Appendix J.
    """
    if len(image_embeddings) != len(captions):
        raise ValueError(
            "`captions` should hold one {language: caption} for each image. Received: "
            f"{len(captions)} for {len(image_embeddings)} images."
        )
    found = {}
    for language in sorted({name for texts in captions for name in texts}):
        rows = [i for i, texts in enumerate(captions) if language in texts]
        texts = [captions[i][language] for i in rows]
        groups = np.unique(texts, return_inverse=True)[1]
        recalls = retrieval_recall(
            image_embeddings[rows], encode_text(texts), np.arange(len(rows)), ks, groups
        )
        found[language] = {"images": len(rows), **recalls}
    return found


def _wrong_before_right(
    images: np.ndarray,
    texts: np.ndarray,
    image_groups: np.ndarray,
    text_groups: np.ndarray,
    verbose: int | Literal["auto"],
) -> tuple[np.ndarray, np.ndarray]:
    """For images, and texts, with a right answer: how many wrong answers come before it.

    Rows are walked in the order of their groups, so that right answers lie in few tiles.
    """
    orders = [np.argsort(groups, kind="stable") for groups in (image_groups, text_groups)]
    image_groups, text_groups = image_groups[orders[0]], text_groups[orders[1]]
    bounds = _best_right(images, texts, image_groups, text_groups, orders)
    counts = [np.zeros(len(rows), "int64") for rows in (images, texts)]
    starts = [range(0, len(rows), tile) for rows, tile in zip((images, texts), _TILE, strict=True)]
    tiles = len(starts[0]) * len(starts[1])
    verbose = tiles >= 100 if verbose == "auto" else verbose
    progress = keras.utils.Progbar(tiles, verbose=int(verbose), unit_name="tile")
    threads = os.cpu_count() or 1

    def count(tile: np.ndarray, of_images: slice, of_texts: slice) -> np.ndarray:
        """Counts some rows of a tile, all of its columns."""
        rows, columns = image_groups[of_images], text_groups[of_texts]
        if rows[0] <= columns[-1] and columns[0] <= rows[-1]:
            tile = tile.copy()  # A tensor's memory is read-only.
            tile[rows[:, np.newaxis] == columns] = -np.inf
        counts[0][of_images] += _count_reached(tile, bounds[0][of_images, np.newaxis], 1)
        return _count_reached(tile, bounds[1][of_texts], 0)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool, tf.device("CPU"):
        for j in starts[1]:
            of_texts = slice(j, j + _TILE[1])
            text_tile = tf.constant(texts[orders[1][of_texts]])
            for i in starts[0]:
                image_tile = tf.constant(images[orders[0][i : i + _TILE[0]]])
                tile = np.asarray(tf.linalg.matmul(image_tile, text_tile, transpose_b=True))
                edges = np.unique(np.linspace(0, len(tile), threads + 1, dtype=int))
                parts = [
                    pool.submit(count, tile[k:end], slice(i + k, i + end), of_texts)
                    for k, end in itertools.pairwise(edges)
                ]
                counts[1][of_texts] += sum(part.result() for part in parts)
                progress.add(1)
    return counts[0][np.isfinite(bounds[0])], counts[1][np.isfinite(bounds[1])]


def _best_right(
    images: np.ndarray,
    texts: np.ndarray,
    image_groups: np.ndarray,
    text_groups: np.ndarray,
    orders: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The similarity of the best right answer, less epsilon; infinite where there is none."""
    best = [np.full(len(groups), -np.inf, "float32") for groups in (image_groups, text_groups)]
    numbers = np.unique(text_groups)
    starts, sizes = [], []
    for groups in (image_groups, text_groups):
        starts.append(np.searchsorted(groups, numbers))
        sizes.append(np.searchsorted(groups, numbers, "right") - starts[-1])
    # Groups of equal sizes at once; of what is more than a tile, some rows.
    for shape in np.unique(np.stack(sizes, axis=1), axis=0):
        if not shape.all():
            continue
        of_shape = np.flatnonzero((sizes[0] == shape[0]) & (sizes[1] == shape[1]))
        step = max(1, _RIGHT // (shape.sum() * images.shape[1] + shape.prod()))
        height = min(shape[0], max(1, _TILE[0] * _TILE[1] // shape[1]))
        for i in range(0, len(of_shape), step):
            found = of_shape[i : i + step, np.newaxis]
            columns = starts[1][found] + np.arange(shape[1])
            own_texts = texts[orders[1][columns]].transpose(0, 2, 1)
            for j in range(0, shape[0], height):
                rows = starts[0][found] + np.arange(j, min(j + height, shape[0]))
                right = images[orders[0][rows]] @ own_texts
                best[0][rows] = right.max(axis=2)
                best[1][columns] = np.maximum(best[1][columns], right.max(axis=1))
    of_images, of_texts = (np.where(np.isfinite(b), b - EPSILON, np.inf) for b in best)
    return of_images.astype("float32"), of_texts.astype("float32")


def _count_reached(similarities: np.ndarray, bounds: np.ndarray, axis: int) -> np.ndarray:
    """How many similarities [rows, columns] reach the bound, along an axis."""
    # `np.count_nonzero` along an axis would take several times as long.
    reached = similarities >= bounds
    if axis == 1:
        return np.array([np.count_nonzero(row) for row in reached], "int32")
    parts = [reached[i : i + 255].view("uint8") for i in range(0, len(reached), 255)]
    return np.sum([part.sum(axis=0, dtype="uint8") for part in parts], axis=0, dtype="int32")

"""Pictures for people to look at: the nearest of a few texts, and matrices of similarities."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_lit.evaluation.encoded import Images, ImagesAndTexts, is_row
from keras_lit.preprocessing import ImagePreprocessor

__all__ = ["heat_picture", "nearest_pictures", "sheet_picture", "thumbnails"]

GREEN, GREY = (34, 139, 60), (205, 205, 205)
# From dark blue over green to yellow, evenly bright.
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])


class Hit(NamedTuple):
    """A picture that was found: [size, size, 3] uint8 pixels, similarity, whether it is right."""

    pixels: np.ndarray
    similarity: float
    right: bool

    def __repr__(self) -> str:
        return f"Hit(similarity={self.similarity:.3f}, right={self.right})"


class SheetRow(NamedTuple):
    """A text and its nearest pictures, the nearest first."""

    query: str
    hits: list[Hit]


def nearest_pictures(
    queries: Sequence[str],
    query_embeddings: np.ndarray,
    image_embeddings: np.ndarray,
    right: np.ndarray,
    images: Images,
    count: int = 5,
    size: int = 96,
) -> list[SheetRow]:
    """A contact sheet: for each query its nearest pictures.

    Args:
        queries: texts.
        query_embeddings: [queries, dim] float array.
        image_embeddings: [images, dim] float array.
        right: [queries, images] bool array, which pictures are right.
        images: the `Images` that were embedded; they are read once more.
        count: int, how many pictures to show for a query.
        size: int, the side of a thumbnail in pixels.

    Returns:
        For each query `.query` and `.hits`, the nearest first, each with `.pixels` [size, size, 3]
        uint8, `.similarity` and `.right`. Empty where the data holds features in place of images.

    Example:

    >>> images = keras_lit.evaluation.Images({"image": np.zeros([2, 9, 9, 3], "uint8")}, ())
    >>> (row,) = keras_lit.evaluation.sheets.nearest_pictures(
    ...     ["a dog"], np.eye(2)[:1], np.eye(2), np.eye(2)[:1] == 1, images)
    >>> [hit.right for hit in row.hits]
    [True, False]
    """
    similarities = np.asarray(query_embeddings) @ np.asarray(image_embeddings).T
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    pictures = thumbnails(images, set(nearest.ravel().tolist()), size)
    if not pictures:
        return []
    return [
        SheetRow(query, [Hit(pictures[i], float(scores[i]), bool(marks[i])) for i in row.tolist()])
        for query, row, scores, marks in zip(queries, nearest, similarities, right, strict=True)
    ]


def nearest_to_texts(
    pairs: ImagesAndTexts,
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    groups: np.ndarray,
    count: int,
) -> list[SheetRow]:
    """The sheet of `count` texts drawn at random; images of one group are equally right."""
    shown = np.random.default_rng(0).permutation(len(text_embeddings))[:count]
    return nearest_pictures(
        [str(pairs.texts[i]) for i in shown],
        text_embeddings[shown],
        image_embeddings,
        groups == groups[pairs.image_index[shown]][:, np.newaxis],
        pairs.images,
    )


def thumbnails(images: Images, wanted: set[int], size: int = 96) -> dict[int, np.ndarray]:
    """{row: [size, size, 3] uint8 pixels}, whole pictures on white; none for features, and none,
    with a warning, where the rows of the latest embeddings come in another order.

    Args:
        images: the `Images` to read.
        wanted: their rows.
        size: int, pixels.

    Returns:
        A dict of arrays.

    Example:

    >>> images = keras_lit.evaluation.Images({"image": np.zeros([2, 9, 9, 3], "uint8")}, ())
    >>> keras_lit.evaluation.sheets.thumbnails(images, {1}, 32)[1].shape
    (32, 32, 3)
    """
    rows = images.rows()
    if "image" not in rows.element_spec:
        return {}
    preprocess = ImagePreprocessor(size, "pad", value_range="0..255", antialias=True)
    pictures = {}
    for i, row in enumerate(rows):
        if i not in wanted:
            continue
        if not is_row(images, i, row):
            warnings.warn(
                "No pictures are shown, for the data came in another order when they were read "
                "again. Leave `shuffle` out, or pass it `reshuffle_each_iteration=False`.",
                stacklevel=2,
            )
            return {}
        image = row["image"]
        if image.dtype.is_floating:
            low, high = tf.reduce_min(image), tf.reduce_max(image)
            image = tf.cast(255 * (image - low) / tf.maximum(high - low, 1e-6), tf.uint8)
        pictures[i] = preprocess(image).numpy().astype("uint8")
    return pictures


def sheet_picture(rows: Sequence[SheetRow], frame: int = 4) -> np.ndarray:
    """A contact sheet as one picture; right pictures have a green frame.

    Args:
        rows: what `nearest_pictures` returns, at least one.
        frame: int, pixels.

    Returns:
        [height, width, 3] uint8 array.

    Example:

    >>> hit = keras_lit.evaluation.sheets.Hit(np.zeros([32, 32, 3], "uint8"), 0.5, True)
    >>> row = keras_lit.evaluation.sheets.SheetRow("a dog", [hit, hit])
    >>> keras_lit.evaluation.sheets.sheet_picture([row], frame=4).shape
    (48, 96, 3)
    """

    def cell(hit: Hit) -> np.ndarray:
        height, width, _ = hit.pixels.shape
        pixels = np.full([height + 4 * frame, width + 4 * frame, 3], 255, "uint8")
        pixels[frame:-frame, frame:-frame] = GREEN if hit.right else GREY
        pixels[2 * frame : -2 * frame, 2 * frame : -2 * frame] = hit.pixels
        return pixels

    return np.concatenate([np.concatenate([cell(hit) for hit in row.hits], 1) for row in rows])


class HeatRow(NamedTuple):
    """A picture, [size, size, 3] uint8, and under each sentence where it is, in colours."""

    pixels: np.ndarray
    maps: list[tuple[str, np.ndarray]]


def heat_picture(pixels: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """A heat map over the picture that it is of, dark for its lowest, yellow for its highest value.

    Args:
        pixels: [height, width, 3] uint8 array, the picture as the tower saw it.
        heat_map: [rows, columns] float array.

    Returns:
        [height, width, 3] uint8 array.

    Example:

    >>> pixels = np.zeros([8, 8, 3], "uint8")
    >>> keras_lit.evaluation.sheets.heat_picture(pixels, np.eye(2)).shape
    (8, 8, 3)
    """
    large = tf.image.resize(heat_map[..., np.newaxis], pixels.shape[:2])[..., 0].numpy()
    grey = pixels.mean(axis=2, keepdims=True)
    return (0.35 * grey + 0.65 * _coloured(large)).round().astype("uint8")


def similarity_picture(similarities: np.ndarray, size: int = 384) -> np.ndarray:
    """[rows, columns] floats -> uint8 pixels [height, width, 3], dark for low, yellow for high.

    The longer side has `size` pixels at most, where there are fewer rows and columns.
    """
    pixels = _coloured(similarities)
    scale = max(1, size // max(similarities.shape))
    return np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1).round().astype("uint8")


def _coloured(values: np.ndarray) -> np.ndarray:
    """[rows, columns] floats -> colours [rows, columns, 3] in 0..255, float."""
    low, high = values.min(), values.max()
    position = (values - low) / max(high - low, 1e-6) * (len(_COLOURS) - 1)
    numbers = range(len(_COLOURS))
    return np.stack([np.interp(position, numbers, part) for part in _COLOURS.T], axis=-1)

"""Where in a picture a sentence is: the cosines of its patches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit.model import LiT
from keras_lit.towers import encoding, patches


def heat_maps(model: LiT, image: Any, sentences: Sequence[str] | np.ndarray) -> np.ndarray:
    """How similar the patches of a picture are to each of several sentences.

    Where nothing mixes the halves of "first_and_mean" (dino.txt's own head), the patches are
    compared with the second half of the texts' embeddings.

    Args:
        model: a `LiT` whose image tower has `patch_embeddings`.
        image: one image: a file name, encoded (bytes), pixels or a PIL image.
        sentences: strings, or [n, dim] float array or tensor of unit-length embeddings.

    Returns:
        [sentences, rows, columns] float32 array of cosines.

    Raises:
        ValueError: no sentences, embeddings of another width or that are not finite, several
            images, a pooling or head for which patches have no embeddings.

    Example:

    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 32, strides=32)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog", "a cat"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 16, 8, 1, 16, 2)
    >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer))
    >>> image = np.zeros([100, 80, 3], "uint8")
    >>> keras_lit.evaluation.heat_maps(model, image, ["a dog", "a cat"]).shape
    (2, 7, 7)

    Reference: dino.txt, Jose et al. 2025 (arXiv 2412.16334), section 3.
    """
    if isinstance(sentences, str):
        sentences = [sentences]
    texts = np.asarray(sentences) if hasattr(sentences, "__array__") else None
    if texts is None or not np.issubdtype(texts.dtype, np.floating):
        texts = model.encode_text(sentences, verbose=0)
    width = model.image_tower.embedding_dim
    if texts.ndim != 2 or texts.shape[1] != width or not len(texts) or not np.isfinite(texts).all():
        raise ValueError(
            f"`sentences` should be strings, or their embeddings: finite floats [n, {width}]. "
            f"Received: {texts.dtype} of shape {texts.shape}."
        )
    return maps_of(model, image, of_patches(model, texts))


def maps_of(model: LiT, image: Any, texts: np.ndarray) -> np.ndarray:
    """[n, rows, columns] cosines with the [n, dim] that `of_patches` gives."""
    embedded = model.encode_patches(image, verbose=0)
    if len(embedded) != 1:
        raise ValueError(f"Heat maps are of one image. Received: {len(embedded)}.")
    return np.einsum("hwd,nd->nhw", embedded[0, ..., patches.part(model.image_tower)], texts)


def of_patches(model: LiT, texts: np.ndarray) -> np.ndarray:
    """The part of text embeddings that patches are compared with, of unit length."""
    return encoding.unit_length(texts[:, patches.part(model.image_tower)]).numpy()


def pointing_accuracy(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """How often the maximum of a heat map lies on its object (the pointing game).

    Where several cells are the highest, the centres of all of them should be on it.

    Args:
        maps: [n, rows, columns] float array, one for each mask.
        masks: [n, height, width] array of bool, or of 0 and 1, where each object is; the maps are
            enlarged to this size, bilinearly.

    Returns:
        {"pointing_accuracy", "pointing_chance": that of a random place}.

    Raises:
        ValueError: not as many maps as masks, or none; an empty mask, or one of other values; maps
            that are not finite.

    Example:

    >>> masks = np.kron([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], np.ones([4, 4])) > 0
    >>> maps = np.array([[[0.9, 0.1], [0.2, 0.1]], [[0.9, 0.1], [0.2, 0.1]]])
    >>> keras_lit.evaluation.pointing_accuracy(maps, masks)
    {'pointing_accuracy': 0.5, 'pointing_chance': 0.25}

    Reference: Zhang et al. 2016 (arXiv 1608.00507), section 4.2.
    """
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or masks.ndim != 3 or not len(maps) or len(maps) != len(masks):
        raise ValueError(
            "There should be a mask [height, width] for each heat map [rows, columns]. Received: "
            f"{masks.shape} and {maps.shape}."
        )
    if not np.isfinite(maps).all() or not np.isin(masks, (0, 1)).all():
        raise ValueError("Heat maps should be finite, and masks of 0 and 1. Received other values.")
    masks = masks.astype(bool)
    if not (given := masks.any(axis=(1, 2))).all():
        raise ValueError(f"Masks should not be empty. Empty are: {np.flatnonzero(~given)[:10]}.")
    highest = enlarged(maps, masks.shape[1:]).reshape(len(maps), -1).argmax(axis=1)
    hits = masks.reshape(len(masks), -1)[np.arange(len(masks)), highest]
    ties = maps == maps.max(axis=(1, 2), keepdims=True)
    for i in np.flatnonzero(ties.sum(axis=(1, 2)) > 1):
        cells = (np.argwhere(ties[i]) + 0.5) * masks.shape[1:] / maps.shape[1:]
        hits[i] &= masks[i][tuple(cells.astype(int).T)].all()
    found = {"pointing_accuracy": hits.mean(), "pointing_chance": masks.mean(axis=(1, 2)).mean()}
    return {name: float(value) for name, value in found.items()}


def enlarged(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[n, rows, columns] -> [n, *size], bilinearly."""
    rows = tf.constant(maps, tf.float32)[..., tf.newaxis]
    return tf.image.resize(rows, tuple(size))[..., 0].numpy()

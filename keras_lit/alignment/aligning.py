"""From batches of pairs to heads: the towers run once over all of them."""

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, distribution
from keras_lit.alignment.choosing import Alignment, choose
from keras_lit.alignment.folds import Folds, total
from keras_lit.alignment.heads import Head, whitening
from keras_lit.alignment.moments import Moments
from keras_lit.backbones import ResidualHead, TokenHead
from keras_lit.towers import ImageTower, TextTower, encoding
from keras_lit.towers.base import Tower
from keras_lit.training import batches, pairs


def align(
    x: Any,
    image_tower: ImageTower,
    text_tower: TextTower,
    count: int,
    batch_size: int | None,
    verbose: int | Literal["auto"],
    **options: Any,
) -> Alignment:
    """`LiT.align` but for the temperature; `options` are those of `choose`."""
    towers = (image_tower, text_tower)
    for tower in towers:
        check_linear(tower, after_blocks=True)
        if isinstance(tower.head, ResidualHead | TokenHead) and options["method"] == "cca":
            options["dim"] = options["dim"] or tower.head.dim
    widths = image_width(image_tower), text_tower.feature_dim
    if isinstance(x, Folds):
        folds = x
        check_widths(folds, *widths)
    else:
        folds = Folds(*widths, count)
        gather(x, image_tower, text_tower, folds, options["method"], batch_size, verbose)
    found = choose(folds, verbose=verbose, **options)
    sides = np.split(total(folds.moments).variances, [widths[0]])
    penalties = (found.image_penalty, found.text_penalty or 0.0)
    for tower, head in zip(towers, found.heads, strict=True):
        _check_dim(tower, head.kernel.shape[1])  # Before one of them is set.
    for tower, head, penalty, variances in zip(towers, found.heads, penalties, sides, strict=True):
        set_head(tower, head, penalty * float(variances.mean()))
    return found


def whiten(
    tower: Tower,
    x: Any,
    penalty: float = 0.3,
    batch_size: int = 32,
    verbose: int | Literal["auto"] = "auto",
) -> None:
    """Gives a tower a head of one pass over its inputs alone: mean 0 and more even directions.

    Args:
        tower: an `ImageTower` or `TextTower`; it gets a linear head as wide as its features.
        x: images in any form that `LiT.encode_image` takes, or text as for `LiT.encode_text`.
        penalty: float, added to the variances in multiples of their mean.
        batch_size: int, how many to encode at a time (a dataset has its own batches).
        verbose: 0, 1 or "auto": a progress bar for more than 10 batches.

    Raises:
        ValueError: nothing to encode, or what the tower does not take; a penalty that is not
            positive; a tower with a head that is not linear.

    Example:

    >>> tower = keras_lit.ImageTower.from_features(8)
    >>> features = 5 + np.random.default_rng(0).normal(size=[500, 8]).astype("float32")
    >>> keras_lit.alignment.whiten(tower, features, verbose=0)
    >>> bool(np.abs(tower.project(features).numpy().mean(axis=0)).max() < 1e-4)
    True
    """
    checks.check_positive(penalty, "penalty")
    check_linear(tower)
    is_image = isinstance(tower, ImageTower)
    moments = Moments(tower.feature_dim)
    with tower.distribute_strategy.scope():
        data = (
            batches.of_images(x, tower, batch_size)
            if is_image
            else batches.of_text(x, tower, batch_size, locked=True)
        )
        function = encoding.function_for(tower, data, "features")
        for rows, _ in encoding.encode(function, data, verbose):
            moments.add(rows.astype("float32"))
        set_head(tower, whitening(moments, penalty))


def check_linear(tower: Tower, after_blocks: bool = False) -> None:
    """Raises ValueError for a tower whose head has no linear part to set.

    That of a `TokenHead` comes after its blocks, which not everyone runs.
    """
    head: Any = tower.head
    if head is None or isinstance(head, keras.layers.Dense | ResidualHead):
        return
    of_tokens = isinstance(head, TokenHead)
    if of_tokens and after_blocks and head.dense is not None:
        return
    remedy = "give it a linear one by `add_head(dim)`, a `keras_lit.backbones.ResidualHead`"
    if of_tokens and after_blocks:
        remedy = "make the tower anew with a `projection_dim`, the width of its linear layer"
    elif of_tokens:
        remedy = f'make the tower anew with `pooling`="{head.pooling}" and without `blocks`'
    raise ValueError(
        f"A head in closed form is linear. The {type(tower).__name__} has a head of its own, "
        f"{type(head).__name__}: {remedy}, or leave `align` out."
    )


def check_widths(folds: Folds, image_dim: int, text_dim: int) -> None:
    """Raises ValueError unless folds hold pairs, of features of these widths."""
    own = folds.moments[0]
    if (own.image_dim, own.text_dim) != (image_dim, text_dim):
        raise ValueError(
            f"`Folds` should be of the towers' features, {image_dim} and {text_dim} wide. "
            f"Received: {own.image_dim} and {own.text_dim}."
        )
    if not sum(moments.count for moments in folds.moments):
        raise ValueError(pairs.EMPTY)


def _check_dim(tower: Tower, dim: int) -> None:
    own = tower.head
    if isinstance(own, ResidualHead) and own.dim != dim:
        raise ValueError(
            f"The head in closed form is {dim} wide and the ResidualHead of the "
            f"{type(tower).__name__} {own.dim}. Give both towers a `ResidualHead({dim})`."
        )
    if isinstance(own, TokenHead) and own.dim != dim:
        raise ValueError(
            f"The head in closed form is {dim} wide and the TokenHead of the "
            f"{type(tower).__name__} {own.dim}. Leave `dim` out, or make the tower anew with "
            f"`projection_dim={dim}`."
        )


def set_head(tower: Tower, head: Head, noise_variance: float = 0.0) -> None:
    """Gives a tower this head; a linear head of its width keeps its place, a frozen one is so."""
    dim, own = head.kernel.shape[1], tower.head
    _check_dim(tower, dim)
    if isinstance(own, ResidualHead):
        own.start(*head, noise_variance)
        return
    if isinstance(own, TokenHead):
        own.dense.set_weights(head)  # type: ignore[union-attr]
        return
    # LoRA adds weights to a layer, and int8 the kernel's scale.
    if own is None or own.units != dim or own.bias is None or len(own.weights) != 2:
        tower.add_head(dim)
        tower.head.trainable = own is None or own.trainable
    tower.head.set_weights(head)


def gather(
    x: Any,
    image_tower: ImageTower,
    text_tower: TextTower,
    folds: Folds,
    method: str,
    batch_size: int | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> None:
    """Adds pairs, in any form that `fit` takes, to folds; with those of all workers."""
    data = batches.for_step(x, image_tower, text_tower, batch_size, text_locked=True, whole=True)
    if not isinstance(data, tf.data.Dataset):
        raise ValueError("Pass the pairs themselves rather than a distributed dataset.")
    count = int(data.cardinality())
    verbose = int(not 0 <= count <= 10) if verbose == "auto" else verbose
    progress = keras.utils.Progbar(count if count >= 0 else None, verbose=verbose)
    for batch in data:
        images = image_features(image_tower, batch)
        texts = text_features(text_tower, batch)
        folds.add(images, prepared(texts, method), groups_of(batch, text_tower), given_of(batch))
        progress.add(1)
    if distribution.has_workers():
        folds.join(distribution.arrays_of_workers)
    if not sum(moments.count for moments in folds.moments):
        raise ValueError(pairs.EMPTY)


def image_features(tower: ImageTower, batch: dict[str, tf.Tensor]) -> np.ndarray:
    """[n, width] float32: what enters the linear head."""
    features = batch.get("image_features")
    if features is None or tower._from_below(features):
        found = _features(tower, batch["image"] if features is None else features)
    else:
        found = features.numpy()
    if isinstance(tower.head, TokenHead):
        return np.asarray(tower.head.pooled(tf.constant(found)), "float32")
    return found


def image_width(tower: ImageTower) -> int:
    """That of `image_features`."""
    both = isinstance(tower.head, TokenHead) and tower.head.pooling == "first_and_mean"
    return tower.feature_dim * (2 if both else 1)


def text_features(tower: TextTower, batch: dict[str, tf.Tensor]) -> np.ndarray:
    """[n, feature_dim] float32, or of several captions [n, captions, feature_dim]."""
    if "text_features" in batch:
        return batch["text_features"].numpy()
    token_ids = batch["text"]
    found = _features(tower, tf.reshape(token_ids, [-1, token_ids.shape[-1]]))
    return found.reshape(*token_ids.shape[:-1], found.shape[-1])


def groups_of(batch: dict[str, tf.Tensor], text_tower: TextTower | None = None) -> np.ndarray:
    """The group of each pair: its "group", or else its first caption.

    Token ids want the tower: batches of one that ignores padding are as wide as their longest text.
    """
    if "group" in batch:
        return np.asarray(batch["group"])
    if pairs.CAPTION in batch:
        hashes = np.asarray(batch[pairs.CAPTION])
        return hashes if hashes.ndim == 1 else hashes[:, 0]
    captions = np.asarray(batch["text_features" if "text_features" in batch else "text"])
    captions = captions if captions.ndim == 2 else captions[:, 0]
    if "text_features" in batch or text_tower is None:
        return captions
    missing = text_tower.sequence_length - captions.shape[1]
    return np.pad(captions, [(0, 0), (0, missing)], constant_values=text_tower.pad_token_id)


def given_of(batch: dict[str, tf.Tensor]) -> np.ndarray | None:
    """[n, captions] bool: which captions are there."""
    mask = batch.get("mask")
    return None if mask is None else np.asarray(mask).reshape(len(mask), -1)


def prepared(texts: np.ndarray, method: str) -> np.ndarray:
    """Texts as the method wants them: a regression, to be compared by cosine, of unit length."""
    if method != "ridge":
        return texts
    return texts / np.maximum(np.linalg.norm(texts, axis=-1, keepdims=True), 1e-12)


def _features(tower: Any, inputs: tf.Tensor) -> np.ndarray:
    function = tower.inference("features", tower._from_below(inputs))
    return distribution.on_replicas(function, inputs).astype("float32")

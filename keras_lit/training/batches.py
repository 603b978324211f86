"""From lists, arrays, files and datasets to batches that are checked and ready for the towers."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import distribution
from keras_lit.towers import ImageTower, TextTower
from keras_lit.training import pairs
from keras_lit.training.pairs import Pairs

KEYS = (*pairs.IMAGE_KEYS, *pairs.TEXT_KEYS, "name", "image_tower")


def for_training(
    x: Any,
    image_tower: ImageTower,
    text_tower: TextTower,
    batch_size: int | None = None,
    training: bool = False,
    shuffle: bool = False,
    continue_data: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
) -> Any:
    """What `fit` and `evaluate` hand to Keras; anything but datasets and arrays as it is.

    Under a strategy a batch that the replicas do not divide is filled up with rows that the "mask"
    marks; `fit` takes that for the last batch only. `continue_data` is `ExactResume`'s.
    """
    x = _as_dataset(x, batch_size, shuffle)
    if not isinstance(x, tf.data.Dataset):
        return x
    pairs.check_spec(x.element_spec, image_tower, text_tower)
    if x.cardinality() == 0:
        raise ValueError(pairs.EMPTY)
    if not pairs.are_batched(x.element_spec):
        raise ValueError("The pairs should be batched, for example `pairs.batch(512)`.")
    replicas = distribution.replica_count()

    def ready(pair: Pairs) -> Pairs:
        result = pairs.preprocess(pair, image_tower, text_tower, training)
        if "mask" in pair and "text_mask" in result:
            result["text_mask"] &= pair["mask"][:, None]
        return {**result, **{name: pair[name] for name in ("mask",) if name in pair}}

    x = x.map(lambda pair: {name: pair[name] for name in KEYS if name in pair})
    x = x.enumerate().map(lambda i, pair: _check_size(i, pair, replicas if training else 1))
    if training and "image" in x.element_spec:
        x = pairs.with_seeds(x, distribution.agreed(pairs.draw_seed()))
    x = x.map(lambda pair: _fill_up(pair, replicas))
    own = distribution.is_part(x)
    x = distribution.own_rows(x) if own else x
    count = int(x.cardinality())
    x = x if continue_data is None else continue_data(x)
    return distribution.split_over_replicas(x, ready, count, own)


def of_images(images: Any, tower: ImageTower, batch_size: int) -> tf.data.Dataset:
    """Batches of [batch, height, width, 3] preprocessed images; see `LiT.encode_image`.

    Features [batch, feature_dim] stay what they are.
    """

    def prepare(batch: tf.Tensor, names: tf.Tensor | None = None) -> tf.Tensor:
        if batch.dtype.is_floating and batch.shape.rank == 2:
            pairs.check_features(batch, tower)
            return pairs.finite(tf.cast(batch, tf.float32), "image_features")
        pairs.check_image(batch, tower)
        if batch.dtype.is_floating:
            return pairs.finite(batch, "image")
        return tower.preprocessor(batch, names=names)

    batches = _raw_images(images, batch_size)
    return batches.map(prepare, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def of_text(text: Any, tower: TextTower, batch_size: int) -> tf.data.Dataset:
    """Batches of [batch, sequence_length] token ids; see `LiT.encode_text`."""

    def prepare(batch: tf.Tensor) -> tf.Tensor:
        pairs.check_text(batch, tower)
        token_ids = tower.preprocessor(batch) if batch.dtype == tf.string else batch
        return pairs.token_ids_in_range(tf.cast(token_ids, tf.int32), tower.vocabulary_size)

    text = [text] if isinstance(text, str | bytes) else text
    _check_some(text, "text")
    batches = tf.data.Dataset.from_tensor_slices(pairs.as_array(text)).batch(batch_size)
    return batches.map(prepare, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _as_dataset(x: Any, batch_size: int | None = None, shuffle: bool = False) -> Any:
    """Batches a dict of arrays; leaves everything else as it is."""
    if not isinstance(x, dict):
        if batch_size is not None:
            raise ValueError("`batch_size` goes with arrays. A dataset is batched by itself.")
        return x
    counts = {name: len(values) for name, values in x.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"There should be as many images as texts. Received: {counts}.")
    x = {name: pairs.as_array(values) for name, values in x.items()}
    dataset = tf.data.Dataset.from_tensor_slices(x)
    if shuffle:
        dataset = dataset.shuffle(len(dataset), seed=distribution.agreed(pairs.draw_seed()))
    return dataset.batch(batch_size or 32)


def _check_size(index: tf.Tensor, batch: Pairs, replicas: int) -> Pairs:
    """Fails when the first batch holds a single pair, or cannot be shared out evenly."""
    size = pairs.batch_size(batch)
    alone = (
        "A contrastive loss needs at least two pairs in a batch, since the others are the "
        "negatives. Received a batch of 1: use a larger batch."
    )
    uneven = (
        f"The global batch should be a multiple of the {replicas} replicas. Batch the pairs with "
        "such a number. Received a batch of:"
    )
    checks = [
        tf.debugging.Assert((index > 0) | (size > 1), [alone]),
        tf.debugging.Assert((index > 0) | (size % replicas == 0), [uneven, size]),
    ]
    with tf.control_dependencies(checks):
        return keras.tree.map_structure(tf.identity, batch)


def _fill_up(batch: Pairs, replicas: int) -> Pairs:
    """Repeats the first row until the replicas divide the batch; the "mask" tells which is real."""
    rows = next(iter(batch.values()))
    if replicas == 1 or (rows.shape[0] is not None and rows.shape[0] % replicas == 0):
        return batch
    size = tf.shape(rows)[0]
    index = tf.range(-(-size // replicas) * replicas)
    filled = {name: tf.gather(x, tf.where(index < size, index, 0)) for name, x in batch.items()}
    return {**filled, "mask": index < size}


def _raw_images(images: Any, batch_size: int) -> tf.data.Dataset:
    """Batches of images, or of (images, names) where names are known."""
    if isinstance(images, tf.data.Dataset):
        return images
    if isinstance(images, str | bytes | os.PathLike):
        images = [images]
    _check_some(images, "images")
    if isinstance(images, list | tuple):
        if all(isinstance(image, str | os.PathLike) for image in images):
            names = [os.fspath(image) for image in images]
            files = tf.data.Dataset.from_tensor_slices(names)
            return files.map(lambda name: (tf.io.read_file(name), name)).batch(batch_size)
        if not all(isinstance(image, bytes) for image in images):
            return _ragged_batches(images, batch_size)
    return tf.data.Dataset.from_tensor_slices(pairs.as_array(images)).batch(batch_size)


def _ragged_batches(images: Any, batch_size: int) -> tf.data.Dataset:
    """Batches of images of different sizes, as PNG, which loses nothing."""
    arrays = [np.asarray(image) for image in images]
    wrong = {
        f"{array.dtype} of shape {array.shape}"
        for array in arrays
        if array.dtype != np.uint8 or array.ndim != 3
    }
    if wrong:
        raise ValueError(
            "A list of images should hold file names, or encoded images as bytes, or uint8 arrays "
            f"[height, width, channels]. Received: {', '.join(sorted(wrong))}."
        )
    signature = tf.TensorSpec([None, None, None], tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: iter(arrays), output_signature=signature)
    cardinality = tf.data.experimental.assert_cardinality(len(arrays))
    return (
        dataset.apply(cardinality)
        .map(lambda x: tf.io.encode_png(x, compression=0))
        .batch(batch_size)
    )


def _check_some(values: Any, name: str) -> None:
    if len(values) == 0:
        raise ValueError(f"`{name}` should hold at least one. Received none.")

"""From lists, arrays, files and datasets to batches that are checked and ready for the towers."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import pairs
from keras_lit.pairs import Pairs
from keras_lit.towers import ImageTower, TextTower


def for_training(
    x: Any,
    image_tower: ImageTower,
    text_tower: TextTower,
    batch_size: int | None = None,
    training: bool = False,
    shuffle: bool = False,
) -> Any:
    """What `fit` and `evaluate` hand to Keras; anything but datasets and arrays as it is."""
    x = _as_dataset(x, batch_size, shuffle)
    if not isinstance(x, tf.data.Dataset):
        return x
    ready = pairs.preprocess_dataset(x, image_tower, text_tower, training)
    if ready.element_spec["text"].shape.rank != 2:
        raise ValueError("The pairs should be batched, for example `pairs.batch(512)`.")
    return _not_alone(ready).prefetch(tf.data.AUTOTUNE)


def of_images(images: Any, tower: ImageTower, batch_size: int) -> tf.data.Dataset:
    """Batches of [batch, height, width, 3] preprocessed images; see `LiT.encode_image`."""

    def prepare(batch: tf.Tensor, names: tf.Tensor | None = None) -> tf.Tensor:
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
        dataset = dataset.shuffle(len(dataset), seed=pairs.draw_seed())
    return dataset.batch(batch_size or 32)


def _not_alone(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes the dataset fail when its first batch holds a single pair."""

    def check(index: tf.Tensor, pair: Pairs) -> Pairs:
        several = tf.logical_or(index > 0, tf.shape(pair["text"])[0] > 1)
        message = (
            "A contrastive loss needs at least two pairs in a batch, since the others are the "
            "negatives. Received a batch of 1: use a larger batch."
        )
        with tf.control_dependencies([tf.debugging.Assert(several, [message])]):
            return keras.tree.map_structure(tf.identity, pair)

    return dataset.enumerate().map(check, num_parallel_calls=tf.data.AUTOTUNE)


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

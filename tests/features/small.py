"""A small locked tower and raw pairs, the same in every process."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import keras_lit
from keras_lit.preprocessing import ImagePreprocessor

COUNT, BATCH, SHARDS, DIM = 22, 4, 3, 6
# Six batches in three shards: two batches each, the last of two pairs.
SIZES = [8, 8, 6]


def make_tower(seed=1, strides=2, dtype=None, filters=DIM, preprocessor=None, **options):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input([8, 8, 3]),
        keras.layers.Conv2D(filters, 3, strides=strides, dtype=dtype),
        keras.layers.BatchNormalization(dtype=dtype),
    ]
    return keras_lit.ImageTower(
        keras.Sequential(layers), preprocessor=preprocessor or ImagePreprocessor(8), **options
    )


def make_pixels(count=COUNT):
    return np.random.default_rng(0).integers(0, 256, [count, 10, 12, 3]).astype("uint8")


def make_pairs(count=COUNT, bad=(), **fields):
    """Encoded images and captions; those in `bad` do not decode."""
    images = [tf.io.encode_png(pixels).numpy() for pixels in make_pixels(count)]
    for i in bad:
        images[i] = b"\x89PNG, but not really"
    text = [f"caption number {i}" for i in range(count)]
    return tf.data.Dataset.from_tensor_slices({"image": images, "text": text, **fields})


def expected_features(tower, count=COUNT):
    """One image at a time, eagerly."""
    return np.concatenate(
        [tower.features(tower.preprocessor(image[None])).numpy() for image in make_pixels(count)]
    )


def precompute(directory, tower=None, pairs=None, **options):
    options = {"batch_size": BATCH, "shards": SHARDS, "verbose": False, **options}
    return keras_lit.features.precompute(
        tower or make_tower(), pairs or make_pairs(), directory, **options
    )


def files(directory):
    """The content of every file, hidden ones included."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(pathlib.Path(directory).rglob("*"))
        if path.is_file()
    }

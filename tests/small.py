"""A small LiT and its pairs, a small locked tower and a cache of its features; replicas.

All are the same in every process.
"""

import functools
import pathlib

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

import keras_lit
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor

COLOURS = ["red", "green", "blue", "grey", "white", "black", "yellow"]
THINGS = ["balloon", "dog", "cat", "banana", "moon", "toucan"]

COUNT, BATCH, SHARDS, DIM = 22, 4, 3, 6
# Options of an ImagePreprocessor, and by how much another implementation's pixels may differ.
LEVELS_OF_PIXELS = [
    ({}, 0),
    ({"resize": "crop", "crop_fraction": 0.875, "exif_orientation": False}, 0),
    ({"resize": "pad", "background": 9, "antialias": True}, 1),
    ({"interpolation": "bicubic", "resize": "crop"}, 1),
]
# Six batches in three shards: two batches each, the last of two pairs.
SIZES = [8, 8, 6]


@functools.cache
def mirrored(replicas):
    """A strategy over logical CPU devices."""

    class Mirrored(tf.distribute.MirroredStrategy):
        # Strategies over other devices in the same process must not share their groups' keys.
        _collective_key_base = 1000 * replicas

    strategy = Mirrored([f"CPU:{i}" for i in range(replicas)])
    assert strategy.num_replicas_in_sync == replicas
    return strategy


def make_pairs(count):
    """Unbatched pixels and captions."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [count, 12, 14, 3]).astype("uint8")
    captions = [
        f"a {COLOURS[i % 7]} {THINGS[i % 6]} and a {COLOURS[i // 7 % 7]} one" for i in range(count)
    ]
    return tf.data.Dataset.from_tensor_slices({"image": images, "text": captions})


@functools.cache
def tokenizer():
    """Of the letters of `make_pairs`: what `train_wordpiece` finds, and takes a second for."""
    letters = sorted(set("".join([*COLOURS, *THINGS, "and"])))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    return keras_nlp.tokenizers.BertTokenizer(vocabulary, lowercase=True, strip_accents=True)


@functools.cache
def text_preprocessor():
    """One for all models: each new one traces its tokenizer."""
    return TextPreprocessor(tokenizer(), 10)


def make_model(tuning="Lu", dropout=0.0, batch_norm=None, **options):
    """A head on the image tower and random crops; batch norm by default where it is locked."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3, strides=2)]
    if batch_norm or (batch_norm is None and tuning[0] == "L"):
        layers.append(keras.layers.BatchNormalization())
    preprocessor = ImagePreprocessor(8, random_crop=(0.3, 1.0), random_flip=True)
    image_tower = keras_lit.ImageTower(
        keras.Sequential(layers), projection_dim=16, preprocessor=preprocessor
    )
    backbone = keras_lit.backbones.TextTransformer(
        tokenizer().vocabulary_size(), 10, 16, 1, 32, 4, dropout=dropout
    )
    text_tower = keras_lit.TextTower(backbone, preprocessor=text_preprocessor())
    return keras_lit.LiT(image_tower, text_tower, tuning, **options)


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


def encoded_pairs(count=COUNT, bad=(), **fields):
    """PNGs of `make_pixels` and captions, unbatched; those in `bad` do not decode."""
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
        tower or make_tower(), pairs or encoded_pairs(), directory, **options
    )


def files(directory):
    """The content of every file, hidden ones included."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(pathlib.Path(directory).rglob("*"))
        if path.is_file()
    }

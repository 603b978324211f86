"""A small LiT and its pairs, the same in every process; replicas."""

import functools

import keras
import numpy as np
import tensorflow as tf

import keras_lit

COLOURS = ["red", "green", "blue", "grey", "white", "black", "yellow"]
THINGS = ["balloon", "dog", "cat", "banana", "moon", "toucan"]


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


def make_model(tuning="Lu", dropout=0.0, batch_norm=None, **options):
    """A head on the image tower and random crops; batch norm by default where it is locked."""
    keras.utils.set_random_seed(1)
    vocabulary = sorted(
        {word for words in (COLOURS, THINGS, ["a", "and", "one"]) for word in words}
    )
    tokenizer = keras_lit.tokenizers.train_wordpiece(vocabulary, 60)
    layers = [keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3, strides=2)]
    if batch_norm or (batch_norm is None and tuning[0] == "L"):
        layers.append(keras.layers.BatchNormalization())
    preprocessor = keras_lit.preprocessing.ImagePreprocessor(
        8, random_crop=(0.3, 1.0), random_flip=True
    )
    image_tower = keras_lit.ImageTower(
        keras.Sequential(layers), projection_dim=16, preprocessor=preprocessor
    )
    backbone = keras_lit.backbones.TextTransformer(
        tokenizer.vocabulary_size(), 10, 16, 1, 32, 4, dropout=dropout
    )
    text_tower = keras_lit.TextTower(backbone, tokenizer, 10)
    return keras_lit.LiT(image_tower, text_tower, tuning, **options)

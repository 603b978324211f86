"""Padding costs as much as words: it is left out where a text has the same embedding without it."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lit import distribution, internals

_ROWS, _MOST = 64, 8  # Of a group, at least, where there are several; of groups.


def trimmed(token_ids: tf.Tensor, text_tower: Any) -> tf.Tensor:
    """Without what is padding in all rows, up to a multiple of 4, where that changes nothing.

    (Of few lengths few graphs are made.)
    """
    if not text_tower.ignores_padding:
        return token_ids
    longest = tf.reduce_max(_lengths(token_ids, text_tower))
    return token_ids[..., : -(-tf.maximum(longest, 1) // 4) * 4]  # Of no rows it is negative.


def _lengths(token_ids: tf.Tensor, text_tower: Any) -> tf.Tensor:
    """[..., tokens] -> [...], the place of each row's last token besides padding, from 1."""
    places = tf.range(1, tf.shape(token_ids)[-1] + 1)
    real = token_ids != text_tower.pad_token_id
    return tf.reduce_max(tf.where(real, places, 1), axis=-1)


def groups_gain(text_tower: Any, rows: int) -> bool:
    """Whether training on batches of so many texts gains by `in_groups`, which changes nothing.

    On CPUs, as nobody has measured it on others, from 256 on (less does not repay a step that takes
    longer to compile), for backbones whose layers see one row at a time and add no losses: those of
    this library and keras-hub.
    """
    backbone = text_tower.backbone
    known = type(backbone).__module__.split(".")[0] in ("keras_hub", "keras_lit")
    apart = not any(
        isinstance(layer, keras.layers.BatchNormalization)
        or getattr(layer, "activity_regularizer", None)
        for layer in internals.flat_layers(backbone)
    )
    large = rows >= 4 * _ROWS and distribution.on_cpus()
    return large and text_tower.ignores_padding and known and apart


def in_groups(
    features: Callable[[tf.Tensor], tf.Tensor], token_ids: tf.Tensor, text_tower: Any
) -> tf.Tensor:
    """`features` of [batch, tokens] -> float32 [batch, dim], of texts of like length at a time.

    A large batch has a long text, to which all others would be padded.
    """
    order = tf.argsort(_lengths(token_ids, text_tower), stable=True)
    token_ids, rows = tf.gather(token_ids, order), tf.shape(token_ids)[0]
    count = tf.clip_by_value(rows // _ROWS, 1, _MOST)
    shape = [None, text_tower.feature_dim]
    found = tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=shape)

    def add(i: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        group = token_ids[rows * i // count : rows * (i + 1) // count]
        return i + 1, found.write(i, tf.cast(features(trimmed(group, text_tower)), tf.float32))

    # Of one iteration after another the gradient keeps what it needs, as of one batch.
    _, found = tf.while_loop(lambda i, _: i < count, add, (0, found), parallel_iterations=1)
    return tf.gather(tf.ensure_shape(found.concat(), shape), tf.argsort(order))

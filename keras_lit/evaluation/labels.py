"""Labels that are made of other features, as VTAB makes them (google-research/task_adaptation)."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

MOST_LABELS = 16  # Upper bound on ReaL's labels per image.


def padded(labels: tf.Tensor) -> tf.Tensor:
    """A list of labels of any length as [16] ints that end with -1."""
    labels = tf.pad(labels[:MOST_LABELS], [[0, MOST_LABELS]], constant_values=-1)
    return tf.ensure_shape(labels[:MOST_LABELS], [MOST_LABELS])


def grouped(values: int, classes: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Neighbouring values in [0, values) share one of `classes`."""
    return lambda value: tf.cast(value, tf.int64) * classes // values


def clevr_count(objects: dict[str, Any]) -> tf.Tensor:
    """How many objects there are: 3 to 10, counted from 0."""
    return tf.size(objects["size"]) - 3


def clevr_distance(objects: dict[str, Any]) -> tf.Tensor:
    """How far the nearest object is, in six steps."""
    return _step(tf.reduce_min(objects["pixel_coords"][:, 2]), [8.0, 8.5, 9.0, 9.5, 10.0])


def kitti_distance(objects: dict[str, Any]) -> tf.Tensor:
    """How far the nearest car, van or truck is: below 8 m, below 20 m, farther, or none."""
    vehicles = tf.boolean_mask(objects["location"][:, 2], objects["type"] < 3)
    return _step(tf.reduce_min(tf.concat([vehicles, [1000.0]], axis=0)), [8.0, 20.0, 999.0])


def _step(value: tf.Tensor, thresholds: list[float]) -> tf.Tensor:
    """How many of the thresholds are below the value."""
    return tf.reduce_sum(tf.cast(tf.constant(thresholds) < value, tf.int64))

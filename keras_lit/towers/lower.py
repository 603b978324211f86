"""The lower blocks of an image tower, locked by `Lock(last_blocks=k)`: their output is cached.

The backbone runs unchanged, except that the input of the first of the last blocks is taken from
there, or replaced there. In a graph what is not needed is not computed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lit import checks, distribution, internals
from keras_lit.towers import blocks, settings


class Lower:
    """What comes before the last blocks of a tower; its features are flat."""

    def __init__(self, tower: Any, last_blocks: int):
        checks.check_count(last_blocks, "last_blocks")
        below, above = blocks.split(tower.backbone, last_blocks)
        family = type(tower.backbone).__name__
        self._tower, self._block = tower, above[0]
        self._above = [x for layer in above for x in internals.own_parameters(layer)]
        self.weights = [x for layer in below for x in internals.own_weights(layer)]
        if len(internals.flat_layers(self._block)) == 1:
            raise ValueError(
                f"The input of the last blocks can be cached where each block is one layer, and in "
                f"{family} it is not. Train on images, or cache pooled features of a locked tower."
            )

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the block's input for one image: [tokens, width] or [height, width, channels]."""

        @tf.function
        def states(images: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                found = self._states(images)
            above = [distribution.of_one_replica(x.value) for x in self._above if x.trainable]
            if any(x is not None for x in tape.gradient(found, above)):
                raise ValueError(
                    f"Some weights that train with the last blocks of "
                    f"{type(self._tower.backbone).__name__} come before them. Train on images."
                )
            return found

        size = self._tower.preprocessor.image_size
        with tf.init_scope():
            spec = tf.TensorSpec([1, *size, 3])
            return tuple(states.get_concrete_function(spec).output_shapes[1:])

    @property
    def dim(self) -> int:
        """The width of the flat features."""
        return math.prod(self.shape)

    def features(self, images: Any) -> tf.Tensor:
        """[batch, height, width, 3] preprocessed images to [batch, dim]."""
        dim = self.dim
        return tf.reshape(self._states(images), [-1, dim])

    def continued(self, features: Any, training: bool) -> Any:
        """[batch, dim] to the backbone's output, as from images."""

        states = tf.reshape(features, [-1, *self.shape])

        def enter(call: Callable, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            return call(keras.ops.cast(states, hidden.dtype), *args, **kwargs)

        blank = tf.zeros([tf.shape(features)[0], *self._tower.preprocessor.image_size, 3])
        with settings.calling(self._block, enter):
            return self._tower._states(blank, training=training)

    def _states(self, images: Any) -> Any:
        found = []

        def keep(call: Callable, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            found.append(hidden)
            return call(hidden, *args, **kwargs)

        with settings.calling(self._block, keep):
            self._tower._states(images, training=False)
        return found[0]

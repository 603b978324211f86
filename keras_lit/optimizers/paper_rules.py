"""What the papers' optimizers share, whatever their update is."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


class PaperRules(keras.optimizers.Optimizer):
    """Clips the gradient of the global batch, decays kernels only, slows the image tower down.

    An optimizer that inherits from this calls `learning_rate = self._decayed(variable,
    learning_rate)` at the beginning of its `update_step`.

    `image_multiplier`, a non-negative float or a schedule of the step, multiplies the learning rate
    (and with it the weight decay) of the image tower's variables, its head's included. `LiT`
    says at `compile` which these are.
    """

    image_multiplier: Any = None
    _image_indices: frozenset[int] | None = None

    def _note_image_tower(self, variables: list[keras.Variable]) -> None:
        """Takes note of the (trainable) variables that `image_multiplier` is for."""
        self._image_indices = frozenset(map(self._get_variable_index, variables))

    def _decayed(self, variable: tf.Variable, learning_rate: tf.Tensor) -> tf.Tensor:
        """Applies the weight decay to a variable and returns its own learning rate."""
        learning_rate = ops.cast(
            learning_rate, keras.backend.result_type(variable.dtype, "float32")
        )
        index = self._get_variable_index(variable)
        if self.image_multiplier is not None and index in self._of_image_tower():
            multiplier = self.image_multiplier
            if callable(multiplier):
                multiplier = multiplier(self.iterations)
            learning_rate = learning_rate * ops.cast(multiplier, learning_rate.dtype)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            rate, decay = (ops.cast(x, variable.dtype) for x in (learning_rate, self.weight_decay))
            self.assign_sub(variable, variable * decay * rate)
        return learning_rate

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        multiplier = self.image_multiplier
        if multiplier is not None and not isinstance(multiplier, float | int):
            multiplier = keras.saving.serialize_keras_object(multiplier)
        return {**super().get_config(), "image_multiplier": multiplier}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PaperRules":
        """The optimizer of a config."""
        multiplier = config.get("image_multiplier")
        if isinstance(multiplier, dict):
            multiplier = keras.saving.deserialize_keras_object(multiplier, custom_objects)
        return super().from_config({**config, "image_multiplier": multiplier}, custom_objects)

    def _of_image_tower(self) -> frozenset[int]:
        if self._image_indices is None:
            raise ValueError(
                "`image_multiplier` is for training a `keras_lit.LiT`, which says what its image "
                "tower is. Compile one with this optimizer, or leave the argument out."
            )
        return self._image_indices

    def _apply_weight_decay(self, variables: list[tf.Variable]) -> None:
        """Later: `_decayed` knows the variable's own learning rate."""

    def _use_weight_decay(self, variable: tf.Variable) -> bool:
        # Looked up by index: here Keras passes a replica's copy, whose name may differ.
        is_kernel = self._trainable_variables[self._get_variable_index(variable)].name == "kernel"
        return is_kernel and super()._use_weight_decay(variable)

    def _clip_gradients(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        # Too early: these are one replica's share. See _all_reduce_sum_gradients.
        return gradients

    def _all_reduce_sum_gradients(
        self, grads_and_vars: list[tuple[tf.Tensor, tf.Variable]]
    ) -> list[tuple[tf.Tensor, tf.Variable]]:
        summed, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        # An embedding's gradient lists a token once per occurrence: the norm needs their sum.
        gradients = [tf.convert_to_tensor(gradient) for gradient in summed]
        return list(zip(super()._clip_gradients(gradients), variables, strict=True))


def note_image_tower(optimizer: Any, variables: list[keras.Variable]) -> None:
    """Tells an optimizer with an `image_multiplier` which variables it is for; any other, nothing.

    Args:
        optimizer: a Keras optimizer that was built; `LiT.compile` calls this for its own.
        variables: the trainable ones of the image tower.

    Example:

    >>> variable = keras.Variable(np.ones([2, 2]), name="kernel")
    >>> optimizer = keras_lit.optimizers.Adam(0.1, image_multiplier=0.5)
    >>> optimizer.build([variable])
    >>> keras_lit.optimizers.note_image_tower(optimizer, [variable])

    Reference: LiT, arXiv 2111.07991, Appendix H.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, PaperRules):
        optimizer._note_image_tower(variables)

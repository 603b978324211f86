"""The papers' rules for clipping, weight decay and the image tower's own rate; Adam with them."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


def compute_dtype(variable: keras.Variable | tf.Variable) -> str:
    """At least float32: averages with beta2 = 0.999 freeze in bfloat16, and 1e-30 underflows."""
    return keras.backend.result_type(variable.dtype, "float32")


class PaperRules(keras.optimizers.Optimizer):
    """Clips the gradient of the global batch, decays kernels only, scales the rates of layers.

    A subclass begins its `update_step` with `learning_rate = self._decayed(variable,
    learning_rate)`. `image_multiplier` applies to the weight decay too, and to the tower's head.
    """

    image_multiplier: Any = None
    _image_indices: frozenset[int] | None = None
    _rates: dict[int, float] | None = None  # Of `keras_lit.Lock(layer_decay=...)`, by index.

    def _decayed(self, variable: tf.Variable, learning_rate: tf.Tensor) -> tf.Tensor:
        """Applies the weight decay to a variable and returns its own learning rate."""
        learning_rate = ops.cast(learning_rate, compute_dtype(variable))
        index = self._get_variable_index(variable)
        if (multiplier := self.image_multiplier) is not None:
            if self._image_indices is None:
                raise ValueError(
                    "`image_multiplier` is for training a `keras_lit.LiT`, which says what its "
                    "image tower is. Compile one with this optimizer, or leave the argument out."
                )
            if index in self._image_indices:
                multiplier = multiplier(self.iterations) if callable(multiplier) else multiplier
                learning_rate = learning_rate * ops.cast(multiplier, learning_rate.dtype)
        if self._rates and (rate := self._rates.get(index, 1.0)) != 1.0:
            learning_rate = learning_rate * ops.cast(rate, learning_rate.dtype)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            rate, decay = (ops.cast(x, variable.dtype) for x in (learning_rate, self.weight_decay))
            self.assign_sub(variable, variable * decay * rate)
        return learning_rate

    def get_config(self) -> dict[str, Any]:
        multiplier = keras.saving.serialize_keras_object(self.image_multiplier)
        return {**super().get_config(), "image_multiplier": multiplier}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PaperRules":
        multiplier = config.get("image_multiplier")
        if isinstance(multiplier, dict):
            multiplier = keras.saving.deserialize_keras_object(multiplier, custom_objects)
        return super().from_config({**config, "image_multiplier": multiplier}, custom_objects)

    def _apply_weight_decay(self, variables: list[tf.Variable]) -> None:
        """Does nothing: `_decayed` applies it, with the variable's own learning rate."""

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


@keras.saving.register_keras_serializable("keras_lit")
class Adam(PaperRules, keras.optimizers.Adam):
    """Adam, with which LiT was trained on CC12M and YFCC100M.

    The update is `keras.optimizers.Adam`'s; as in `keras_lit.optimizers.Adafactor`, the weight
    decay applies only to variables named `"kernel"`, and clipping acts on the gradient of the
    global batch, so that it trains the same on any number of replicas.

    Args:
        learning_rate: float, `LearningRateSchedule` or callable without arguments.
        beta_1: float, the decay rate of the first moment.
        beta_2: float, the decay rate of the second moment.
        epsilon: float, added to the root of the second moment.
        image_multiplier: non-negative float or a schedule of the step, which multiplies the
            learning rate of the image tower (Appendix H of LiT: a smaller or later one).
        **kwargs: of `keras.optimizers.Adam`: `weight_decay` (for big_vision's `wd`, which is not
            multiplied by the base learning rate, pass `wd / learning_rate`), `global_clipnorm`, ...

    Example:

    >>> optimizer = keras_lit.optimizers.Adam(1e-3, weight_decay=0.1, global_clipnorm=1.0)
    >>> optimizer.weight_decay
    0.1

    Reference: LiT, arXiv 2111.07991, appendices D and H.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        image_multiplier: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        self.image_multiplier = image_multiplier

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its moments."""
        super().update_step(gradient, variable, self._decayed(variable, learning_rate))


def note_image_tower(optimizer: Any, variables: list[keras.Variable]) -> None:
    """Tells a built optimizer of ours which variables `image_multiplier` applies to."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, PaperRules):
        optimizer._image_indices = frozenset(map(optimizer._get_variable_index, variables))


def note_rates(optimizer: Any, rates: list[tuple[keras.Variable, float]]) -> None:
    """Tells a built optimizer what to multiply the learning rates of these variables by.

    Raises:
        ValueError: it is not one of ours.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, PaperRules):
        optimizer._rates = {optimizer._get_variable_index(x): rate for x, rate in rates}
    elif rates:
        raise ValueError(
            "`layer_decay` needs `keras_lit.optimizers.Adafactor` or `Adam`, which give layers "
            f"rates of their own. Received: {type(optimizer).__name__}."
        )


def check_built_for(optimizer: Any, variables: list[keras.Variable]) -> None:
    """Raises ValueError if an optimizer already has slots, and they belong to other variables."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "built", False):
        return
    known = {id(variable) for variable in optimizer._trainable_variables}
    if known != {id(variable) for variable in variables}:
        raise ValueError(
            f"This {type(optimizer).__name__} was built for {len(known)} other variables than the "
            f"{len(variables)} that the model trains now. Compile with a new optimizer."
        )


def check_on_replicas(optimizer: keras.optimizers.Optimizer, replicas: int) -> None:
    """Raises where Keras would clip, scale or accumulate gradients on each of several replicas."""
    wrapped, optimizer = optimizer, getattr(optimizer, "inner_optimizer", optimizer)
    if replicas == 1:
        return
    names = ("clipnorm", "clipvalue", "global_clipnorm")
    clips = [name for name in names if getattr(optimizer, name, None) is not None]
    if clips and not isinstance(optimizer, PaperRules):
        raise ValueError(
            f"Keras clips each replica's gradient before their sum, so `{clips[0]}` would train "
            f"something else on {replicas} replicas than on one. Clip with "
            "`keras_lit.optimizers.Adafactor` or `Adam`, which clip the sum, or not at all. "
            f"Received: {type(optimizer).__name__}."
        )
    if steps := getattr(optimizer, "gradient_accumulation_steps", None):
        # Keras updates inside a conditional, where TensorFlow runs no collectives.
        raise ValueError(
            "`gradient_accumulation_steps` should be None on more than one replica, where Keras "
            "cannot accumulate gradients. Make a large batch fit with LiT's `compile(..., "
            "micro_batch_size=...)`, which also keeps all its negatives. "
            f"Received: {steps} on {replicas} replicas."
        )
    if getattr(optimizer, "ema_overwrite_frequency", None) and optimizer.use_ema:
        raise ValueError(
            "`ema_overwrite_frequency` should be None on more than one replica, where Keras cannot "
            "overwrite inside a step. `keras.callbacks.SwapEMAWeights` swaps between epochs. "
            f"Received: {optimizer.ema_overwrite_frequency} on {replicas} replicas."
        )
    if optimizer is not wrapped:
        raise ValueError(
            "Keras' scaling of the loss, which `mixed_float16` brings, does not work on several "
            'replicas. Choose `keras.mixed_precision.set_dtype_policy("mixed_bfloat16")`, or one '
            f"replica. Received: {type(wrapped).__name__} on {replicas} replicas."
        )

"""Adafactor as the ViT papers use it."""

from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lit import checks, distribution
from keras_lit.optimizers.rules import PaperRules, check_on_replicas, compute_dtype

MomentumDtype = Literal["bfloat16", "float32"]


@keras.saving.register_keras_serializable("keras_lit")
class Adafactor(PaperRules):
    """The ViT papers' Adafactor: about half a copy of the weights as state, where Adam keeps two.

    Stock `keras.optimizers.Adafactor` follows the 2018 paper. This variant differs: the step is
    not scaled by the size of the weights, the update is not clipped, the decay of the second moment
    is capped (`beta2_cap`), and there is a first moment again, in bfloat16.

        g2     = g^2 + epsilon
        beta2  = min(beta2_cap, 1 - t^-decay_rate)               t = 1, 2, ...
        v      = beta2 * v + (1 - beta2) * g2                    factored where two axes are large
        m      = momentum * m + (1 - momentum) * g / sqrt(v)     not debiased
        weight = weight - learning_rate * m

    `weight_decay` keeps Keras' meaning, `weight -= learning_rate * weight_decay * weight`, but
    applies only to variables named `"kernel"`: not to embeddings, positions, biases, norm scales
    or the temperature. Stock Keras decays everything that `exclude_from_weight_decay` does not name
    (it works here too, to spare kernels). big_vision's `wd` follows the schedule but is not
    multiplied by the base learning rate; for the same decay pass
    `weight_decay = wd / base_learning_rate`, for instance 0.1 for `wd=1e-4` at 1e-3.

    Clipping acts on the gradient of the global batch. Stock Keras clips each replica's share
    before they are summed, so that the result depends on the number of replicas.

    Args:
        learning_rate: float, `LearningRateSchedule` or callable without arguments.
        decay_rate: positive float, how fast `beta2` rises to its cap.
        beta2_cap: float in (0, 1], the largest `beta2`; with 1 the second moment freezes
            in the end.
        momentum: float in (0, 1), or None for no first moment.
        momentum_dtype: `"bfloat16"` or `"float32"`, how the first moment is stored.
        min_dim_size_to_factor: positive int; the second moment of a variable is factored over its
            two largest axes if both have at least this size.
        epsilon: positive float, added to the squared gradient.
        weight_decay: non-negative float or None; see above.
        image_multiplier: non-negative float or a schedule of the step, which multiplies the
            learning rate of the image tower (Appendix H of LiT: a smaller or later one).
        name: string or None.
        **kwargs: as in every Keras optimizer: `clipnorm`, `clipvalue`, `global_clipnorm`,
            `use_ema`, `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps` (on one replica).

    Raises:
        ValueError: an argument is out of range or unknown.

    Example:

    >>> schedule = keras_lit.optimizers.WarmupSchedule(1e-3, 55_000, warmup_steps=10_000)
    >>> optimizer = keras_lit.optimizers.Adafactor(schedule, weight_decay=0.1, global_clipnorm=1.0)
    >>> optimizer.momentum_dtype
    'bfloat16'

    Reference: Zhai et al., Scaling Vision Transformers, arXiv 2106.04560, section 3.4;
    big_vision `scale_by_adafactor`; Shazeer and Stern, arXiv 1804.04235.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        decay_rate: float = 0.8,
        beta2_cap: float = 0.999,
        momentum: float | None = 0.9,
        momentum_dtype: MomentumDtype = "bfloat16",
        min_dim_size_to_factor: int = 32,
        epsilon: float = 1e-30,
        weight_decay: float | None = None,
        image_multiplier: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        checks.check_positive(decay_rate, "decay_rate")
        checks.check_positive(min_dim_size_to_factor, "min_dim_size_to_factor")
        checks.check_positive(epsilon, "epsilon")
        checks.check_one_of(momentum_dtype, get_args(MomentumDtype), "momentum_dtype")
        if not 0 < beta2_cap <= 1:
            raise ValueError(
                f"`beta2_cap` should be in (0, 1]; pass 1.0 for no cap. Received: {beta2_cap!r}."
            )
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(
                "`momentum` should be in (0, 1); pass None for no first moment. "
                f"Received: {momentum!r}."
            )
        if weight_decay is not None and weight_decay < 0:
            raise ValueError(
                "`weight_decay` should not be negative; pass None for no decay. "
                f"Received: {weight_decay!r}."
            )
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.decay_rate = decay_rate
        self.beta2_cap = beta2_cap
        self.momentum = momentum
        self.momentum_dtype = momentum_dtype
        self.min_dim_size_to_factor = min_dim_size_to_factor
        self.epsilon = epsilon
        self.image_multiplier = image_multiplier

    def build(self, variables: list[keras.Variable]) -> None:
        """Creates the slots: row and column (or full) second moments, and the first moment."""
        if self.built:
            return
        own = self._distribution_strategy.extended
        if variables and not own.variable_created_in_scope(variables[0].value):
            raise ValueError("Make `Adafactor` inside of the `strategy.scope()` of the model.")
        check_on_replicas(self, self._distribution_strategy.num_replicas_in_sync)
        super().build(variables)
        self._second_moments, self._momentums = [], []
        for variable in variables:
            shape, dtype = tuple(variable.shape), compute_dtype(variable)
            shapes = {"second_moment": shape}
            if axes := self._factored_axes(shape):
                # A reduced axis stays, with size 1, so that row * column broadcasts.
                column, row = ((*shape[:axis], 1, *shape[axis + 1 :]) for axis in axes)
                shapes = {"column_moment": column, "row_moment": row}
            self._second_moments.append(
                [self._add_slot(variable, *named, dtype) for named in shapes.items()]
            )
            if self.momentum is not None:
                # Workers cannot broadcast bfloat16, so there float32 holds the rounded values.
                slot_dtype = "float32" if distribution.has_workers() else self.momentum_dtype
                self._momentums.append(self._add_slot(variable, "momentum", shape, slot_dtype))

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its slots."""
        index = self._get_variable_index(variable)
        dtype = compute_dtype(variable)
        learning_rate = self._decayed(variable, learning_rate)
        gradient = ops.cast(gradient, dtype)
        axes = self._factored_axes(tuple(variable.shape))
        update = self._normalize(gradient, axes, self._second_moments[index])
        if self.momentum is not None:
            slot = self._momentums[index]
            # The reference (optax.ema) multiplies in the slot's own precision, where 0.9 is
            # 0.8984 in bfloat16, then adds in the gradient's, and rounds only what it stores.
            stored, rate = (ops.cast(x, self.momentum_dtype) for x in (slot, self.momentum))
            update = (1.0 - self.momentum) * update + ops.cast(stored * rate, dtype)
            self.assign(slot, ops.cast(update, self.momentum_dtype))
        self.assign_sub(variable, learning_rate * update)

    def get_config(self) -> dict[str, Any]:
        names = "decay_rate beta2_cap momentum momentum_dtype min_dim_size_to_factor epsilon"
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

    def _factored_axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The second largest and the largest axis, or None where one of them is too small."""
        if len(shape) < 2:
            return None
        second, largest = (int(axis) for axis in np.argsort(shape)[-2:])
        return (second, largest) if shape[second] >= self.min_dim_size_to_factor else None

    def _normalize(
        self, gradient: tf.Tensor, axes: tuple[int, int] | None, slots: list[keras.Variable]
    ) -> tf.Tensor:
        """Updates the second moment and divides the gradient by its root."""
        step = ops.cast(self.iterations + 1, gradient.dtype)
        beta2 = ops.minimum(1.0 - ops.power(step, -self.decay_rate), self.beta2_cap)
        squared = ops.square(gradient) + self.epsilon

        def averaged(slot: keras.Variable, value: tf.Tensor) -> tf.Tensor:
            average = beta2 * slot + (1.0 - beta2) * value
            self.assign(slot, average)
            return average

        if axes is None:
            root = ops.sqrt(averaged(slots[0], squared))
        else:
            second, largest = axes
            column = averaged(slots[0], ops.mean(squared, axis=second, keepdims=True))
            row = averaged(slots[1], ops.mean(squared, axis=largest, keepdims=True))
            root = ops.sqrt(row / ops.mean(row, axis=second, keepdims=True)) * ops.sqrt(column)
        # TensorFlow's graph optimizer rewrites `gradient / root` as a product and reorders it by
        # node name: the replicas' copies would drift apart by rounding. It leaves this division
        # alone.
        return tf.math.divide_no_nan(gradient, root)

    def _add_slot(
        self, variable: keras.Variable, name: str, shape: tuple[int, ...], dtype: str
    ) -> keras.Variable:
        # Unlike Keras' add_variable_from_reference: of another shape and dtype than the variable.
        # Colocated, the slot lives on every replica, as the variable does.
        full_name = f"{variable.path.replace('/', '_')}_{name}"
        with self._distribution_strategy.extended.colocate_vars_with(variable.value):
            return self.add_variable(shape, dtype=dtype, name=full_name)

"""Learning-rate schedules, and schedules of when and how fast the image tower trains."""

from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lit import checks

Decay = Literal["cosine", "linear", "rsqrt", "constant"]


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A function of the step whose attributes are its constructor's arguments."""

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


@keras.saving.register_keras_serializable("keras_lit")
class WarmupSchedule(_Schedule):
    """Linear warmup, then a decay, then (if asked for) a linear cooldown.

    With `progress` = the fraction of the steps after the warmup that have passed, in 0..1:

        cosine     peak * (1 + cos(pi * progress)) / 2
        linear     end + (peak - end) * (1 - progress)
        rsqrt      peak / sqrt(1 + steps since the warmup / timescale)
        constant   peak

    times `step / warmup_steps` during the warmup, times `(total_steps - step) / cooldown_steps`
    during the cooldown. The first step of a warmup has learning rate 0, as in big_vision. With
    `gradient_accumulation_steps` Keras counts every batch here, not every update.

    Args:
        peak: positive float, the learning rate at the end of the warmup.
        total_steps: positive int, the number of training steps.
        warmup_steps: non-negative int below `total_steps`.
        decay: `"cosine"`, `"linear"`, `"rsqrt"` or `"constant"`.
        end: non-negative float, where `"linear"` ends; no other decay uses it.
        timescale: positive number of steps, for `"rsqrt"`.
        cooldown_steps: non-negative int; warmup and cooldown fit into `total_steps`.

    Raises:
        ValueError: an argument is out of range, or `end` was given to a decay without one.

    Example:

    >>> schedule = keras_lit.optimizers.WarmupSchedule(1e-3, total_steps=100, warmup_steps=10)
    >>> [float(schedule(step)) for step in (0, 5, 10, 100)]
    [0.0, 0.0005000000237487257, 0.0010000000474974513, 0.0]

    Reference: big_vision `create_learning_rate_schedule`; LiT, arXiv 2111.07991, appendices C, D.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        decay: Decay = "cosine",
        end: float = 0.0,
        timescale: float = 10_000,
        cooldown_steps: int = 0,
    ) -> None:
        checks.check_positive(peak, "peak")
        checks.check_positive(total_steps, "total_steps")
        checks.check_positive(timescale, "timescale")
        checks.check_one_of(decay, get_args(Decay), "decay")
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"`warmup_steps` should be at least 0 and below `total_steps` ({total_steps}); "
                f"warm up for less or train longer. Received: {warmup_steps!r}."
            )
        if not 0 <= cooldown_steps <= total_steps - warmup_steps:
            raise ValueError(
                f"`cooldown_steps` should be at least 0 and fit after the warmup, in "
                f"{total_steps - warmup_steps} steps; cool down for less or train longer. "
                f"Received: {cooldown_steps!r}."
            )
        if end < 0 or (end and decay != "linear"):
            raise ValueError(
                "`end` should be 0, or positive with decay='linear'; leave it out or change "
                f"`decay`. Received: end={end!r}, decay={decay!r}."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.end = end
        self.timescale = timescale
        self.cooldown_steps = cooldown_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step` (scalar, counted from 0): scalar float32 tensor."""
        step = ops.cast(step, "float32")
        after_warmup = ops.maximum(step - self.warmup_steps, 0.0)
        progress = ops.minimum(after_warmup / (self.total_steps - self.warmup_steps), 1.0)
        if self.decay == "cosine":
            rate = self.peak * 0.5 * (1.0 + ops.cos(np.pi * progress))
        elif self.decay == "linear":
            rate = self.end + (self.peak - self.end) * (1.0 - progress)
        elif self.decay == "rsqrt":
            rate = self.peak * ops.rsqrt(1.0 + after_warmup / self.timescale)
        else:
            rate = self.peak * ops.ones_like(step)
        if self.warmup_steps:
            rate = rate * ops.minimum(step / self.warmup_steps, 1.0)
        if self.cooldown_steps:
            # Past the end the learning rate must not become negative.
            rate = rate * ops.clip((self.total_steps - step) / self.cooldown_steps, 0.0, 1.0)
        return rate


@keras.saving.register_keras_serializable("keras_lit")
class Delay(_Schedule):
    """0 before a step, a constant from then on: the image tower trains in the second half only.

    With multiplier 0 the tower still computes as in training (dropout, batch statistics), but its
    weights do not change.

    Args:
        start_step: non-negative int, the first step with `value`.
        value: non-negative float; 1 gives it the learning rate of the text tower.

    Raises:
        ValueError: one of them is negative.

    Example: the paper's "delay", with a tenth of the learning rate.

    >>> delay = keras_lit.optimizers.Delay(50, value=0.1)
    >>> optimizer = keras_lit.optimizers.Adam(1e-3, image_multiplier=delay)
    >>> [float(delay(step)) for step in (0, 49, 50, 99)]
    [0.0, 0.0, 0.10000000149011612, 0.10000000149011612]

    Reference: LiT, arXiv 2111.07991, Appendix H.
    """

    def __init__(self, start_step: int, value: float = 1.0) -> None:
        _check_not_negative(start_step, "start_step")
        _check_not_negative(value, "value")
        self.start_step = start_step
        self.value = value

    def __call__(self, step: Any) -> tf.Tensor:
        """The multiplier at `step` (scalar, counted from 0): scalar float32 tensor."""
        return self.value * ops.cast(ops.cast(step, "float32") >= self.start_step, "float32")


@keras.saving.register_keras_serializable("keras_lit")
class SigmoidRamp(_Schedule):
    """value / (1 + exp(-(step - middle_step) / width)): a gradual "delay".

    Args:
        middle_step: non-negative number, where half of `value` is reached.
        width: positive number of steps; the rise from 12 % to 88 % of `value` takes four widths.
        value: non-negative float, the limit.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> ramp = keras_lit.optimizers.SigmoidRamp(50, width=10)
    >>> [round(float(ramp(step)), 3) for step in (0, 30, 50, 70, 100)]
    [0.007, 0.119, 0.5, 0.881, 0.993]

    Reference: LiT, arXiv 2111.07991, Appendix H ("sigmoid-weighted").
    """

    def __init__(self, middle_step: float, width: float, value: float = 1.0) -> None:
        _check_not_negative(middle_step, "middle_step")
        checks.check_positive(width, "width")
        _check_not_negative(value, "value")
        self.middle_step = middle_step
        self.width = width
        self.value = value

    def __call__(self, step: Any) -> tf.Tensor:
        """The multiplier at `step` (scalar, counted from 0): scalar float32 tensor."""
        distance = ops.cast(step, "float32") - self.middle_step
        return self.value * ops.sigmoid(distance / self.width)


@keras.saving.register_keras_serializable("keras_lit")
class Cycles(_Schedule):
    """Repeats a schedule. The paper's "two cycles" lock the image tower in the first one.

    Args:
        schedule: a `LearningRateSchedule` of one cycle.
        steps: positive int, the length of a cycle.

    Raises:
        ValueError: `steps` is not positive.

    Example: two cycles of 50 steps, the image tower trains in the second.

    >>> cycle = keras_lit.optimizers.WarmupSchedule(1e-3, total_steps=50, warmup_steps=5)
    >>> optimizer = keras_lit.optimizers.Adam(
    ...     keras_lit.optimizers.Cycles(cycle, 50), image_multiplier=keras_lit.optimizers.Delay(50))

    Reference: LiT, arXiv 2111.07991, Appendix H.
    """

    def __init__(self, schedule: Any, steps: int) -> None:
        checks.check_positive(steps, "steps")
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step` (scalar, counted from 0): scalar float32 tensor."""
        return self.schedule(ops.mod(ops.cast(step, "float32"), float(self.steps)))

    def get_config(self) -> dict[str, Any]:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {**super().get_config(), "schedule": schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Cycles":
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps"])


def _check_not_negative(value: float, name: str) -> None:
    if value < 0:
        raise ValueError(f"`{name}` should not be negative. Received: {value!r}.")

"""When and how fast a pretrained image tower trains: Appendix H of the paper."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_lit import checks


@keras.saving.register_keras_serializable("keras_lit")
class Delay(keras.optimizers.schedules.LearningRateSchedule):
    """0 before a step and a constant from then on: the image tower trains in the second half only.

    With multiplier 0 the tower computes as in training (dropout, statistics of the batch) but its
    weights stay.

    Args:
        start_step: non-negative int, the first step with `value`.
        value: non-negative float, 1 for the learning rate of the text tower.

    Raises:
        ValueError: one of them is negative.

    Example: the paper's "delay", with a tenth of the learning rate:

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

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"start_step": self.start_step, "value": self.value}


@keras.saving.register_keras_serializable("keras_lit")
class SigmoidRamp(keras.optimizers.schedules.LearningRateSchedule):
    """value / (1 + exp(-(step - middle_step) / width)): a gradual "delay".

    Args:
        middle_step: non-negative number, where half of `value` is reached.
        width: positive number of steps; from 12 % to 88 % of `value` it takes four of them.
        value: non-negative float, what it rises to.

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

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"middle_step": self.middle_step, "width": self.width, "value": self.value}


@keras.saving.register_keras_serializable("keras_lit")
class Cycles(keras.optimizers.schedules.LearningRateSchedule):
    """Runs a schedule again and again. The paper's "two cycles" lock the image tower in the first.

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
        """The arguments of the constructor."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Cycles":
        """The schedule of a config."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps"])


def _check_not_negative(value: float, name: str) -> None:
    if value < 0:
        raise ValueError(f"`{name}` should not be negative. Received: {value!r}.")

"""The optimizers and learning-rate schedules of the ViT papers, as LiT was trained with them."""

from keras_lit.optimizers.adafactor import Adafactor
from keras_lit.optimizers.rules import Adam
from keras_lit.optimizers.schedules import Cycles, Delay, SigmoidRamp, WarmupSchedule

__all__ = ["Adafactor", "Adam", "Cycles", "Delay", "SigmoidRamp", "WarmupSchedule"]
__dir__ = __all__.copy

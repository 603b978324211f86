"""The optimizers and learning-rate schedules of the ViT papers, as LiT was trained with them."""

from keras_lit.optimizers.adafactor import Adafactor
from keras_lit.optimizers.adam import Adam
from keras_lit.optimizers.image_schedules import Cycles, Delay, SigmoidRamp
from keras_lit.optimizers.paper_rules import note_image_tower
from keras_lit.optimizers.replicas import check_on_replicas
from keras_lit.optimizers.warmup_schedule import WarmupSchedule

__all__ = [
    "Adafactor",
    "Adam",
    "Cycles",
    "Delay",
    "SigmoidRamp",
    "WarmupSchedule",
    "check_on_replicas",
    "note_image_tower",
]

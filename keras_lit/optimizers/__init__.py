"""The optimizer and learning-rate schedule of the ViT papers, as LiT was trained with them."""

from keras_lit.optimizers.adafactor import Adafactor
from keras_lit.optimizers.replicas import check_on_replicas
from keras_lit.optimizers.warmup_schedule import WarmupSchedule

__all__ = ["Adafactor", "WarmupSchedule", "check_on_replicas"]

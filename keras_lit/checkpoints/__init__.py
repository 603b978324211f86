"""Checkpoints of the authors' code (vit_jax, big_vision): released LiT models and image towers."""

from keras_lit.checkpoints.load_and_save import load_image_tower, load_lit, save_lit
from keras_lit.checkpoints.released import RELEASED, architecture, fetch

__all__ = ["RELEASED", "architecture", "fetch", "load_image_tower", "load_lit", "save_lit"]
__dir__ = __all__.copy

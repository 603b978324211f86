"""Checkpoints of the authors' code (vit_jax, big_vision): released LiT models and image towers."""

from keras_lit.checkpoints.image_tower import load_image_tower
from keras_lit.checkpoints.lit import load_lit
from keras_lit.checkpoints.released import RELEASED, architecture, fetch
from keras_lit.checkpoints.save import save_lit

__all__ = ["RELEASED", "architecture", "fetch", "load_image_tower", "load_lit", "save_lit"]

"""Checkpoints of the authors' code (vit_jax, big_vision): released LiT models and image towers.

And what training has changed of a model, alone (`save_adapters`).
"""

from keras_lit.checkpoints.adapters import load_adapters, save_adapters
from keras_lit.checkpoints.load_and_save import load_image_tower, load_lit, save_lit
from keras_lit.checkpoints.released import RELEASED, architecture, fetch

__all__ = [
    "RELEASED",
    "architecture",
    "fetch",
    "load_adapters",
    "load_image_tower",
    "load_lit",
    "save_adapters",
    "save_lit",
]
__dir__ = __all__.copy

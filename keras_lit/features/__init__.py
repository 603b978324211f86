"""Precomputed features: encode once, train at text speed or faster (the paper's section 5.6)."""

from keras_lit.features.manifests import read as manifest
from keras_lit.features.mixup import latent_mixup
from keras_lit.features.neighbours import hard_batches
from keras_lit.features.precomputing import merge, precompute
from keras_lit.features.reading import image_tower, load, text_tower, verify
from keras_lit.features.teaching import with_teacher

__all__ = [
    "hard_batches",
    "image_tower",
    "latent_mixup",
    "load",
    "manifest",
    "merge",
    "precompute",
    "text_tower",
    "verify",
    "with_teacher",
]
__dir__ = __all__.copy

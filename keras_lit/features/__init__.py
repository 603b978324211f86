"""Precomputed image features: encode once, train at text speed (the paper's section 5.6)."""

from keras_lit.features.manifests import read as manifest
from keras_lit.features.precomputing import merge, precompute
from keras_lit.features.reading import image_tower, load, verify

__all__ = ["image_tower", "load", "manifest", "merge", "precompute", "verify"]
__dir__ = __all__.copy

"""Artifacts: SavedModels of strings and image bytes; towers for ONNX and LiteRT; their cost."""

from keras_lit.export.artifact import save
from keras_lit.export.comparing import compare
from keras_lit.export.publishing import prune

__all__ = ["compare", "prune", "save"]
__dir__ = __all__.copy

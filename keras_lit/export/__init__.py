"""SavedModel artifacts for TF Serving: strings and image bytes in, embeddings and scores out."""

from keras_lit.export.artifact import save
from keras_lit.export.publishing import prune

__all__ = ["prune", "save"]
__dir__ = __all__.copy

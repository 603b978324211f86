"""Image and text preprocessing as Keras layers: one definition for eager, tf.data and export.

Both layers always run TensorFlow ops (in a traced function when called eagerly), so that the same
input gives the same tensor everywhere. (keras-hub's tokenizers would take another, pure Python
path when called eagerly.)
"""

from keras_lit.preprocessing.image import RESIZE_MODES, VALUE_RANGES, ImagePreprocessor
from keras_lit.preprocessing.text import TextPreprocessor

__all__ = ["RESIZE_MODES", "VALUE_RANGES", "ImagePreprocessor", "TextPreprocessor"]


def __dir__() -> list[str]:
    return __all__

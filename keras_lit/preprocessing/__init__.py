"""Image and text preprocessing as Keras layers: one definition for eager, tf.data and export.

Both layers always run TensorFlow ops, in a traced function when called eagerly, where keras-hub's
tokenizers would take another, pure Python path.
"""

from keras_lit.preprocessing.image import ImagePreprocessor
from keras_lit.preprocessing.text import TextPreprocessor

__all__ = ["ImagePreprocessor", "TextPreprocessor"]
__dir__ = __all__.copy

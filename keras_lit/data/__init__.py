"""Data: from disk to `tf.data` of image-text pairs."""

from keras_lit.data import duplicates, filters, statistics
from keras_lit.data.sources import image_text_pairs
from keras_lit.data.tux_paint import TuxPaintStamps

__all__ = ["TuxPaintStamps", "duplicates", "filters", "image_text_pairs", "statistics"]

"""Data: from disk to `tf.data` of image-text pairs."""

from keras_lit.data import captions, duplicates, filters, mixtures, shards, statistics
from keras_lit.data.sources import image_text_pairs
from keras_lit.data.tux_paint import TuxPaintStamps

__all__ = [
    "TuxPaintStamps",
    "captions",
    "duplicates",
    "filters",
    "image_text_pairs",
    "mixtures",
    "shards",
    "statistics",
]

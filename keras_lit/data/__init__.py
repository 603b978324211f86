"""Data: from disk to `tf.data` of image-text pairs."""

from keras_lit.data import captions, duplicates, filters, mixtures, shards, statistics, yfcc
from keras_lit.data.sources import image_text_pairs
from keras_lit.data.tux_paint import TuxPaintStamps
from keras_lit.data.web_captions import CC12M, YFCC100MCLIP

__all__ = [
    "CC12M",
    "YFCC100MCLIP",
    "TuxPaintStamps",
    "captions",
    "duplicates",
    "filters",
    "image_text_pairs",
    "mixtures",
    "shards",
    "statistics",
    "yfcc",
]

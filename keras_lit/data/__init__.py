"""Data: from disk to `tf.data` of image-text pairs."""

from typing import TYPE_CHECKING, Any

from keras_lit.data import captions, duplicates, filters, mixtures, shards, statistics, yfcc
from keras_lit.data.sources import image_text_pairs
from keras_lit.data.whitening import whitening_kernel

if TYPE_CHECKING:
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
    "whitening_kernel",
    "yfcc",
]


def __getattr__(name: str) -> Any:
    """The builders when they are asked for: TensorFlow Datasets takes a second to import."""
    if name not in ("CC12M", "YFCC100MCLIP", "TuxPaintStamps"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_lit.data import builders

    return getattr(builders, name)

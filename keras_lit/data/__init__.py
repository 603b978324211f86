"""Data: from disk to `tf.data` of image-text pairs."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_lit.data import captions, duplicates, filters, mixtures, shards, statistics, yfcc
from keras_lit.data.class_folders import class_pairs, labelled_images
from keras_lit.data.duplicates import whitening_kernel
from keras_lit.data.sources import image_text_pairs

if TYPE_CHECKING:  # for editors and the site
    from keras_lit.data.builders import CC12M, YFCC100MCLIP, TuxPaintStamps

__all__ = [
    "CC12M",
    "YFCC100MCLIP",
    "TuxPaintStamps",
    "captions",
    "class_pairs",
    "duplicates",
    "filters",
    "image_text_pairs",
    "labelled_images",
    "mixtures",
    "shards",
    "statistics",
    "whitening_kernel",
    "yfcc",
]
__dir__ = __all__.copy


if not TYPE_CHECKING:  # Editors and mypy would take any name for one of ours.

    def __getattr__(name: str) -> Any:
        """The builders when they are asked for: TensorFlow Datasets takes a second to import."""
        if name not in ("CC12M", "YFCC100MCLIP", "TuxPaintStamps"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("keras_lit.data.builders"), name)

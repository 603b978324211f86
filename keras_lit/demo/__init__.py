"""Pretrained towers and pictures that come without a hub."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_lit.demo.pretrained import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    minilm,
    minilm_backbone,
    minilm_tokenizer,
)
from keras_lit.demo.sentence_encoder import universal_sentence_encoder

if TYPE_CHECKING:  # for editors and the site
    from keras_lit.demo.open_pictures import OpenPictures

__all__ = [
    "OpenPictures",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "minilm",
    "minilm_backbone",
    "minilm_tokenizer",
    "universal_sentence_encoder",
]
__dir__ = __all__.copy


if not TYPE_CHECKING:  # Editors and mypy would take any name for one of ours.

    def __getattr__(name: str) -> Any:
        """The builder when it is asked for: TensorFlow Datasets takes a second to import."""
        if name != "OpenPictures":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module("keras_lit.demo.open_pictures").OpenPictures

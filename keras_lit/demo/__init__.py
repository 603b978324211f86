"""Pretrained towers that come without a hub, and Tux Paint's stamps (`data.TuxPaintStamps`)."""

from keras_lit.demo.pretrained import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    minilm,
    minilm_backbone,
    minilm_tokenizer,
)
from keras_lit.demo.sentence_encoder import universal_sentence_encoder

__all__ = [
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "minilm",
    "minilm_backbone",
    "minilm_tokenizer",
    "universal_sentence_encoder",
]
__dir__ = __all__.copy

"""Backbones and layers of the paper that keras-cv and keras-nlp lack."""

from keras_lit.backbones.attention_pooling import AttentionPooling
from keras_lit.backbones.bert_and_t5 import BertEncoder, t5_encoder
from keras_lit.backbones.bit_resnet import BiTResNet
from keras_lit.backbones.mlp_head import MLPHead
from keras_lit.backbones.mlp_mixer import MLPMixer
from keras_lit.backbones.residual_head import ResidualHead
from keras_lit.backbones.sentence_encoder import UniversalSentenceEncoder
from keras_lit.backbones.text_transformer import TextTransformer
from keras_lit.backbones.token_head import TokenHead
from keras_lit.backbones.vision_transformer import VisionTransformer

__all__ = [
    "AttentionPooling",
    "BertEncoder",
    "BiTResNet",
    "MLPHead",
    "MLPMixer",
    "ResidualHead",
    "TextTransformer",
    "TokenHead",
    "UniversalSentenceEncoder",
    "VisionTransformer",
    "t5_encoder",
]
__dir__ = __all__.copy

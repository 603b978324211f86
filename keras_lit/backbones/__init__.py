"""Backbones and layers of the paper that keras-cv and keras-nlp lack."""

from keras_lit.backbones.attention_pooling import AttentionPooling
from keras_lit.backbones.text_transformer import TextTransformer

__all__ = ["AttentionPooling", "TextTransformer"]

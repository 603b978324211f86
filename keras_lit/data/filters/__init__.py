"""Filters of image-text pairs: named predicates that compose and count what they drop."""

from keras_lit.data.filters.filtering import Filter, apply
from keras_lit.data.filters.rules import (
    align_image_rules,
    align_text_rules,
    aspect_ratio,
    common_words,
    images_per_text,
    language,
    lit_text_rules,
    short_side,
    text_length,
    texts_per_image,
)

__all__ = [
    "Filter",
    "align_image_rules",
    "align_text_rules",
    "apply",
    "aspect_ratio",
    "common_words",
    "images_per_text",
    "language",
    "lit_text_rules",
    "short_side",
    "text_length",
    "texts_per_image",
]

"""The LiT models that the authors released: where they are, and how they are made."""

import os
from pathlib import Path
from typing import NamedTuple

import keras

from keras_lit import checks, files
from keras_lit.backbones import BertEncoder, TextTransformer, VisionTransformer
from keras_lit.backbones.bert_and_t5 import BERT_SIZES
from keras_lit.model import LiT
from keras_lit.towers import ImageTower, TextTower

LOCATION = "https://storage.googleapis.com/vit_models/lit/"
BERT_WORDS = 30_522
SENTENCEPIECE_WORDS = 16_000
TEXT_LENGTH = 16


class Released(NamedTuple):
    """How a released model is made."""

    image: str  # Size and patch of the ViT.
    text: str  # Size of BERT ("base" or "large") or of the text transformer ("S" or "Ti").
    dim: int  # Width of the embeddings.
    image_head: bool = False  # Whether the image tower has a linear head.

    @property
    def text_heads(self) -> int | None:
        """BERT's attention heads; None for the other text transformer, whose shapes show them."""
        return BERT_SIZES[self.text][3] if self.text in BERT_SIZES else None

    @property
    def vocabulary(self) -> str:
        """The suffix of the vocabulary's file."""
        return ".txt" if self.text in BERT_SIZES else ".model"


RELEASED = {
    "LiT-B16B": Released("B/16", "base", 768, image_head=True),
    "LiT-B16B_2": Released("B/16", "base", 768),
    "LiT-L16L": Released("L/16", "large", 1024),
    "LiT-L16S": Released("L/16", "S", 1024),
    "LiT-L16Ti": Released("L/16", "Ti", 1024),
}
"""The models that the authors released: {name: how it is made}."""


def fetch(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Downloads a released model and its vocabulary, once.

    Args:
        name: "LiT-B16B", "LiT-B16B_2", "LiT-L16L", "LiT-L16S" or "LiT-L16Ti".
        cache_dir: where to keep them; None for `$KERAS_LIT_CACHE` or `~/.cache/keras_lit`.

    Returns:
        The path of the `.npz` file; the vocabulary is beside it.

    Raises:
        ValueError: there is no such model.

    Example: `keras_lit.checkpoints.fetch("LiT-L16Ti")`.
    """
    checks.check_one_of(name, RELEASED, "name")
    for suffix in (RELEASED[name].vocabulary, ".npz"):
        path = keras.utils.get_file(
            name + suffix,
            LOCATION + name + suffix,
            cache_dir=str(cache_dir or files.cache_directory()),
            cache_subdir="lit",
        )
    return Path(path)


def architecture(name: str) -> LiT:
    """A released model's architecture with random weights.

    Args:
        name: of a released model.

    Returns:
        A `LiT`, randomly initialised.

    Raises:
        ValueError: there is no such model.

    Example: `keras_lit.checkpoints.architecture("LiT-B16B_2").count_params()` is 195,280,897.

    Reference: vit_jax's `configs/models.py`; the LiT paper, section 5.2 and Appendix D.
    """
    checks.check_one_of(name, RELEASED, "name")
    made = RELEASED[name]
    head = made.dim if made.image_head else None
    image_tower = ImageTower(VisionTransformer.from_size(made.image), "first", head)
    if made.text in BERT_SIZES:
        depth, width, inner, heads = BERT_SIZES[made.text]
        backbone = BertEncoder(BERT_WORDS, depth, heads, width, inner)
    else:
        backbone = TextTransformer.from_size(made.text, SENTENCEPIECE_WORDS, TEXT_LENGTH)
    return LiT(image_tower, TextTower(backbone, sequence_length=TEXT_LENGTH), tuning="LU")

"""Writes a LiT in the layout of the released files, for big_vision and vit_jax to read."""

import os
import zipfile

import numpy as np

from keras_lit import files
from keras_lit.backbones import BertEncoder, TextTransformer, VisionTransformer
from keras_lit.checkpoints.slots import slots_of_model
from keras_lit.model import LiT
from keras_lit.towers import Tower

# The released files keep the class token's position with the others, in a module of the encoder.
_POSITIONS = "img/Transformer/posembed_input/pos_embedding"


def save_lit(model: LiT, path: str | os.PathLike) -> None:
    """Writes a model's weights as an `.npz` in the layout of the released LiT models.

    `load_lit` gives the same weights again, bit by bit, and big_vision reads the file too. What
    shapes do not tell (the tokenizer, a BERT's heads, preprocessing, dropout) is not in it.

    Args:
        model: a `LiT` whose towers' backbones are of `keras_lit.backbones`.
        path: of the file, which appears complete or not at all.

    Raises:
        ValueError: a tower has no place in this layout, or a pooling that it cannot express.

    Example:

    >>> image_tower = keras_lit.ImageTower(
    ...     keras_lit.backbones.VisionTransformer(32, 8, 12, 2, 24, 3), "first")
    >>> text_tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 12, 2, 24, 3))
    >>> path = tempfile.mkdtemp() + "/lit.npz"
    >>> keras_lit.checkpoints.save_lit(keras_lit.LiT(image_tower, text_tower), path)
    >>> keras_lit.checkpoints.load_lit(path).encode_text(np.ones([1, 16], "int32")).shape
    (1, 12)

    Reference: vit_jax's `models_lit.py`; big_vision's `models/proj/image_text/two_towers.py`.
    """
    slots = slots_of_model(model)
    for tower in (model.image_tower, model.text_tower):
        _check_pooling(tower)
    if "img/cls" in slots:
        slots[_POSITIONS] = slots.pop("img/pos_embedding")
    with files.whole(path) as working, zipfile.ZipFile(working, "w") as file:
        for name, slot in slots.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                array = slot.variable.numpy().reshape(slot.shape)
                np.lib.format.write_array(member, array, allow_pickle=False)


def _check_pooling(tower: Tower) -> None:
    """Raises unless whoever loads the file pools as the tower does."""
    backbone = tower.backbone
    pooling = getattr(backbone, "pooling", None) or tower.pooling
    known: tuple[str, ...] = ("mean",)
    if isinstance(backbone, VisionTransformer):
        known = ("first",) if backbone.class_token else ("mean", "map")
    elif isinstance(backbone, BertEncoder):
        known = ("first",)
    elif isinstance(backbone, TextTransformer):
        known = ("last", "map")
    if pooling not in known:
        raise ValueError(
            f"In this layout {type(backbone).__name__} is pooled as {' or '.join(known)}. "
            f"Received: {pooling!r}. Save the model as a .keras file instead."
        )

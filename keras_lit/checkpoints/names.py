"""One name for each array, however old the code that wrote the checkpoint."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_lit.checkpoints.npz import Archive

# Training checkpoints hold the optimizer's state beside the model.
_MODEL_PREFIXES = ("params/", "opt/target/")
_RENAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        # Positions were once a module of the encoder, then the encoder's own.
        (r"^(img/|)Transformer/(posembed_input/|)pos_embedding$", r"\1pos_embedding"),
        # Before flax.linen all modules of a block were counted together: 0, 1, 2, 3.
        (r"(encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
        (r"(encoderblock_\d+)/(MlpBlock|MultiHeadDotProductAttention)_\d+/", r"\1/\2_0/"),
        # BiT's own files.
        (r"/standardized_conv2d(_\d+|)/", "/"),
        (r"^(img/|)resnet/root_block/kernel$", r"\1root_block/conv_root/kernel"),
        (r"^(img/|)resnet/head/conv2d/", r"\1head/"),
        (r"^(img/|)resnet/group_norm/", r"\1norm-pre-head/"),
        (r"^(img/|)resnet/(block\d+/unit\d+)/a/proj/", r"\1\2/conv_proj/"),
        *(
            (rf"^(img/|)resnet/(block\d+/unit\d+)/{letter}/{old}", rf"\1\2/{new}{i}/")
            for i, letter in enumerate("abc", 1)
            for old, new in (("group_norm/", "gn"), ("", "conv"))
        ),
        (r"(/gn\d|norm-pre-head)/gamma$", r"\1/scale"),
        (r"(/gn\d|norm-pre-head)/beta$", r"\1/bias"),
        # ViT-g's attention pooling was once part of the model itself.
        (
            r"^(img/|)(probe$|(?:MlpBlock|MultiHeadDotProductAttention|LayerNorm)_0/)",
            r"\1MAPHead_0/\2",
        ),
    )
]
_GROUP_NORM = re.compile(r"(/gn\d|norm-pre-head)/(scale|bias)$")


class Array(NamedTuple):
    """An array of a checkpoint.

    Attributes:
        name: its name in the file, for messages.
        shape: its shape.
        read: makes the array.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def canonical(archive: Archive) -> dict[str, Array]:
    """The model's arrays under the names that big_vision gives them now.

    Args:
        archive: of a file by big_vision or vit_jax.

    Returns:
        Arrays by name: "img/pos_embedding", "txt/Encoder_0/encoderblock_0/LayerNorm_0/scale", "t".

    Raises:
        ValueError: two arrays of the file are the same one.

    Reference: big_vision's `models/vit.py` and `models/proj/image_text/text_transformer.py`.
    """
    prefixes = [p for p in _MODEL_PREFIXES if any(name.startswith(p) for name in archive.shapes)]
    prefix = prefixes[0] if prefixes else ""
    arrays: dict[str, Array] = {}
    for name, shape in archive.shapes.items():
        if not name.startswith(prefix):
            continue
        new = name.removeprefix(prefix)
        for pattern, replacement in _RENAMES:
            new = pattern.sub(replacement, new)
        if new in arrays:
            raise ValueError(
                f"{archive.path} holds {arrays[new].name!r} and {name!r}, which are the same "
                "array in different layouts. Expected one layout."
            )
        shape = _shape_now(new, shape)
        arrays[new] = Array(name, shape, functools.partial(_read, archive, name, shape))
    return _with_single_positions(arrays)


def _read(archive: Archive, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return archive.read(name).reshape(shape)


def _shape_now(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """BiT's own files have group norms without the leading axes, and a convolution as head."""
    if len(shape) == 1 and _GROUP_NORM.search(name):
        return (1, 1, 1, *shape)
    if len(shape) == 4 and shape[:2] == (1, 1) and name.removeprefix("img/") == "head/kernel":
        return shape[2:]
    return shape


def _with_single_positions(arrays: dict[str, Array]) -> dict[str, Array]:
    """Some old text towers added positions twice: the sum is as good."""
    second = arrays.pop("txt/Encoder_0/pos_embedding", None)
    if second is None:
        return arrays
    first = arrays.get("txt/pos_embedding")
    if first is None:
        return {**arrays, "txt/pos_embedding": second}
    if first.shape != second.shape:
        raise ValueError(
            f"{first.name!r} and {second.name!r} should have the same shape, as both are added to "
            f"the tokens. Received: {first.shape} and {second.shape}."
        )
    return {
        **arrays,
        "txt/pos_embedding": Array(first.name, first.shape, lambda: first.read() + second.read()),
    }

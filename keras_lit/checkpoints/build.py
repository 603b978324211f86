"""Towers of the shapes that a checkpoint's arrays have, with weights still to be filled in."""

import math
import re
from typing import Literal

import numpy as np

from keras_lit import checks
from keras_lit.backbones import BertEncoder, BiTResNet, MLPMixer, TextTransformer, VisionTransformer
from keras_lit.checkpoints.npz import Array
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from keras_lit.towers import ImageTower, TextTower
from keras_lit.towers.image import ImagePooling
from keras_lit.towers.text import TextPooling

Arrays = dict[str, Array]
BERT = "BertEncoder_0/"


def image_tower(arrays: Arrays, prefix: str = "", image_size: int | None = None) -> ImageTower:
    """The image tower whose arrays' names begin with `prefix`.

    For another `image_size` than the file's, its position embeddings in `arrays` are resampled.
    """
    for side in image_size if isinstance(image_size, tuple | list) else (image_size,):
        if side is not None:
            checks.check_count(side, "image_size")
    if f"{prefix}stem/kernel" in arrays:
        return _mlp_mixer(arrays, prefix, image_size)
    if f"{prefix}root_block/conv_root/kernel" in arrays:
        return _bit_resnet(arrays, prefix, image_size)
    return _vision_transformer(arrays, prefix, image_size)


def _mlp_mixer(arrays: Arrays, prefix: str, image_size: int | None) -> ImageTower:
    *patch, _, width = _shape(arrays, f"{prefix}stem/kernel", 4)
    block = f"{prefix}MixerBlock_"
    tokens, tokens_dim = _shape(arrays, f"{block}0/token_mixing/Dense_0/kernel", 2)
    grid = math.isqrt(tokens)
    own_size = (grid * patch[0], grid * patch[1])
    if grid**2 != tokens or image_size not in (None, *own_size):
        raise ValueError(
            f"An MLP-Mixer is made for one number of patches, here {tokens} of {patch[0]} x "
            f"{patch[1]} pixels, which should make a square. Received `image_size`={image_size}."
        )
    channels_dim = _shape(arrays, f"{block}0/channel_mixing/Dense_0/kernel", 2)[1]
    depth = _count(arrays, block)
    backbone = MLPMixer(own_size, (patch[0], patch[1]), width, depth, tokens_dim, channels_dim)
    return ImageTower(backbone, "mean", _head(arrays, prefix), ImagePreprocessor(own_size))


def _bit_resnet(arrays: Arrays, prefix: str, image_size: int | None) -> ImageTower:
    blocks = range(1, _count(arrays, f"{prefix}block", 1) + 1)
    depths = tuple(_count(arrays, f"{prefix}block{i}/unit", 1) for i in blocks)
    width = _shape(arrays, f"{prefix}root_block/conv_root/kernel", 4)[3]
    preprocessor = ImagePreprocessor(image_size or 224)
    return ImageTower(BiTResNet(depths, width), "mean", _head(arrays, prefix), preprocessor)


def _vision_transformer(arrays: Arrays, prefix: str, image_size: int | None) -> ImageTower:
    _check_positions(arrays, f"{prefix}embedding/kernel", f"{prefix}pos_embedding")
    *patch, _, width = _shape(arrays, f"{prefix}embedding/kernel", 4)
    class_token = f"{prefix}cls" in arrays
    _, rows, _ = _shape(arrays, f"{prefix}pos_embedding", 3)
    grid = math.isqrt(rows)
    extra = rows - grid**2
    if extra not in (0, 1):
        raise ValueError(
            f"{arrays[f'{prefix}pos_embedding'].name!r} should hold a square of positions, maybe "
            f"with one of a class token before them. Received: {rows} positions."
        )
    backbone = VisionTransformer(
        image_size or (grid * patch[0], grid * patch[1]),
        (patch[0], patch[1]),
        width,
        _count(arrays, f"{prefix}Transformer/encoderblock_"),
        _shape(arrays, f"{prefix}Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel", 2)[1],
        _heads(arrays, f"{prefix}Transformer/encoderblock_0/"),
        class_token,
    )
    _fit_positions(arrays, f"{prefix}pos_embedding", backbone, grid, bool(extra))
    pooling: ImagePooling = "map" if f"{prefix}MAPHead_0/probe" in arrays else "mean"
    pooling = "first" if class_token else pooling
    preprocessor = ImagePreprocessor(backbone.image_size)
    return ImageTower(backbone, pooling, _head(arrays, prefix), preprocessor)


def _check_positions(arrays: Arrays, kernel: str, positions: str) -> None:
    """Raises for the Vision Transformers that have no list of learned positions."""
    if kernel not in arrays:
        return
    if positions not in arrays:
        raise ValueError(
            f"The checkpoint lacks {positions!r}. A ViT of fixed positions (big_vision's "
            '`posemb="sincos2d"`) cannot be loaded; take one with learned positions.'
        )
    shape = arrays[positions].shape
    if len(arrays[kernel].shape) == 2 or (len(shape) == 3 and shape[0] != 1):
        raise ValueError(
            f"{arrays[positions].name!r} should have the shape [1, positions, width]. Received: "
            f"{shape}, a grid, as the NaFlex towers of SigLIP 2 have, which take sequences of "
            "patches from images of any size and are none of the kinds that load. Take the "
            "model's file of one resolution, such as siglip2_b16_256.npz."
        )


def text_tower(
    arrays: Arrays, heads: int | None, sequence_length: int, preprocessor: TextPreprocessor | None
) -> TextTower:
    """The text tower, whose arrays' names begin with "txt/".

    `heads` are BERT's, whose shapes do not show them.
    """
    pooling: TextPooling
    if is_bert(arrays):
        backbone, pooling = _bert(arrays, heads), "first"
    elif "txt/MAPHead_0/probe" in arrays:
        backbone, pooling = _text_transformer(arrays, sequence_length, None), "map"
    else:
        backbone, pooling = _text_transformer(arrays, sequence_length, "last"), "none"
    return TextTower(
        backbone,
        sequence_length=sequence_length,
        pooling=pooling,
        projection_dim=_head(arrays, "txt/") or 0,
        preprocessor=preprocessor,
    )


def is_bert(arrays: Arrays) -> bool:
    """Whether the text tower is BERT."""
    return any(name.startswith(f"txt/{BERT}") for name in arrays)


def text_length(arrays: Arrays) -> int | None:
    """How many tokens the text tower takes, where its shapes show it."""
    return None if is_bert(arrays) else _shape(arrays, "txt/pos_embedding", 3)[1]


def _text_transformer(
    arrays: Arrays, length: int, pooling: Literal["last"] | None
) -> TextTransformer:
    words, width = _shape(arrays, "txt/Embed_0/embedding", 2)
    block = "txt/Encoder_0/encoderblock_"
    inner = _shape(arrays, f"{block}0/MlpBlock_0/Dense_0/kernel", 2)[1]
    depth, heads = _count(arrays, block), _heads(arrays, f"{block}0/")
    return TextTransformer(words, length, width, depth, inner, heads, pooling=pooling)


def _bert(arrays: Arrays, heads: int | None) -> BertEncoder:
    if heads is None:
        raise ValueError(
            "The shapes of a BERT do not show its attention heads. Pass `text_heads` (12 for "
            "BERT-base, 16 for BERT-large), or keep the released file's name."
        )
    (words, width), (longest, _), (segments, _) = (
        _shape(arrays, f"txt/{BERT}embedder/embedders_{name}_ids/embedding", 2)
        for name in ("token", "position", "segment")
    )
    block = f"txt/{BERT}encoder_block/layer_sequence/layers_"
    inner = _shape(arrays, f"{block}0/mlp_block/mlp/dense_layer/kernel", 2)[1]
    lengths = {"max_sequence_length": longest, "num_segments": segments}
    return BertEncoder(words, _count(arrays, block), heads, width, inner, **lengths)


def _shape(arrays: Arrays, name: str, rank: int) -> tuple[int, ...]:
    if name not in arrays:
        raise ValueError(f"The checkpoint lacks {name!r}.")
    shape = arrays[name].shape
    if len(shape) != rank or 0 in shape:
        raise ValueError(
            f"{arrays[name].name!r} should have {rank} dimensions, none of them 0. Received "
            f"shape: {shape}."
        )
    return shape


def _heads(arrays: Arrays, prefix: str) -> int:
    return _shape(arrays, f"{prefix}MultiHeadDotProductAttention_0/query/kernel", 3)[1]


def _head(arrays: Arrays, prefix: str) -> int | None:
    name = f"{prefix}head/kernel"
    return _shape(arrays, name, 2)[1] if name in arrays else None


def _count(arrays: Arrays, prefix: str, first: int = 0) -> int:
    """How many numbers follow `prefix` in the names, from `first` on without a gap."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)/")
    found = {int(match[1]) for name in arrays if (match := pattern.match(name))}
    if found != set(range(first, first + len(found))) or not found:
        raise ValueError(
            f"The blocks {prefix + '*'!r} should be numbered {first}, {first + 1}, ... without a "
            f"gap. Received: {sorted(found)}."
        )
    return len(found)


def _fit_positions(
    arrays: Arrays, name: str, backbone: VisionTransformer, grid: int, extra: bool
) -> None:
    """Gives the positions the backbone's grid, and a row for its class token (or none)."""
    positions = arrays[name]
    height, width = backbone.image_size
    new = (height // backbone.patch_size[0], width // backbone.patch_size[1])
    shape = (1, math.prod(new) + backbone.class_token, positions.shape[2])

    def read() -> np.ndarray:
        old = positions.read().astype("float32")
        row = old[:, :extra] if extra else np.zeros_like(old[:, :1])
        rows = old[:, extra:]
        if new != (grid, grid):
            from scipy import ndimage

            # As big_vision's `resample_posemb`: linear, corners upon corners.
            factors = (1, new[0] / grid, new[1] / grid, 1)
            rows = ndimage.zoom(rows.reshape(1, grid, grid, -1), factors, order=1)
            rows = rows.reshape(1, -1, old.shape[2])
        return np.concatenate([row, rows], axis=1) if backbone.class_token else rows

    arrays[name] = Array(positions.name, shape, read)

"""Where the blocks of a backbone begin and end, by the names that its family gives its layers."""

import re

import keras

from keras_lit import internals

# The number in a layer's name is that of its block; of a convolutional network that of its stage.
BLOCKS = {
    r"transformer_layer_(\d+)": (
        *("VisionTransformer", "TextTransformer", "BertEncoder", "BertBackbone"),
        *("DistilBertBackbone", "RobertaBackbone", "XLMRobertaBackbone"),
    ),
    r"transformer_block_(\d+)": ("ViTBackbone",),
    r"layers_(\d+)": ("DINOV2Backbone", "DINOV3Backbone"),
    r"encoder_block_(\d+)": (
        *("CLIPVisionEncoder", "CLIPTextEncoder", "SigLIPVisionEncoder", "SigLIPTextEncoder"),
    ),
    r"mixer_block_(\d+)": ("MLPMixer",),
    r"stage_(\d+)": ("SwinTransformerBackbone",),
    r"block(\d+)_unit": ("BiTResNet",),
    r"stack(\d+)_block": ("ResNetBackbone",),
    r"(?:v\d_)?stack_(\d+)_block": ("ResNetV1Backbone", "ResNetV2Backbone"),
    r"block_?(\d+)": (
        *("EfficientNetBackbone", "EfficientNetV2Backbone", "EfficientNetV1Backbone"),
        *("EfficientNetLiteBackbone", "MobileNetBackbone"),
    ),
    r"conv(\d+)_block": ("DenseNetBackbone",),
}


def groups(backbone: keras.Model) -> list[list[keras.Layer]]:
    """All layers, in order: those before the blocks, each block's, those after the blocks.

    Raises:
        ValueError: a family that is not among `BLOCKS`, or one without blocks.
    """
    family = type(backbone).__name__
    pattern = next((x for x, families in BLOCKS.items() if family in families), None)
    number: dict[int, int] = {}
    for layer in internals.flat_layers(backbone)[1:] if pattern else ():
        if match := re.match(str(pattern), layer.name):
            for inside in internals.flat_layers(layer):
                number.setdefault(id(inside), int(match[1]))
    if not number:
        known = ", ".join(sorted({x for families in BLOCKS.values() for x in families}))
        raise ValueError(
            "`last_blocks` and `layer_decay` need to know the blocks of the backbone, and those of "
            f"{family} are not known. Known are: {known}. Freeze layers of others by "
            "`layer.trainable = False`."
        )
    order = {value: i + 1 for i, value in enumerate(sorted({*number.values()}))}
    found: list[list[keras.Layer]] = [[] for _ in range(len(order) + 2)]
    tops = [internals.flat_layers(layer) for layer in backbone.layers]
    holding = [i for i, layers in enumerate(tops) if any(id(x) in number for x in layers)]
    block = 0
    for i, layers in enumerate(tops):
        for layer in layers:
            if id(layer) in number:
                block = max(block, order[number[id(layer)]])
                found[order[number[id(layer)]]].append(layer)
            elif i in holding or i > holding[-1]:
                found[-1].append(layer)
            else:  # Before the first block, or a step from one to the next.
                found[block].append(layer)
    return found


def split(backbone: keras.Model, last_blocks: int) -> tuple[list[keras.Layer], list[keras.Layer]]:
    """The layers before the last blocks, and these with what follows them.

    Raises:
        ValueError: as `groups`; more blocks than there are.
    """
    found = groups(backbone)
    if last_blocks > len(found) - 2:
        raise ValueError(
            f"`last_blocks` should be at most {len(found) - 2}, the blocks of "
            f"{type(backbone).__name__}. Received: {last_blocks}."
        )
    parts = found[: -1 - last_blocks], found[-1 - last_blocks :]
    below, above = ([layer for group in part for layer in group] for part in parts)
    return below, above

"""Which variable of a model holds which array of a checkpoint, to load it and to save it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_lit import internals
from keras_lit.backbones import BertEncoder, BiTResNet, MLPMixer, TextTransformer, VisionTransformer
from keras_lit.checkpoints.npz import Array
from keras_lit.model import LiT
from keras_lit.towers import Tower


class Slot(NamedTuple):
    """A variable, and the shape that its array has in a file (of as many numbers)."""

    variable: keras.Variable
    shape: tuple[int, ...]


Slots = Iterator[tuple[str, Slot]]


def slots_of_model(model: LiT) -> dict[str, Slot]:
    """The slots of a whole model, by canonical name."""
    slots = {
        **slots_of_tower(model.image_tower, "img/"),
        **slots_of_tower(model.text_tower, "txt/"),
        "t": Slot(model.log_temperature, (1,)),
    }
    if model.loss_name == "sigmoid":
        slots["b"] = Slot(model.bias, (1,))
    return slots


def slots_of_tower(tower: Tower, prefix: str = "") -> dict[str, Slot]:
    """The slots of a tower, head and pooling included; `prefix` goes before each name."""
    slots = _BACKBONES.get(type(tower.backbone))
    if slots is None:
        known = ", ".join(kind.__name__ for kind in _BACKBONES)
        raise ValueError(
            f"A checkpoint of big_vision's layout holds towers of {known} (in "
            f"`keras_lit.backbones`). Received: {type(tower.backbone).__name__}. Save the model "
            "as a .keras file instead."
        )
    if tower.head_kind != "linear":
        raise ValueError(
            "A checkpoint of big_vision's layout holds linear heads. Received a "
            f"{type(tower.head).__name__}. Save the model as a .keras file instead."
        )
    found = dict(slots(tower.backbone))
    if tower.attention_pooling is not None:
        found |= dict(_attention_pooling(tower.attention_pooling))
    if tower.head is not None:
        found |= dict(_dense("head", tower.head))
    return {prefix + name: slot for name, slot in found.items()}


def fill(slots: dict[str, Slot], arrays: dict[str, Array], path: Path) -> None:
    """Puts each array into its variable, one at a time, after all were found to fit."""
    missing = [name for name in slots if name not in arrays]
    left_over = list(dict.fromkeys(a.name for name, a in arrays.items() if name not in slots))
    if missing or left_over:
        raise ValueError(
            f"{path} does not hold the arrays of a model of its kind. Missing: {_some(missing)}. "
            f"Left over: {_some(left_over)}. Is it complete, and of one of the kinds that load?"
        )
    for name, slot in slots.items():
        if arrays[name].shape != tuple(slot.shape):
            raise ValueError(
                f"{arrays[name].name!r} of {path} should have the shape {tuple(slot.shape)}, by "
                f"the other arrays' shapes. Received: {arrays[name].shape}."
            )
    for name, array in arrays.items():  # In the file's order.
        variable = slots[name].variable
        variable.assign(array.read().reshape(variable.shape))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more if names else "none"


def _vision_transformer(backbone: VisionTransformer) -> Slots:
    embedding = backbone.get_layer("patch_embedding")
    yield from _dense("embedding", embedding.patches)
    if backbone.class_token:
        yield "cls", _as_it_is(embedding.cls)
    yield "pos_embedding", _as_it_is(embedding.position_embedding)
    yield from _encoder("Transformer", backbone)


def _mlp_mixer(backbone: MLPMixer) -> Slots:
    yield from _dense("stem", backbone.get_layer("stem"))
    for i in range(backbone.num_layers):
        block = backbone.get_layer(f"mixer_block_{i}")
        for j, mixing in enumerate(("token_mixing", "channel_mixing")):
            yield from _norm(f"MixerBlock_{i}/LayerNorm_{j}", block.norms[j])
            for k, dense in enumerate(block.mlps[j]):
                yield from _dense(f"MixerBlock_{i}/{mixing}/Dense_{k}", dense)
    yield from _norm("pre_head_layer_norm", backbone.get_layer("layer_norm"))


def _bit_resnet(backbone: BiTResNet) -> Slots:
    layers = {layer.name: layer for layer in backbone.layers}
    yield "root_block/conv_root/kernel", _as_it_is(layers["conv_root"].kernel)
    yield from _group_norm("norm-pre-head", layers["norm_pre_head"])
    for i, depth in enumerate(backbone.depths, 1):
        for j in range(1, depth + 1):
            unit, prefix = f"block{i}/unit{j:02d}", f"block{i}_unit{j:02d}"
            for name in ("conv1", "conv2", "conv3", "conv_proj"):
                if f"{prefix}_{name}" in layers:
                    yield f"{unit}/{name}/kernel", _as_it_is(layers[f"{prefix}_{name}"].kernel)
            for name in ("gn1", "gn2", "gn3"):
                yield from _group_norm(f"{unit}/{name}", layers[f"{prefix}_{name}"])


def _group_norm(prefix: str, layer: keras.layers.GroupNormalization) -> Slots:
    shape = (1, 1, 1, *layer.gamma.shape)
    yield f"{prefix}/scale", Slot(layer.gamma, shape)
    yield f"{prefix}/bias", Slot(layer.beta, shape)


def _text_transformer(backbone: TextTransformer) -> Slots:
    embedding = backbone.get_layer("token_and_position_embedding")
    positions = embedding.position_embedding.position_embeddings
    yield "Embed_0/embedding", _as_it_is(embedding.token_embedding.embeddings)
    yield "pos_embedding", Slot(positions, (1, *positions.shape))
    yield from _encoder("Encoder_0", backbone)


def _bert_encoder(backbone: BertEncoder) -> Slots:
    embedding = backbone.get_layer("token_and_position_embedding")
    for name, variable in (
        ("token", embedding.token_embedding.embeddings),
        ("position", embedding.position_embedding.position_embeddings),
        ("segment", backbone.get_layer("segment_embedding").embeddings),
    ):
        yield f"BertEncoder_0/embedder/embedders_{name}_ids/embedding", _as_it_is(variable)
    yield from _norm("BertEncoder_0/layer_norm", backbone.get_layer("embeddings_layer_norm"))
    for i in range(backbone.num_layers):
        block = internals.block_parts(backbone.get_layer(f"transformer_layer_{i}"))
        prefix = f"BertEncoder_0/encoder_block/layer_sequence/layers_{i}"
        inner = f"{prefix}/attention_block"
        for name in ("query", "key", "value"):
            dense = getattr(block.attention, f"{name}_dense")
            yield from _dense(f"{inner}/attention_layer/{name}", dense, inputs=1)
        yield from _dense(f"{inner}/dense_layer", block.attention.output_dense, inputs=2)
        yield from _norm(f"{inner}/layer_norm", block.attention_norm)
        yield from _dense(f"{prefix}/mlp_block/mlp/dense_layer", block.mlp_inner)
        yield from _dense(f"{prefix}/mlp_block/dense_layer", block.mlp_outer)
        yield from _norm(f"{prefix}/mlp_block/layer_norm", block.mlp_norm)


def _encoder(prefix: str, backbone: VisionTransformer | TextTransformer) -> Slots:
    for i in range(backbone.num_layers):
        block = internals.block_parts(backbone.get_layer(f"transformer_layer_{i}"))
        inner = f"{prefix}/encoderblock_{i}"
        yield from _attention(inner, block.attention)
        yield from _norm(f"{inner}/LayerNorm_0", block.attention_norm)
        yield from _norm(f"{inner}/LayerNorm_1", block.mlp_norm)
        yield from _dense(f"{inner}/MlpBlock_0/Dense_0", block.mlp_inner)
        yield from _dense(f"{inner}/MlpBlock_0/Dense_1", block.mlp_outer)
    yield from _norm(f"{prefix}/encoder_norm", backbone.get_layer("layer_norm"))


def _attention_pooling(layer: keras.layers.Layer) -> Slots:
    yield "MAPHead_0/probe", _as_it_is(layer.probe)
    yield from _attention("MAPHead_0", layer.attention)
    yield from _norm("MAPHead_0/LayerNorm_0", layer.layer_norm)
    yield from _dense("MAPHead_0/MlpBlock_0/Dense_0", layer.dense_0)
    yield from _dense("MAPHead_0/MlpBlock_0/Dense_1", layer.dense_1)


def _attention(prefix: str, layer: keras.layers.MultiHeadAttention) -> Slots:
    for name in ("query", "key", "value"):
        yield from _dense(
            f"{prefix}/MultiHeadDotProductAttention_0/{name}", getattr(layer, f"{name}_dense")
        )
    yield from _dense(f"{prefix}/MultiHeadDotProductAttention_0/out", layer.output_dense)


def _dense(prefix: str, layer: Any, inputs: int | None = None) -> Slots:
    """With `inputs`, the kernel's first axes become rows of a matrix: flaxformer joins heads."""
    kernel, bias = layer.kernel.shape, layer.bias.shape
    if inputs is not None:
        kernel, bias = (math.prod(kernel[:inputs]), math.prod(kernel[inputs:])), (math.prod(bias),)
    yield f"{prefix}/kernel", Slot(layer.kernel, kernel)
    yield f"{prefix}/bias", Slot(layer.bias, bias)


def _norm(prefix: str, layer: keras.layers.LayerNormalization) -> Slots:
    yield f"{prefix}/scale", _as_it_is(layer.gamma)
    yield f"{prefix}/bias", _as_it_is(layer.beta)


def _as_it_is(variable: keras.Variable) -> Slot:
    return Slot(variable, variable.shape)


_BACKBONES: dict[type, Callable[[Any], Slots]] = {
    VisionTransformer: _vision_transformer,
    MLPMixer: _mlp_mixer,
    BiTResNet: _bit_resnet,
    TextTransformer: _text_transformer,
    BertEncoder: _bert_encoder,
}

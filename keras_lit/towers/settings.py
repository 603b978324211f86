"""What was done to a tower's layers by hand: frozen, LoRA, quantised. Keras saves little of it."""

from typing import Any

import keras

from keras_lit import internals


def read(layers: list[keras.Layer]) -> dict[str, dict[str, Any]]:
    """{place in the list: settings}, of layers that are not as they were made; JSON can hold it."""
    found = {}
    for i, layer in enumerate(layers):
        frozen = [
            j for j, weight in enumerate(internals.own_parameters(layer)) if not weight.trainable
        ]
        settings = {
            "frozen": not layer.trainable,
            "frozen_weights": frozen if layer.trainable else [],
            "lora_rank": getattr(layer, "lora_enabled", False) and layer.lora_rank,
            "lora_alpha": getattr(layer, "lora_enabled", False) and layer.lora_alpha,
            "quantization": layer.quantization_mode,
        }
        if changed := {name: value for name, value in settings.items() if value}:
            found[str(i)] = changed
    return found


def apply(layers: list[keras.Layer], settings: dict[str, dict[str, Any]]) -> None:
    """Does the same to the same layers of another tower of the same make, before its weights."""
    of_layers = [(layer, settings.get(str(i), {})) for i, layer in enumerate(layers)]
    for layer, found in of_layers:
        if found.get("lora_rank") and not layer.lora_enabled:
            layer.enable_lora(found["lora_rank"], found["lora_alpha"])
        mode = found.get("quantization")
        if mode and layer.quantization_mode != mode:
            layer.quantize(mode)
    for layer, found in of_layers:  # A layer's flag goes to those inside, which come later.
        layer.trainable = not found.get("frozen", False)
    for layer, found in of_layers:
        for j in found.get("frozen_weights", []):
            internals.own_parameters(layer)[j].trainable = False

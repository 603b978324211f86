"""Layers that were frozen, quantised or given LoRA by hand. Keras saves little of it."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

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


def save_lora(layers: list[keras.Layer], store: Any) -> None:
    """Keeps LoRA's two matrices beside the kernels, to which Keras adds them in files."""
    for i, layer in enumerate(layers):
        if getattr(layer, "lora_enabled", False) and layer.quantization_mode is None:
            _, store[f"lora_{i}_a"], store[f"lora_{i}_b"] = _lora(layer)


def load_lora(layers: list[keras.Layer], store: Any) -> None:
    """Makes the layers subtract them from the kernels again, which Keras loads after this. Keras
    makes both zero, so that neither would ever train. If a file has none, the first keeps its
    initial values.
    """
    known = [*store.keys()]
    for i, layer in enumerate(layers):
        if getattr(layer, "lora_enabled", False):
            names = [name for name in (f"lora_{i}_a", f"lora_{i}_b") if name in known]
            matrices = [np.array(store[name]) for name in names] or [np.array(_lora(layer)[1])]
            layer.load_own_variables = functools.partial(_load_with_lora, layer, matrices)


def without_lora(store: Any) -> dict[str, Any]:
    """The rest of a tower's own part of a file."""
    return {name: store[name] for name in [*store.keys()] if not name.startswith("lora_")}


def with_lora(layers: list[keras.Layer]) -> list[keras.Layer]:
    """Those that have LoRA's matrices."""
    return [layer for layer in layers if getattr(layer, "lora_enabled", False)]


def merge(layer: keras.Layer) -> None:
    """Adds LoRA's product to the kernel and forgets both matrices."""
    _check_not_quantised(layer)
    kernel, *matrices = _lora(layer)
    kernel.assign(_merged(layer))
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    for variable in matrices:
        internals.forget(layer, variable)
        setattr(layer, variable.name, None)
    kernel.trainable = True  # As it was: Keras locks it with `enable_lora`.


@contextlib.contextmanager
def merged(layers: list[keras.Layer]) -> Iterator[None]:
    """Within, kernels are sums and there is no LoRA, as an export wants; afterwards as before."""
    kernels = []
    for layer in with_lora(layers):
        if layer.quantization_mode is None:
            kernel, *_ = _lora(layer)
            kernels.append((layer, kernel, np.array(kernel)))
            kernel.assign(_merged(layer))
            layer.lora_enabled = False
    try:
        yield
    finally:
        for layer, kernel, before in kernels:
            layer.lora_enabled = True
            kernel.assign(before)


def _merged(layer: keras.Layer) -> Any:
    kernel, a, b = _lora(layer)
    return kernel + layer.lora_alpha / layer.lora_rank * keras.ops.matmul(a, b)


def _check_not_quantised(layer: keras.Layer) -> None:
    if layer.quantization_mode is not None:
        raise ValueError(
            f"LoRA cannot be merged into {layer.path}, which is quantised "
            f"({layer.quantization_mode}). Keep the adapters."
        )


def _load_with_lora(layer: keras.Layer, matrices: list[np.ndarray], store: Any) -> None:
    del layer.load_own_variables
    layer.load_own_variables(store)
    kernel, *lora = _lora(layer)
    for variable, matrix in zip(lora, matrices, strict=False):
        variable.assign(matrix)
    if len(matrices) == 2:
        scale = layer.lora_alpha / layer.lora_rank
        kernel.assign(kernel - scale * keras.ops.matmul(*lora))


def _lora(layer: keras.Layer) -> list[keras.Variable]:
    """A kernel and the two matrices whose product LoRA adds to it."""
    own = {variable.name: variable for variable in internals.own_weights(layer)}
    name = "kernel" if "kernel" in own else "embeddings"
    return [own[name], own[f"lora_{name}_a"], own[f"lora_{name}_b"]]

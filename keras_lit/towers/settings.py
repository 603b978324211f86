"""Layers that were frozen, quantised, given LoRA or a dtype by hand. Keras saves little of it."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
            "policy": _forgotten_policy(layer),
        }
        if changed := {name: value for name, value in settings.items() if value}:
            found[str(i)] = changed
    return found


def apply(layers: list[keras.Layer], settings: dict[str, dict[str, Any]]) -> None:
    """Does the same to the same layers of another tower of the same make, before its weights."""
    of_layers = [(layer, settings.get(str(i), {})) for i, layer in enumerate(layers)]
    for layer, found in of_layers:
        if "policy" in found:
            layer.dtype_policy = found["policy"]
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


def _forgotten_policy(layer: keras.Layer) -> str | None:
    """Of layers that Keras reads from files with the policy of the process that reads them."""
    forgets = isinstance(layer, keras.layers.InputLayer | keras.Sequential)
    policy = layer.dtype_policy
    plain = type(policy) is keras.DTypePolicy and policy.name != "float32"
    return policy.name if forgets and plain else None


def save_lora(layers: list[keras.Layer], store: Any) -> None:
    """Keeps the weights of layers with LoRA as they are; Keras writes sums, quantised anew."""
    for i, layer in enumerate(layers):
        for variable in internals.own_weights(layer) if with_lora([layer]) else ():
            store[f"lora_{i}_{variable.name}"] = variable


def load_lora(layers: list[keras.Layer], store: Any) -> None:
    """Makes the layers take these after Keras, which loads the sum and makes both matrices zero, so
    that neither would ever train. If a file has none, the first keeps its initial values.
    """
    known = [*store.keys()]
    for i, layer in enumerate(layers):
        if with_lora([layer]):
            start = f"lora_{i}_"
            kept = {x[len(start) :]: np.array(store[x]) for x in known if x.startswith(start)}
            kept = kept or {"a": np.array(_lora(layer)[1])}
            layer.load_own_variables = functools.partial(_load_with_lora, layer, kept)


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


@contextlib.contextmanager
def in_float32(layers: list[keras.Layer]) -> Iterator[None]:
    """Within, layers of float32 weights compute in it: not every format mixes it with 16 bits."""
    policies = [(layer, layer.dtype_policy) for layer in layers]
    mixed = [(x, y) for x, y in policies if type(y) is keras.DTypePolicy and "mixed" in y.name]
    for layer, _ in mixed:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in mixed:
            layer.dtype_policy = policy


@contextlib.contextmanager
def calling(layer: keras.Layer, function: Callable) -> Iterator[None]:
    """Routes a layer's `call` through a function, which gets it as its first argument."""
    own = vars(layer).get("call")
    call = functools.partial(function, layer.call)
    call.__signature__ = inspect.signature(layer.call)  # type: ignore[attr-defined]
    layer.call = call
    try:
        yield
    finally:
        del layer.call
        if own is not None:
            layer.call = own


@contextlib.contextmanager
def fused(layers: list[keras.Layer]) -> Iterator[None]:
    """Within, a batch norm by its averages is one operation, and TensorFlow makes one of it, the
    convolution before and the activation after. Keras' own are read and written once more each.
    After a depthwise convolution its kernel does the scaling.
    """
    own = keras.layers.BatchNormalization.call
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if getattr(type(layer), "call", None) is own and "call" not in vars(layer):
                stack.enter_context(calling(layer, functools.partial(_fused, layer)))
        yield


def _fused(
    layer: keras.Layer,
    call: Callable,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    by_averages = not (training and layer.trainable)
    last = len(inputs.shape) == 4 and layer.axis in (-1, 3)
    # CuDNN takes no smaller epsilon.
    if not (by_averages and last and layer.epsilon > 1.001e-5 and inputs.dtype != "float64"):
        return call(inputs, training=training, mask=mask)
    mean, variance = (tf.cast(x, "float32") for x in (layer.moving_mean, layer.moving_variance))
    scale = tf.cast(layer.gamma, "float32") if layer.scale else tf.ones_like(mean)
    offset = tf.cast(layer.beta, "float32") if layer.center else tf.zeros_like(mean)
    before = getattr(inputs, "op", None)  # None outside of graphs.
    if before is not None and before.type == "DepthwiseConv2dNative" and inputs.dtype == "float32":
        scale *= tf.math.rsqrt(variance + layer.epsilon)
        return _in_kernel(before, scale, offset - mean * scale)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        is_training=False,
    )
    return tf.cast(y, layer.compute_dtype)


def _in_kernel(convolution: tf.Operation, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """A depthwise convolution with its kernel scaled. TensorFlow joins it with a bias, but with no
    batch norm; the convolution as it was is of no use then, and is not run.
    """
    x, kernel = convolution.inputs
    names = ("strides", "padding", "data_format", "dilations", "explicit_paddings")
    attributes = {name: convolution.get_attr(name) for name in names}
    kernel *= tf.reshape(scale, kernel.shape[2:])
    return tf.nn.bias_add(
        tf.raw_ops.DepthwiseConv2dNative(input=x, filter=kernel, **attributes), offset
    )


def _merged(layer: keras.Layer) -> Any:
    kernel, a, b = _lora(layer)
    return kernel + layer.lora_alpha / layer.lora_rank * keras.ops.matmul(a, b)


def _check_not_quantised(layer: keras.Layer) -> None:
    if layer.quantization_mode is not None:
        raise ValueError(
            f"LoRA cannot be merged into {layer.path}, which is quantised "
            f"({layer.quantization_mode}). Keep the adapters."
        )


def _load_with_lora(layer: keras.Layer, kept: dict[str, np.ndarray], store: Any) -> None:
    del layer.load_own_variables
    layer.load_own_variables(store)
    kernel, a, b = _lora(layer)
    for variable in internals.own_weights(layer):
        if variable.name in kept:
            variable.assign(kept[variable.name])
    if "a" in kept:
        a.assign(kept["a"])
    if "b" in kept:  # Of an earlier file, from whose sum it is taken.
        b.assign(kept["b"])
        kernel.assign(kernel - layer.lora_alpha / layer.lora_rank * keras.ops.matmul(a, b))


def _lora(layer: keras.Layer) -> list[keras.Variable]:
    """A kernel and the two matrices whose product LoRA adds to it."""
    own = {variable.name: variable for variable in internals.own_weights(layer)}
    name = "kernel" if "kernel" in own else "embeddings"
    return [own[name], own[f"lora_{name}_a"], own[f"lora_{name}_b"]]

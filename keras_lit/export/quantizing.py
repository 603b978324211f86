"""Towers in int8, after training: of pictures by calibration, of text as its rows come."""

import hashlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# Pictures that say between which values the activations are.
PICTURES = 256
# With what cuts activations off, or their range would be that of before.
_OPERATIONS = ("Conv", "MatMul", "Gemm", "Add", "Clip", "Relu")
# Without convolutions: onnxruntime's, of activations scaled as they come, are slower than float32.
_DYNAMIC = ("MatMul", "Gemm", "Gather")


def quantize_onnx(path: pathlib.Path, rows: np.ndarray | None) -> None:
    """Puts an int8 file in the place of a float32 one, by onnxruntime's quantizers.

    With calibration `rows`, as the tower takes them, weights and activations are int8 and their
    ranges those of these rows (static); without, weights are int8, and activations are scaled as
    they come (dynamic), which suits the wide ranges inside of a transformer.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    weight_type = quantization.QuantType.QInt8
    with tempfile.TemporaryDirectory(dir=path.parent) as working:
        prepared = pathlib.Path(working, path.name)
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        if rows is None:
            quantization.quantize_dynamic(
                prepared,
                path,
                op_types_to_quantize=[*_DYNAMIC],
                per_channel=True,
                weight_type=weight_type,
            )
        else:
            quantization.quantize_static(
                prepared,
                path,
                _Reader(rows),
                op_types_to_quantize=[*_OPERATIONS],
                per_channel=True,
                weight_type=weight_type,
                activation_type=quantization.QuantType.QUInt8,
            )
    _slim(path)


def _slim(path: pathlib.Path) -> None:
    """Numbers in place of names, and no zeros where zero is the default: some 5 % of a file.

    Those of int8 stay, for without them onnxruntime computes in float32.
    """
    import onnx

    proto = onnx.load(path)
    graph = proto.graph
    zeros = {
        x.name
        for x in graph.initializer
        if x.data_type == onnx.TensorProto.INT32 and not onnx.numpy_helper.to_array(x).any()
    }
    names = {x: x for x in ("", *(x.name for x in (*graph.input, *graph.output)))}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[2:] and node.input[2] in zeros:
            del node.input[2]
        node.name = ""
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(x, f"{len(names):x}") for x in tensors]
    kept = [x for x in graph.initializer if x.name in names]
    for tensor in kept:
        tensor.name = names[tensor.name]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    onnx.save(proto, path)


def litert_options(rows: np.ndarray | None) -> dict[str, Any]:
    """What makes `keras.Model.export(format="litert")` write int8, as `quantize_onnx` does."""

    def representative() -> Iterator[list[np.ndarray]]:
        for i in range(len(rows)):  # type: ignore[arg-type]
            yield [rows[i : i + 1]]  # type: ignore[index]

    options: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    return options if rows is None else {**options, "representative_dataset": representative}


def slim_litert(path: pathlib.Path) -> None:
    """Writes a LiteRT file anew, in which equal vectors stand once and inner tensors have no names.

    In int8 each channel has a zero point of 8 bytes, in nearly as many vectors of zeros as there
    are tensors: with the names much of the file of a small convolutional tower.
    """
    import flatbuffers  # Comes with TensorFlow.
    from tensorflow.lite.tools import flatbuffer_utils

    class Builder(flatbuffers.Builder):
        def StartVector(self, size: int, count: int, alignment: int) -> Any:
            if size == 1:  # As the format wants it of weights.
                alignment = 16
            return super().StartVector(size, count, alignment)

        def CreateNumpyVector(self, x: np.ndarray) -> Any:
            key = x.dtype.str, hashlib.sha256(x.tobytes()).digest()
            if key not in places:
                places[key] = super().CreateNumpyVector(x)
            return places[key]

    places: dict[tuple[str, bytes], Any] = {}
    model = flatbuffer_utils.read_model(path)
    for graph in model.subgraphs:
        outer = {*graph.inputs, *graph.outputs}
        for i, tensor in enumerate(graph.tensors):
            if i not in outer:
                tensor.name = None
    builder = Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


class _Reader:
    """Gives onnxruntime's calibration its rows, some at a time."""

    def __init__(self, rows: np.ndarray):
        self._feeds = iter([{"pixels": rows[i : i + 8]} for i in range(0, len(rows), 8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)

"""A tower as a file that runs without TensorFlow: ONNX or LiteRT, arrays in, embeddings out."""

import contextlib
import importlib
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit.export import quantizing
from keras_lit.preprocessing.image import in_range
from keras_lit.towers import ImageTower, Tower, onnx_gelu, settings
from keras_lit.towers.encoding import unit_length

EdgeFormat = Literal["onnx", "litert"]
Run = Callable[[np.ndarray], np.ndarray]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "litert": ".tflite"}
_NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
# A file of ONNX is one message of Protocol Buffers, which has to be smaller than this.
_MAX_BYTES = 2**31 - 2**24
# Rows that a file is tried on, and the worst cosine to the tower's own embeddings that passes.
_ROWS, _LEAST_COSINE = 2, 0.9999
# The same of int8, and the mean cosine below which there is a warning.
_ROWS_INT8, _LEAST_INT8, _GOOD = 16, 0.5, 0.97


def input_spec(tower: Tower, format: EdgeFormat) -> keras.InputSpec:
    """What a tower's file takes: `pixels` uint8 [n, h, w, 3], or `token_ids` int32 [n, tokens].

    In ONNX any number of tokens, where a text has the same embedding with less padding.
    """
    if isinstance(tower, ImageTower):
        return keras.InputSpec("uint8", (None, *tower.preprocessor.image_size, 3), name="pixels")
    any_length = format == "onnx" and tower.ignores_padding
    tokens = None if any_length else tower.sequence_length
    return keras.InputSpec("int32", (None, tokens), name="token_ids")


class EdgeTower(keras.Model):
    """A tower with the scaling of its pixels before it and the length of its embeddings made 1.

    Call arguments:
        inputs: what `input_spec` says.

    Returns:
        {"embedding": [n, dim] float32 of unit-length rows}.
    """

    def __init__(self, tower: Tower, dim: int | None = None):
        super().__init__(autocast=False)
        self.dim = dim
        self.tower = tower
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        if isinstance(self.tower, ImageTower):
            inputs = in_range(inputs, self.tower.preprocessor.value_range)
        return {"embedding": unit_length(self.tower(inputs), self.dim)}


def write(
    tower: Tower,
    path: pathlib.Path,
    format: EdgeFormat,
    dim: int | None = None,
    int8: bool = False,
    rows: np.ndarray | None = None,
) -> None:
    """Writes a tower by `keras.Model.export`, in `int8` where asked for, and tries the file.

    `rows`, as the tower takes them, calibrate the activations of int8.

    Raises:
        ImportError: a package of `keras_lit[edge]` is missing.
        ValueError: the tower is too large, or what the file computes is not what the tower does.
    """
    check_installed(format)
    if format == "onnx" and (size := sum(x.numpy().nbytes for x in tower.weights)) > _MAX_BYTES:
        raise ValueError(
            f"ONNX holds at most {_MAX_BYTES:,} bytes of weights in a file. Received a tower of "
            f'{size:,}. Use `format="litert"` or a SavedModel.'
        )
    edge = EdgeTower(tower, dim)
    options = quantizing.litert_options(rows) if int8 and format == "litert" else {}
    if format == "onnx":
        onnx_gelu.teach_tf2onnx()
    layers = tower._all_layers()
    with settings.in_float32(layers):
        with settings.merged(layers), _quietly():
            given = [input_spec(tower, format)]
            edge.export(path, format, verbose=False, input_signature=given, **options)
            if format == "onnx":
                _finish_onnx(path)
                if int8:
                    quantizing.quantize_onnx(path, rows)
            elif int8:
                quantizing.slim_litert(path)
        _check_computes(edge, path, format, _LEAST_INT8 if int8 else _LEAST_COSINE, rows)


def load(path: pathlib.Path, format: EdgeFormat, threads: int | None = None) -> Run:
    """A function of arrays, as the tower of the file takes them, to embeddings [n, dim]."""
    check_installed(format)
    if format == "onnx":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(path, settings)
        (given,) = session.get_inputs()
        return lambda rows: session.run(None, {given.name: rows})[0]
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=threads).get_signature_runner()
    (given,) = run.get_input_details()
    return lambda rows: run(**{given: rows})["embedding"]


def check_installed(format: EdgeFormat) -> None:
    """Raises ImportError unless what a format needs is there."""
    for name in _NEEDS[format]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"`format`={format!r} needs the package {name}: `pip install 'keras_lit[edge]'`."
            ) from error


def _finish_onnx(path: pathlib.Path) -> None:
    """Gives input and output of a file their names, and leaves out what is there for its shape.

    Where the number of tokens is open, tf2onnx keeps a second copy of attention's weights so.
    """
    import onnx

    proto = onnx.load(path)
    graph = proto.graph
    weights = {x.name: x for x in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Shape" and node.input[0] in weights and not node.attribute:
            shape = np.array(weights[node.input[0]].dims, "int64")
            graph.initializer.append(onnx.numpy_helper.from_array(shape, node.output[0]))
            graph.node.remove(node)
        elif node.op_type == "Gemm" and len(node.input) == 2:
            # What the factor of no summand says, onnxruntime's quantizer takes for an obstacle.
            for factor in [x for x in node.attribute if x.name == "beta"]:
                node.attribute.remove(factor)
    used = {name for node in graph.node for name in node.input}
    for name in {*weights} - used - _used_inside(graph):
        graph.initializer.remove(weights[name])
    # What tf2onnx has folded it may leave behind as an input that nothing takes. What it has lost
    # is an input, too: such a file does not run, which is said later.
    given, (found,) = next(x for x in graph.input if x.name in used), graph.output
    for node in graph.node:
        node.output[:] = ["embedding" if x == found.name else x for x in node.output]
        node.input[:] = ["embedding" if x == found.name else x for x in node.input]
    del graph.input[:]
    graph.input.append(given)
    found.name = "embedding"
    for value in (graph.input[0], found):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(proto, path)


def _used_inside(graph: Any) -> set[str]:
    """What branches and loops of a graph take."""
    inner = [x.g for node in graph.node for x in node.attribute if x.HasField("g")]
    taken = (name for x in inner for node in x.node for name in node.input)
    return {*taken}.union(*map(_used_inside, inner))


def _check_computes(
    edge: EdgeTower,
    path: pathlib.Path,
    format: EdgeFormat,
    least: float,
    rows: np.ndarray | None,
) -> None:
    """Compares the file with the tower, on some rows or noise."""
    spec = input_spec(edge.tower, format)
    rng = np.random.default_rng(0)
    most = 256 if spec.dtype == "uint8" else edge.tower.vocabulary_size or 2
    count = _ROWS if least == _LEAST_COSINE else _ROWS_INT8
    if rows is None:
        # Of any number of tokens fewer than the tower's, which the converter has not seen.
        shape = [size or max(edge.tower.sequence_length // 2, 1) for size in spec.shape[1:]]
        rows = rng.integers(0, most, (count, *shape)).astype(spec.dtype)
        if spec.name == "token_ids":
            rows[:, 0] = edge.tower.pad_token_id == 0  # A text of padding alone may have no mean.
    rows = rows[:count]
    advice = "Export a SavedModel, or another backbone."
    try:
        found = load(path, format)(rows)
    except Exception as error:
        raise ValueError(
            f"{type(edge.tower.backbone).__name__} computes what {format} cannot: {error} {advice}"
        ) from error
    cosines = (found * edge(rows)["embedding"].numpy()).sum(axis=1)
    if not cosines.min() > least:
        raise ValueError(
            f"The {format} file should give the tower's embeddings, and the worst cosine between "
            f"them is {cosines.min():.6f} (in 16 bits they may differ so). {advice}"
        )
    if cosines.mean() < _GOOD:
        warnings.warn(
            f"In int8 {path.name} has a mean cosine of {cosines.mean():.2f} to the tower's own "
            f"embeddings of {len(rows)} rows. `keras_lit.export.compare` measures what that costs "
            "in recall; float32 loses nothing.",
            stacklevel=2,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the converters say of themselves."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

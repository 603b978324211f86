"""GELU for ONNX: the one that is no approximation has an operation that tf2onnx leaves as it is."""

import contextlib
import functools
from typing import Any

import numpy as np


@functools.cache
def teach_tf2onnx() -> None:
    """Lets tf2onnx, if it is installed, write erfc(x) as 1 - erf(x): ONNX has no `Erfc`."""
    with contextlib.suppress(ImportError):
        import onnx
        from tf2onnx.handler import tf_op

        @tf_op("Erfc")
        class _Erfc:
            @classmethod
            def version_9(cls, graph: Any, node: Any, **kwargs: Any) -> None:
                (x,), (output,) = node.input, node.output
                kind, shape = graph.get_dtype(output), graph.get_shape(output)
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
                one = graph.make_const(f"{node.name}_one", np.ones([], dtype))
                erf = graph.make_node("Erf", [x], name=f"{node.name}_erf")
                graph.remove_node(node.name)
                inputs, name = [one.output[0], erf.output[0]], node.name
                graph.make_node(
                    "Sub", inputs, outputs=[output], name=name, shapes=[shape], dtypes=[kind]
                )

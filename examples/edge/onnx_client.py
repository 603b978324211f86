"""Asks the ONNX towers of `keras_lit.export.save(..., format="onnx")`, without TensorFlow or Keras.

pip install numpy pillow sentencepiece onnxruntime
python examples/edge/onnx_client.py models/lit/1 --images a.jpg --text "a toucan" "a red balloon"
"""

import onnxruntime
import reference


def load(path: str) -> reference.Run:
    """A function from the arrays that the file's tower takes to embeddings."""
    try:
        session = onnxruntime.InferenceSession(path)
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX file that onnxruntime reads: {error}") from None
    name = session.get_inputs()[0].name
    return lambda rows: session.run(["embedding"], {name: rows})[0]


if __name__ == "__main__":
    reference.main(load, "onnx")

"""Asks the LiteRT towers of `keras_lit.export.save(..., format="litert")`, without TensorFlow.

pip install numpy pillow sentencepiece ai-edge-litert
python examples/edge/litert_client.py models/lit/1 --images a.jpg --text "a toucan" "a red balloon"
"""

import reference
from ai_edge_litert.interpreter import Interpreter


def load(path: str) -> reference.Run:
    """A function from the arrays that the file's tower takes to embeddings."""
    try:
        run = Interpreter(path).get_signature_runner()
    except Exception as error:
        raise ValueError(f"{path} is not a LiteRT file: {error}") from None
    (name,) = run.get_input_details()
    return lambda rows: run(**{name: rows})["embedding"]


if __name__ == "__main__":
    reference.main(load, "litert")

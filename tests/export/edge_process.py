"""Asks versions by the clients, in a process that never imports TensorFlow.

python edge_process.py EXAMPLES INPUTS.json OUTPUTS.npz, where INPUTS.json holds {format: folder},
"images" (file names) and "text".
"""

import importlib
import json
import pathlib
import sys

import numpy as np


def main(examples, inputs, outputs):
    sys.path.insert(0, f"{examples}/edge")
    import reference

    given, found = json.loads(pathlib.Path(inputs).read_text()), {}
    for format in ("onnx", "litert"):
        folder, client = pathlib.Path(given[format]), importlib.import_module(f"{format}_client")
        settings = reference.read(folder, format)
        encoders = {"images": reference.encode_images, "text": reference.encode_texts}
        for name, encode in encoders.items():
            found[f"{format} {name}"] = encode(client.load, folder, settings, given[name])
            assert encode(client.load, folder, settings, []).shape == (0, settings["embedding_dim"])
        classes = reference.classify(folder, settings, found[f"{format} images"])
        found[f"{format} classes"] = np.array([list(scores.values()) for scores in classes])
    imported = {name.split(".")[0] for name in sys.modules}
    assert not imported & {"tensorflow", "keras", "keras_lit", "keras_hub"}
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

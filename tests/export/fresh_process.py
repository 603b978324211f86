"""Answers every signature, loaded both ways; imports nothing but TensorFlow and TF-Text.

python fresh_process.py COMMANDS ARTIFACT INPUTS.npz OUTPUTS.npz [ARTIFACT INPUTS.npz OUTPUTS.npz]...

After that it runs the COMMANDS of saved_model_cli, JSON of lists of arguments.
"""

import json
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401
from tensorflow.python.tools import saved_model_cli


def main(path, inputs_path, outputs_path):
    given = dict(np.load(inputs_path, allow_pickle=True))
    outputs = {}
    for name, function in tf.saved_model.load(path).signatures.items():
        names = function.structured_input_signature[1]
        found = function(
            **{key: tf.constant(given[key].tolist(), names[key].dtype) for key in names}
        )
        outputs |= {f"eager {name} {key}": value.numpy() for key, value in found.items()}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:  # as TF Serving loads it
        graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
        for name, signature in graph.signature_def.items():
            if name == "__saved_model_init_op":
                continue
            feeds = {info.name: given[key] for key, info in signature.inputs.items()}
            fetches = {key: info.name for key, info in signature.outputs.items()}
            found = session.run(fetches, feeds)
            outputs |= {f"session {name} {key}": value for key, value in found.items()}
    imported = {name.split(".")[0] for name in sys.modules}
    # (TensorFlow itself imports Keras where it is installed.)
    assert not imported & {"keras_lit", "keras_nlp", "keras_hub", "keras_cv"}
    np.savez(outputs_path, **outputs)


if __name__ == "__main__":
    commands, *arguments = sys.argv[1:]
    for i in range(0, len(arguments), 3):
        main(*arguments[i : i + 3])
    for command in json.loads(commands):
        sys.argv = ["saved_model_cli", *command]
        try:
            saved_model_cli.main()
        except SystemExit as error:
            assert not error.code, error.code

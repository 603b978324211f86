"""Golden files, and copies of them with changes."""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
RELEASES = json.loads((GOLDEN / "lit_checkpoints.json").read_text())


def arrays_of(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def renamed(arrays, *changes):
    """The arrays with names in which each (old, new) text was replaced."""
    result = {}
    for name, array in arrays.items():
        for old, new in changes:
            name = name.replace(old, new)
        result[name] = array
    return result

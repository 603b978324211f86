"""Random unit-length rows, and the golden files."""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
RNG = np.random.default_rng(0)


def unit(*shape):
    rows = RNG.normal(size=shape).astype("float32")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def golden(name):
    """The arrays of a golden file and the results that its reference implementation gave."""
    return np.load(GOLDEN / f"{name}.npz"), json.loads((GOLDEN / "expected.json").read_text())[name]

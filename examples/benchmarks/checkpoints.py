"""Loads a made file of a released LiT's full size, and counts the released models' parameters.

    python examples/benchmarks/checkpoints.py
    python examples/benchmarks/checkpoints.py --load LiT-L16L

The file has the released layout and random numbers. "growth_of_file" is by how many times the
file's size the process grew at its peak, the model included.
"""

import argparse
import pathlib
import sys
import tempfile
import zipfile

import harness
import keras
import numpy as np

from keras_lit import checkpoints
from keras_lit.checkpoints.slots import slots_of_model


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", nargs="*", default=["LiT-B16B_2"], help="models to load")
    parser.add_argument("--count", nargs="*", default=list(checkpoints.RELEASED))
    parser.add_argument("--rounds", type=int, default=3, help="each in a new process")
    parser.add_argument("--output", type=pathlib.Path, default="runs/benchmarks/checkpoints.json")
    return parser.parse_args()


def main() -> None:
    """Counts, writes the files, loads each in a process of its own."""
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        harness.main(__file__, load, [], 0, "")
    args = parse_arguments()
    results = [{"model": name, "parameters": count(name)} for name in args.count]
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            {"library": "keras_lit", "model": name, "path": write(name, pathlib.Path(folder))}
            for name in args.load
        ]
        loaded = harness.main(__file__, load, cases, args.rounds, "")
    for result in loaded:
        del result["path"]
    harness.report(results + loaded, args.output)


def load(case: harness.Case) -> dict[str, float]:
    """Measures one load."""
    result = harness.measure(lambda: checkpoints.load_lit(case["path"]), 0)
    megabytes = pathlib.Path(case["path"]).stat().st_size / 2**20
    return {**result, "file_mb": megabytes, "growth_of_file": result["growth_mb"] / megabytes}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The arrays of a released model; no variable gets any numbers."""
    with keras.StatelessScope(initialize_variables=False):
        slots = slots_of_model(checkpoints.architecture(name))
    keras.utils.clear_session()  # Or the next scope would make the variables.
    return {name: tuple(slot.shape) for name, slot in slots.items()}


def count(name: str) -> int:
    """The parameters of a released model."""
    return sum(int(np.prod(shape)) for shape in shapes(name).values())


def write(name: str, folder: pathlib.Path) -> str:
    """Writes a file of random numbers, an array at a time; returns its path."""
    path = folder / f"{name}.npz"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for array, shape in shapes(name).items():
            array = array.replace("img/pos_", "img/Transformer/posembed_input/pos_")
            with file.open(f"{array}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, rng.standard_normal(shape, "float32") / 50)
    return str(path)


if __name__ == "__main__":
    main()

"""How long `import keras_lit` takes beside `import keras_nlp`, in turns, each in a new process.

python examples/benchmarks/import_time.py
"""

import argparse
import importlib
import pathlib
import sys
import time

import harness

LIBRARIES = ("keras_nlp", "keras_lit")


def main() -> None:
    """Imports each in turns; prints the medians and their ratio."""
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        harness.main(__file__, seconds, [], 0, "")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=pathlib.Path, default="runs/benchmarks/import_time.json")
    args = parser.parse_args()
    cases = [{"library": library} for library in LIBRARIES]
    results = harness.main(__file__, seconds, cases, args.rounds, "")
    results[1]["of_keras_nlp"] = results[1]["seconds"] / results[0]["seconds"]
    harness.report(results, args.output)


def seconds(case: harness.Case) -> dict[str, float]:
    """Seconds of an import that nothing has prepared."""
    start = time.perf_counter()
    importlib.import_module(case["library"])
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()

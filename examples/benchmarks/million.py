"""A million pairs, from features on the disk to trained heads: time and memory of each stage.

    python examples/benchmarks/million.py
    python examples/benchmarks/million.py --pairs 20000 --image-dim 64 --text-dim 32  # to try it

The features are made, the rest is real: the writer of `keras_lit.features.precompute`, its reader,
`LiT.align`, and `fit` of both heads. "MB" is the resident memory after a tenth of a stage, "growth"
by what part of it the process grew beyond until the stage ended.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import harness
import keras
from synthetic import write

import keras_lit


class Watch(keras.callbacks.Callback):
    """Notes the memory now and then, in `fit` and wherever it is asked."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks."""
        if batch % self.every == 0:
            self.seen.append(harness._memory("VmRSS"))


def run(case: harness.Case) -> dict[str, float]:
    """All stages, in one process."""
    stages: dict[str, tuple[float, list[float]]] = {}
    image_dim, text_dim, batch_size = case["image_dim"], case["text_dim"], case["batch"]
    every = max(1, case["pairs"] // batch_size // 50)
    with tempfile.TemporaryDirectory() as directory:
        seen: list[float] = []
        start = time.perf_counter()
        sizes = {"dim": image_dim, "text_dim": text_dim}
        size = write(pathlib.Path(directory), case["pairs"], watch=seen, **sizes)
        stages["write"] = time.perf_counter() - start, seen

        image_tower = keras_lit.ImageTower.from_features(image_dim)
        text_tower = keras_lit.TextTower.from_features(text_dim)
        model = keras_lit.LiT(image_tower, text_tower, "LL")
        pairs = keras_lit.features.load(directory, shuffle=True, seed=0).batch(batch_size)
        watch = Watch(every)

        def watched() -> Iterator[dict[str, Any]]:
            for i, batch in enumerate(pairs):
                watch.on_train_batch_end(i)
                yield batch

        start = time.perf_counter()
        model.align(watched(), verbose=0)
        stages["align"] = time.perf_counter() - start, watch.seen

        watch = Watch(every)
        model.compile("adam")
        start = time.perf_counter()
        model.fit(pairs, epochs=case["epochs"], callbacks=[watch], verbose=0)
        stages["fit"] = time.perf_counter() - start, watch.seen
    found = {"gb": size / 1e9}
    for name, (seconds, seen) in stages.items():
        mb, growth = harness.settled(seen)
        found |= {f"{name}_seconds": seconds, f"{name}_mb": mb, f"{name}_growth": growth}
    return found


def main() -> None:
    """Runs the case, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--image-dim", type=int, default=768)
    parser.add_argument("--text-dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/million.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    names = ("pairs", "image_dim", "text_dim", "batch", "epochs")
    case = {"library": "keras_lit", **{name: getattr(args, name) for name in names}}
    harness.report(harness.main(__file__, run, [case], 1, ""), args.output)


if __name__ == "__main__":
    main()

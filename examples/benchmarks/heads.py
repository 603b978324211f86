"""Heads alone from two caches ("LL"), beside training through a text tower of MiniLM's size ("LU").

    python examples/benchmarks/heads.py                     # pairs a second, side by side

Both are `fit` on features of width 1280 and 384, read from files, to embeddings of width 512. "LL"
trains a linear image head and a linear or MLP text head; "LU" reads token ids and trains six layers
of width 384 on 16 tokens, in smaller batches, whose loss costs less a pair. Pairs per CPU second
(over all threads) are to be read where others use the machine, too.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from typing import Any

import harness
import keras
import keras_nlp
import numpy as np
from synthetic import TOKENS, VOCABULARY, Tokens, write

import keras_lit

IMAGE_DIM, TEXT_DIM, WIDTH = 1280, 384, 512


class Clock(keras.callbacks.Callback):
    """Times epochs, without what `fit` does before and after them."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.start[0])
        self.cpu_seconds.append(time.process_time() - self.start[1])


def run(case: harness.Case) -> dict[str, float]:
    """Epochs of `fit`; the first, which traces, does not count."""
    with tempfile.TemporaryDirectory() as directory:
        sizes = {"dim": IMAGE_DIM, "text_dim": TEXT_DIM}
        write(pathlib.Path(directory), case["pairs"], tokens=True, **sizes)
        image_tower = keras_lit.ImageTower.from_features(IMAGE_DIM, WIDTH)
        if case["tuning"] == "LL":
            text_tower = keras_lit.TextTower.from_features(TEXT_DIM, WIDTH, head=case["head"])
        else:
            bert = keras_nlp.models.BertBackbone(VOCABULARY, 6, 12, TEXT_DIM, 4 * TEXT_DIM)
            text_tower = keras_lit.TextTower(bert, None, TOKENS, "mean", WIDTH)
        pairs = keras_lit.features.load(directory, shuffle=True, text_preprocessor=Tokens())
        model = keras_lit.LiT(image_tower, text_tower, case["tuning"])
        model.compile("adam")
        clock = Clock()
        batches = pairs.batch(case["batch"], drop_remainder=True)
        model.fit(batches, epochs=case["repeats"] + 1, callbacks=[clock], verbose=0)
    count = case["pairs"] // case["batch"] * case["batch"]
    seconds, cpu_seconds = (np.median(x[1:]) for x in (clock.seconds, clock.cpu_seconds))
    return {
        "seconds": float(seconds),
        "pairs_per_second": count / seconds,
        "pairs_per_cpu_second": count / cpu_seconds,
    }


def main() -> None:
    """Runs the cases in turns, prints the table with the ratios to "LU", writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=65_536)
    parser.add_argument("--lu-batch", type=int, default=256)
    parser.add_argument("--lu-pairs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/heads.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    common = {"library": "keras_lit", "repeats": args.repeats}
    of_heads = {"tuning": "LL", "batch": args.batch, "pairs": args.pairs}
    of_text = {"tuning": "LU", "batch": args.lu_batch, "pairs": args.lu_pairs, "head": "linear"}
    cases = [{**of_heads, "head": head, **common} for head in ("linear", "mlp")]
    results = harness.main(__file__, run, [*cases, {**of_text, **common}], args.rounds, "")
    for result in results:
        for name in ("pairs_per_second", "pairs_per_cpu_second"):
            result[name.replace("pairs_per", "ratio_per")] = result[name] / results[-1][name]
    harness.report(results, args.output)


if __name__ == "__main__":
    main()

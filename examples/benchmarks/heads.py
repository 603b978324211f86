"""Heads alone from two caches ("LL"), beside training through a text tower of MiniLM's size ("LU").

    python examples/benchmarks/heads.py                     # pairs a second, side by side

Both are `fit` on features of width 1280 and 384, read from files, to embeddings of width 512. "LL"
trains linear heads or MLP heads, four times as wide as what they are given; "LU" reads token ids
and trains six layers of width 384 on 16 tokens, in smaller batches, whose loss costs less a pair.
Pairs per CPU second (over all threads) are to be read where others use the machine, too. What the
matrix products of a pair cost, "MFLOP", says by how much "LL" can be faster at most.
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
LAYERS = 6


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
        image_tower = keras_lit.ImageTower.from_features(IMAGE_DIM, WIDTH, head=case["image_head"])
        if case["tuning"] == "LL":
            text_tower = keras_lit.TextTower.from_features(TEXT_DIM, WIDTH, head=case["head"])
        else:
            bert = keras_nlp.models.BertBackbone(VOCABULARY, LAYERS, 12, TEXT_DIM, 4 * TEXT_DIM)
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
        "mflop": mflop(case),
        "seconds": float(seconds),
        "pairs_per_second": count / seconds,
        "pairs_per_cpu_second": count / cpu_seconds,
    }


def mflop(case: harness.Case) -> float:
    """Millions of multiplications and additions in the matrix products of one pair's step.

    A weight costs 2 in the forward pass, 2 for its gradient, and 2 for that of its input where
    something below it trains. The loss makes its logits twice, and each side's gradient of them.
    """

    def head(kind: str, dim: int) -> int:
        return 4 * dim * WIDTH if kind == "linear" else 4 * dim * 4 * dim + 6 * 4 * dim * WIDTH

    heads = head(case["image_head"], IMAGE_DIM)
    loss = 4 * 2 * case["batch"] * WIDTH
    if case["tuning"] == "LL":
        return (heads + head(case["head"], TEXT_DIM) + loss) / 1e6
    attention = 2 * 6 * TOKENS * TEXT_DIM  # Scores and what they weigh, of one token.
    tokens = TOKENS * LAYERS * (6 * 12 * TEXT_DIM**2 + attention)
    return (heads + tokens + 6 * TEXT_DIM * WIDTH + loss) / 1e6


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
    of_text = {"tuning": "LU", "batch": args.lu_batch, "pairs": args.lu_pairs}
    cases = [
        {**of_heads, "image_head": "linear", "head": "linear", **common},
        {**of_heads, "image_head": "linear", "head": "mlp", **common},
        {**of_heads, "image_head": "mlp", "head": "mlp", **common},
        {**of_text, "image_head": "linear", "head": "linear", **common},
    ]
    results = harness.main(__file__, run, cases, args.rounds, "")
    for result in results:
        for name in ("pairs_per_second", "pairs_per_cpu_second"):
            result[name.replace("pairs_per", "ratio_per")] = result[name] / results[-1][name]
    harness.report(results, args.output)


if __name__ == "__main__":
    main()

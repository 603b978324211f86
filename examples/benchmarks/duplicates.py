"""Near-duplicates among many embeddings and hashes: seconds and memory, beside comparing all pairs.

    python examples/benchmarks/duplicates.py                  # 100,000 x 100,000, dim 512
    python examples/benchmarks/duplicates.py --images 20000

A tenth of the queries are noisy copies of references (cosine 0.9 to 1; up to 32 of 256 bits). The
time of comparing all pairs of hashes is that of a hundredth of the queries, times 100; all pairs of
embeddings are compared. The memory of a search includes the arrays that are searched.
"""

import argparse
import os
import pathlib
import time

import harness
import numpy as np

from keras_lit.data import duplicates

DIM, BITS = 512, 256


def main() -> None:
    """Each case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default="runs/benchmarks/duplicates.json")
    args, _ = parser.parse_known_args()
    cases = [
        {"of": of, "library": library, "images": args.images}
        for of in ("embeddings", "hashes")
        for library in ("keras_lit", "all pairs")
    ]
    results = harness.main(__file__, run, cases, args.repeats, peer="")
    harness.report(results, args.output)


def run(case: harness.Case) -> dict[str, float]:
    """Seconds of one search, recall of the planted copies, memory at its peak."""
    queries, references, planted = globals()[f"make_{case['of']}"](case["images"])
    harness._forget_peak()
    start = time.perf_counter()
    if case["library"] == "all pairs":
        factor = 100 if case["of"] == "hashes" else 1
        part, expected = queries[: len(queries) // factor], planted[: len(queries) // factor]
        found = globals()[f"all_{case['of']}"](part, references)
    elif case["of"] == "embeddings":
        matches = duplicates.match_embeddings(queries, references, 0.9)
        factor, found, expected = 1, matches.queries, planted
    else:
        matches = duplicates.match_hashes(queries, references, 32)
        factor, found, expected = 1, matches.queries, planted
    seconds = time.perf_counter() - start
    hit = np.zeros(len(expected), bool)
    hit[found] = True
    return {
        "seconds": factor * seconds,
        "peak_mb": harness._memory("VmHWM"),
        "recall": float(hit[expected].mean()),
        "wrong": float(hit[~expected].mean()),
        "cores": len(os.sched_getaffinity(0)),
    }


def make_embeddings(count: int) -> tuple[np.ndarray, ...]:
    """Unit-length rows around 1,000 topics; every tenth query a copy with noise."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=[1000, DIM]).astype("float32")

    def draw() -> np.ndarray:
        rows = rng.standard_normal([count, DIM], "float32")
        rows += 0.7 * topics[rng.integers(0, 1000, count)]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    references, queries = draw(), draw()
    planted = np.arange(count) % 10 == 0
    noise = rng.standard_normal([planted.sum(), DIM], "float32") / DIM**0.5
    # cos = 1 / sqrt(1 + size**2), from 1 down to 0.9.
    size = rng.uniform(0, 0.47, [len(noise), 1]).astype("float32")
    queries[planted] = references[rng.integers(0, count, len(noise))] + size * noise
    return queries, references, planted


def make_hashes(count: int) -> tuple[np.ndarray, ...]:
    """Random bits; every tenth query a copy with up to 32 flipped."""
    rng = np.random.default_rng(0)
    queries, references = (rng.integers(0, 256, [count, BITS // 8], "uint8") for _ in range(2))
    planted = np.arange(count) % 10 == 0
    copies = np.unpackbits(references[rng.integers(0, count, planted.sum())], axis=1)
    for row in copies:
        row[rng.choice(BITS, rng.integers(0, 33), replace=False)] ^= 1
    queries[planted] = np.packbits(copies, axis=1)
    return queries, references, planted


def all_embeddings(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """The rows with a match, by matrix products of a thousand rows."""
    parts = (queries[start : start + 1000] for start in range(0, len(queries), 1000))
    return np.flatnonzero(np.concatenate([(p @ references.T).max(axis=1) >= 0.9 for p in parts]))


def all_hashes(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """The rows with a match, by comparing all bits."""
    words, others = queries.view("uint64"), references.view("uint64")
    distances = (np.bitwise_count(row ^ others).sum(axis=1, dtype="int64") for row in words)
    return np.flatnonzero([distance.min() <= 32 for distance in distances])


if __name__ == "__main__":
    main()

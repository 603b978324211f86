"""Time and memory of `retrieval_recall`, beside this machine's own rate of matrix products.

    python examples/benchmarks/retrieval.py          # 50,000 images x 250,000 texts, dim 512

The rate is that of float32 products of 4096 x 4096 matrices, sustained for some seconds right
before and right after (their mean), in TensorFlow or NumPy, whichever is faster. The recall's own
rate counts the products that it needs once, 2 x images x texts x dim operations, and nothing else
that it does.
"""

import argparse
import pathlib
import sys
import time

import harness
import numpy as np


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    from keras_lit.evaluation import retrieval_recall

    rng = np.random.default_rng(0)
    images, texts = (
        rng.normal(size=[case[name], case["dim"]]).astype("float32") for name in ("images", "texts")
    )
    index = np.arange(case["texts"]) % case["images"]
    texts += images[index] / 4
    for rows in (images, texts):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    before = matmul_rates(case["rate_seconds"], case["rate_size"])
    results = []
    found = harness.measure(
        lambda: results.append(retrieval_recall(images, texts, index, verbose=0)), case["repeats"]
    )
    rate = np.mean([before, matmul_rates(case["rate_seconds"], case["rate_size"])], axis=0).max()
    operations = 2 * case["images"] * case["texts"] * case["dim"]
    own = operations / found["seconds"] / 1e9
    print(results[0], file=sys.stderr)
    return {**found, "gflops": own, "matmul_gflops": float(rate), "share": own / float(rate)}


def matmul_rates(seconds: float, size: int) -> list[float]:
    """The machine's rates of float32 matrix products in TensorFlow and NumPy, in 10^9 a second."""
    import tensorflow as tf

    a, b = np.random.default_rng(0).normal(size=[2, size, size]).astype("float32")
    x, y = tf.constant(a), tf.constant(b)
    out = np.empty_like(a)
    rates = []
    for multiply in (lambda: tf.matmul(x, y).numpy(), lambda: np.matmul(a, b, out=out)):
        multiply()
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            multiply()
            count += 1
        rates.append(2 * size**3 * count / (time.perf_counter() - start) / 1e9)
    return rates


def main() -> None:
    """Runs the case, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--texts", type=int, default=250_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=0, help="beyond a first run, which counts")
    parser.add_argument("--rate-seconds", type=float, default=8.0, help="of each of four rates")
    parser.add_argument("--rate-size", type=int, default=4096, help="of the square matrices")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/retrieval.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    names = ("images", "texts", "dim", "repeats", "rate_seconds", "rate_size")
    case = {"library": "keras_lit", **{name: getattr(args, name) for name in names}}
    results = harness.main(__file__, run, [case], 1, "")
    harness.report(results, args.output)


if __name__ == "__main__":
    main()

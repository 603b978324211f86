"""Time and memory of `LiT.align` of cached pairs, one pass with cross-validation.

    python examples/benchmarks/align.py          # 100,000 pairs of 1280 and 384 features

The image features stand for a cache's; text features are the mean of embeddings, which is as cheap.
To make up the pairs is part of the time.
"""

import argparse
import pathlib
import time

import harness


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_lit

    keras.utils.set_random_seed(0)
    backbone = keras.Sequential(
        [keras.Input([16], dtype="int32"), keras.layers.Embedding(5000, case["text_dim"])]
    )
    text_tower = keras_lit.TextTower(backbone, pooling="mean", pad_token_id=-1)
    image_tower = keras_lit.ImageTower.from_features(case["image_dim"])
    model = keras_lit.LiT(image_tower, text_tower, "LU")
    mixing = np.random.default_rng(0).normal(size=[case["text_dim"], case["image_dim"]])
    mixing = tf.constant(mixing, tf.float32)

    def pairs(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """A batch whose images say, with noise, what the texts say."""
        seed = tf.stack([tf.constant(0, tf.int64), seed])
        token_ids = tf.random.stateless_uniform([500, 16], seed, 0, 5000, tf.int32)
        meaning = tf.reduce_mean(tf.gather(backbone.layers[0].embeddings, token_ids), axis=1)
        noise = tf.random.stateless_normal([500, case["image_dim"]], seed)
        return {"image_features": meaning @ mixing + case["noise"] * noise, "text": token_ids}

    data = tf.data.Dataset.range(case["pairs"] // 500).map(pairs, tf.data.AUTOTUNE)
    start = time.process_time()
    results = []
    found = harness.measure(lambda: results.append(model.align(data, verbose=0)), repeats=0)
    seconds = time.process_time() - start
    return {**found, "cpu_seconds": seconds, "mean_recall": results[0].mean_recall}


def main() -> None:
    """Runs the case and writes what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--image-dim", type=int, default=1280)
    parser.add_argument("--text-dim", type=int, default=384)
    parser.add_argument("--noise", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/align.json"))
    args = parser.parse_args()
    case = {name: getattr(args, name) for name in ("pairs", "image_dim", "text_dim", "noise")}
    cases = [{"library": "keras_lit", **case}]
    harness.report(harness.main(__file__, run, cases, args.rounds, peer=""), args.output)


if __name__ == "__main__":
    main()

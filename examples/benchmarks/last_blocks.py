"""Training the last blocks of an image tower: from what enters them, kept, beside from pictures.

    python examples/benchmarks/last_blocks.py                # two blocks of twelve
    python examples/benchmarks/last_blocks.py --blocks 1 4   # others

`fit` of a keras-hub ViT with `image_options=keras_lit.Lock(last_blocks=k)` and a text tower that
costs next to nothing, on pictures that are preprocessed already. "MFLOP" is what the products of
matrices in the ViT cost a picture: one forward pass of the blocks that run, and twice as much back
through those that train; "MFLOP ratio" is the ratio of speeds that they predict. "Loss" is that of
the last epoch, after steps of SGD: the cache changes nothing else. Pictures per CPU second (over
all threads) are to be read where others use the machine, too.
"""

import argparse
import pathlib
import sys
import tempfile

import harness
import keras
import keras_nlp
import numpy as np
import tensorflow as tf
from heads import Clock

import keras_lit

TEXT = (100, 8, 16, 1, 32, 2)  # Vocabulary, tokens, width, layers, MLP's width, heads.


def mflop(case: harness.Case, forward: int, backward: int) -> float:
    """Of a picture's products of matrices: forward through some blocks, back through some."""
    tokens, width = (case["size"] // case["patch"]) ** 2 + 1, case["width"]
    block = tokens * (24 * width**2 + 4 * tokens * width)
    patches = 0 if forward == backward else 2 * tokens * width * 3 * case["patch"] ** 2
    return (patches + (forward + 2 * backward) * block) / 1e6


def run(case: harness.Case) -> dict[str, float]:
    """Epochs of `fit`; the first, which traces, does not count."""
    tf.config.threading.set_intra_op_parallelism_threads(case["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(case["threads"])
    keras.utils.set_random_seed(0)
    shape = (case["size"], case["size"], 3)
    sizes = (case["patch"], case["layers"], case["width"] // 64 or 1, case["width"])
    vit = keras_nlp.models.ViTBackbone(shape, *sizes, 4 * case["width"])
    image_tower = keras_lit.ImageTower(vit, projection_dim=64)
    text = keras_lit.backbones.TextTransformer(*TEXT)
    text_tower = keras_lit.TextTower(text, sequence_length=TEXT[1])
    rng, count = np.random.default_rng(0), case["pictures"]
    pairs = {
        "image": rng.uniform(-1, 1, [count, *shape]).astype("float32"),
        "text": rng.integers(1, TEXT[0], [count, TEXT[1]]),
    }
    rows = tf.data.Dataset.from_tensor_slices(pairs)
    with tempfile.TemporaryDirectory() as directory:
        if case["source"] == "cache":
            options = {"dtype": "float32", "verbose": False, "last_blocks": case["blocks"]}
            keras_lit.features.precompute(image_tower, rows, directory, case["batch"], 1, **options)
            rows = keras_lit.features.load(directory)
        lock = keras_lit.Lock(last_blocks=case["blocks"])
        model = keras_lit.LiT(image_tower, text_tower, "UU", image_options=lock)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        clock, epochs = Clock(), case["repeats"] + 1
        batches = rows.batch(case["batch"])
        losses = model.fit(batches, epochs=epochs, callbacks=[clock], verbose=0).history["loss"]
    runs = case["blocks"] if case["source"] == "cache" else case["layers"]
    return {
        "pictures_per_second": count / np.median(clock.seconds[1:]),
        "pictures_per_cpu_second": count / np.median(clock.cpu_seconds[1:]),
        "mflop": mflop(case, runs, case["blocks"]),
        "loss": losses[-1],
    }


def main() -> None:
    """Runs the cases in turns, prints the table with the ratios to pictures, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[2])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs/last_blocks.json")
    )
    args = parser.parse_args([] if "--case" in sys.argv else None)
    options = {k: v for k, v in vars(args).items() if k not in ("rounds", "output", "blocks")}
    cases = [
        {"library": "keras_lit", "source": source, "blocks": blocks, **options}
        for blocks in args.blocks
        for source in ("pictures", "cache")
    ]
    results = harness.main(__file__, run, cases, args.rounds, "")
    for i, result in enumerate(results):
        base = results[i - i % 2]
        for name in ("pictures_per_second", "pictures_per_cpu_second"):
            result[f"{name}_ratio"] = result[name] / base[name]
        result["mflop_ratio"] = base["mflop"] / result["mflop"]
        result["loss_gap"] = abs(result["loss"] - base["loss"])
    harness.report(results, args.output)


if __name__ == "__main__":
    main()

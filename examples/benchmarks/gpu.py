"""What a GPU is asked: is it right, how fast is a step, how large may a batch be.

    pip install -e . 'tensorflow[and-cuda]' && python examples/benchmarks/gpu.py --peer PYTHON

Under eight minutes on one large card. Without a GPU the same cases run at small sizes, which shows
that the script works and nothing else. "products" are the matrix products of a step alone; peak_mb
is the memory of the card.
"""

import argparse
import pathlib
import runpy
import sys
from typing import Any

import harness
import loss as of_loss
import numpy as np
import train_step


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    import tensorflow as tf

    if case["library"] == "open_clip":
        return step_on_card(case)
    tf.config.experimental.enable_tensor_float_32_execution(case["dtype"] == "tensorfloat32")
    if case["kind"] == "right":
        return right(case["dtype"])
    dtype = "float32" if case["dtype"] == "tensorfloat32" else case["dtype"]
    kinds = {"step": train_step.run, "loss": of_loss.run, "image": of_image}
    found = kinds[case["kind"]]({**case, "dtype": dtype})
    if case["kind"] == "step":
        found["tokens_per_second"] = found["pairs_per_second"] * case["tokens"]
    if gpus := tf.config.list_logical_devices("GPU"):
        found["peak_mb"] = tf.config.experimental.get_memory_info(gpus[0].name[8:])["peak"] / 2**20
    return found


def of_image(case: harness.Case) -> dict[str, float]:
    """A step from images or from the cache."""
    return runpy.run_path(str(pathlib.Path(__file__).parent / "features.py"))["run"](case)


def step_on_card(case: harness.Case) -> dict[str, float]:
    """open_clip's step, on the card where torch sees one."""
    import torch

    if not torch.cuda.is_available():
        found = train_step.run(case)
    else:
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = case["dtype"] == "tensorfloat32"
        found = train_step.run(case)
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return {**found, "tokens_per_second": found["pairs_per_second"] * case["tokens"]}


def right(dtype: str) -> dict[str, float]:
    """The largest error of the loss and its gradient; what is locked stays; NaN has its name."""
    import keras
    import tensorflow as tf

    import keras_lit

    rng = np.random.default_rng(0)
    rows = rng.normal(size=[2, 96, 8])
    image, text = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    with tf.GradientTape() as tape:
        given = tf.constant(text, tf.float32)
        tape.watch(given)
        loss = keras_lit.losses.softmax_contrastive_loss(
            tf.constant(image, tf.float32), given, tf.math.log(20.0)
        )
    logits = 20 * image @ text.T
    by_image, by_text = (np.exp(logits - logits.max(axis, keepdims=True)) for axis in (1, 0))
    by_image /= by_image.sum(1, keepdims=True)
    by_text /= by_text.sum(0, keepdims=True)
    expected = -np.log(np.diag(by_image) * np.diag(by_text)).mean() / 2
    of_logits = (by_image + by_text - 2 * np.eye(96)) / (2 * 96)
    gradient = 20 * of_logits.T @ image
    error = np.abs(tape.gradient(loss, given).numpy() - gradient).max() / np.abs(gradient).max()
    error = max(error, abs(float(loss) - expected) / expected)
    if error > (1e-2 if dtype == "tensorfloat32" else 1e-5):
        raise AssertionError(f"The loss or its gradient is off by {error:.1g} of its largest.")

    if dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = keras.Sequential([keras.Input([32, 32, 3]), keras.layers.Conv2D(8, 8, strides=8)])
    tower = keras_lit.ImageTower(
        backbone, preprocessor=keras_lit.preprocessing.ImagePreprocessor(32)
    )
    text_tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 32, 2, 64, 4))
    model = keras_lit.LiT(tower, text_tower, tuning="LU")
    model.compile(keras_lit.optimizers.Adam(1e-3), jit_compile=True)
    locked = [x.numpy() for x in backbone.weights]
    pairs = {
        "image": rng.integers(0, 256, [64, 32, 32, 3]).astype("uint8"),
        "text": rng.integers(1, 100, [64, 16]).astype("int32"),
    }
    history = model.fit(pairs, batch_size=32, epochs=20, verbose=0).history
    if not all(np.array_equal(a, b) for a, b in zip(locked, backbone.weights, strict=True)):
        raise AssertionError("A locked weight moved.")
    if not history["loss"][-1] < 0.9 * history["chance_loss"][-1]:
        raise AssertionError(f"64 pairs were not learned: {history['loss']}.")
    backbone.weights[0].assign(np.full(backbone.weights[0].shape, np.nan))
    try:
        model.fit(pairs, batch_size=32, verbose=0)
    except tf.errors.InvalidArgumentError as problem:
        if "image tower" not in str(problem):
            raise
    else:
        raise AssertionError("NaN went unnoticed under XLA.")
    return {"largest_error": float(error)}


def cases(large: bool) -> list[harness.Case]:
    """At the sizes of a card, or at those that two cores do in a minute."""
    shape = {"batch": 4096, "tokens": 16, "width": 768, "layers": 12}
    batches, tower, images = (32_768, 131_072), "L/16", 256
    if not large:
        shape, batches = {"batch": 8, "tokens": 8, "width": 64, "layers": 1}, (64, 128)
        tower, images = "Ti/32", 2
    step = {"library": "keras_lit", "kind": "step", **shape, "micro_batch_size": None, "repeats": 5}
    of_text: list[harness.Case] = []
    for dtype in ("float32", "tensorfloat32", "bfloat16"):
        of_text += [{**step, "dtype": dtype, "jit": jit} for jit in (False, True)]
        of_text += [
            {**step, "dtype": dtype, "jit": False, "library": library}
            for library in ("products", "open_clip")
        ]
    loss = {"library": "keras_lit", "kind": "loss", "loss": "softmax", "dim": 768, "replicas": 1}
    image = {"library": "keras_lit", "kind": "image", "what": "step", "tower": tower}
    image |= {"dtype": "bfloat16", "batch": images, "repeats": 3, "width": 512, "layers": 12}
    if not large:
        image |= {"width": 64, "layers": 1}
    return [
        *(
            {"library": "keras_lit", "kind": "right", "dtype": dtype}
            for dtype in ("float32", "tensorfloat32", "bfloat16")
        ),
        *of_text,
        *({**loss, "dtype": "bfloat16", "batch": batch, "repeats": 3} for batch in batches),
        *({**image, "cached": cached} for cached in (False, True)),
    ]


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["right", "step", "loss", "image"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="of each case")
    parser.add_argument("--peer", default="", help="a Python that has open_clip_torch and CUDA")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/gpu.json"))
    chosen: list[Any] = []
    args = parser.parse_args([] if "--case" in sys.argv else None)
    if "--case" not in sys.argv:
        import tensorflow as tf

        cards = tf.config.list_physical_devices("GPU")
        names = [tf.config.experimental.get_device_details(x)["device_name"] for x in cards]
        print(", ".join(names) or "No GPU: small sizes on the CPU, which say nothing of a card.")
        chosen = [x for x in cases(large=bool(cards)) if x["kind"] in args.kinds]
        for case in chosen:
            case.update({"repeats": args.repeats} if args.repeats else {})
    harness.report(harness.main(__file__, run, chosen, args.rounds, args.peer), args.output)


if __name__ == "__main__":
    main()

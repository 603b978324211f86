"""Precomputed features: encoding, reading, training from the cache, memory.

    python examples/benchmarks/features.py encode --peer PYTHON   # ViT-B/32, images a second
    python examples/benchmarks/features.py convolutions           # beside Keras' own layers
    python examples/benchmarks/features.py step                   # cached and un-cached step
    python examples/benchmarks/features.py fit                    # cache and tensors in memory
    python examples/benchmarks/features.py gap                    # float16 against float32 cache
    python examples/benchmarks/features.py read                   # pairs a second of width 768
    python examples/benchmarks/features.py stream --pairs 1000000 # memory, bytes a pair

The text tower of `step` has 12 layers of width 512 (or --layers and --width), 16 tokens and a
vocabulary of 32,000.
"""

import argparse
import gc
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import harness
import numpy as np
from synthetic import DIM, TOKENS, VOCABULARY, Tokens, write


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    return {
        **{"encode": encode, "convolutions": convolutions, "step": step, "fit": fit},
        **{"gap": gap, "read": read, "stream": stream},
    }[case["what"]](case)


def encode(case: harness.Case) -> dict[str, float]:
    """One batch of preprocessed images through the locked tower."""
    images = np.random.default_rng(0).normal(size=[case["batch"], 224, 224, 3]).astype("float32")
    make = open_clip_encoder if case["library"] == "open_clip" else keras_lit_encoder
    result = harness.measure(make(images, case), case["repeats"])
    return {**result, "images_per_second": case["batch"] / result["seconds"]}


def keras_lit_encoder(images: np.ndarray, case: harness.Case) -> Any:
    """What `precompute` runs for each batch."""
    from keras_lit.features import feature_rows

    encoder = feature_rows.encoder(image_tower(case), case["batch"])
    return lambda: encoder(images)


def convolutions(case: harness.Case) -> dict[str, float]:
    """One batch through a convolutional backbone, as a locked tower's or as Keras calls it."""
    import keras
    import tensorflow as tf

    import keras_lit
    from keras_lit.features import feature_rows

    images = np.random.default_rng(0).normal(size=[case["batch"], 224, 224, 3]).astype("float32")
    keras.utils.set_random_seed(0)
    if case["backbone"] == "EfficientNetLite0":
        backbone = keras_lit.demo.efficientnet_lite0().backbone
    else:
        backbone = getattr(keras.applications, case["backbone"])(weights=None, include_top=False)
    if case["library"] == "keras_lit":
        compute = feature_rows.encoder(keras_lit.ImageTower(backbone, "mean"), case["batch"])
    else:
        plain = tf.function(lambda x: keras.ops.mean(backbone(x, training=False), axis=(1, 2)))
        compute = lambda images: plain(images).numpy()  # noqa: E731
    result = harness.measure(lambda: compute(images), case["repeats"])
    return {**result, "images_per_second": case["batch"] / result["seconds"]}


def open_clip_encoder(images: np.ndarray, case: harness.Case) -> Any:
    """open_clip's visual tower without its projection, in the dtype or under autocast."""
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.set_num_threads(2)
    vision = CLIPVisionCfg(layers=12, width=768, patch_size=32, image_size=224)
    visual = CLIP(512, vision, CLIPTextCfg(layers=1)).visual.eval()
    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    autocast = case["dtype"] == "autocast"
    if case["dtype"] == "bfloat16":
        visual, pixels = visual.to(torch.bfloat16), pixels.to(torch.bfloat16)

    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            visual(pixels).float().numpy()

    return step


def step(case: harness.Case) -> dict[str, float]:
    """A training step: forward through both towers (or one), backward, Adafactor."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    model = lit(image_tower(case), case["width"], case["layers"])
    text = rng.integers(1, VOCABULARY, [case["batch"], TOKENS]).astype("int32")
    batch = {"text": tf.constant(text)}
    if case["cached"]:
        shape = [case["batch"], model.image_tower.feature_dim]
        batch["image_features"] = tf.constant(rng.normal(size=shape).astype("float32"))
    else:
        shape = [case["batch"], 224, 224, 3]
        batch["image"] = tf.constant(rng.normal(size=shape).astype("float32"))
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    result = harness.measure(lambda: float(model.train_function(batches)["loss"]), case["repeats"])
    return {**result, "pairs_per_second": case["batch"] / result["seconds"]}


def fit(case: harness.Case) -> dict[str, float]:
    """Epochs of `fit` from the cache and from tensors in memory, in turns in one process.

    Both read the same batches of features and token ids; ratio is that of the medians.
    """
    import keras
    import tensorflow as tf

    import keras_lit

    with tempfile.TemporaryDirectory() as directory:
        write(pathlib.Path(directory), case["pairs"], tokens=True)
        cached = keras_lit.features.load(directory, text_preprocessor=Tokens())
        whole = next(iter(cached.batch(case["pairs"])))
        memory = tf.data.Dataset.from_tensor_slices(
            {name: whole[name] for name in ("image_features", "text")}
        )
        tower = keras_lit.ImageTower.from_features(DIM)
        model = keras_lit.LiT(
            tower, keras_lit.TextTower.from_size(case["size"], vocabulary_size=VOCABULARY)
        )
        model.compile(keras_lit.optimizers.Adafactor(1e-4))
        seconds: dict[str, list[float]] = {"memory": [], "cache": []}

        class Clock(keras.callbacks.Callback):
            """Times an epoch, without what `fit` does before and after it."""

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.start = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.seconds = time.perf_counter() - self.start

        clock = Clock()
        for turn in range(case["repeats"] + 1):
            for name, pairs in (("memory", memory), ("cache", cached))[:: 1 if turn % 2 else -1]:
                model.fit(pairs.batch(case["batch"]), verbose=0, callbacks=[clock])
                if turn:  # The first one traces.
                    seconds[name].append(clock.seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": medians["cache"],
        "cache_pairs_per_second": case["pairs"] / medians["cache"],
        "memory_pairs_per_second": case["pairs"] / medians["memory"],
        "ratio": medians["memory"] / medians["cache"],
    }


def gap(case: harness.Case) -> dict[str, float]:
    """What storing features as float16 does to training, beside a float32 cache of the same ones.

    loss_gap: the largest relative difference between the losses of an epoch. weights_gap: the
    distance between the weights at the end, relative to the way they went in training.
    """
    import keras

    import keras_lit

    losses, weights = [], []
    start = time.perf_counter()
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory() as directory:
            write(pathlib.Path(directory), case["pairs"], tokens=True, dtype=dtype)
            pairs = keras_lit.features.load(directory, text_preprocessor=Tokens())
            keras.utils.set_random_seed(0)
            model = keras_lit.LiT(
                keras_lit.ImageTower.from_features(DIM),
                keras_lit.TextTower.from_size(case["size"], vocabulary_size=VOCABULARY),
            )
            model.compile(keras_lit.optimizers.Adafactor(1e-3))
            before = flat(model)
            history = model.fit(pairs.batch(case["batch"]), epochs=case["epochs"], verbose=0)
        losses.append(np.array(history.history["loss"]))
        weights.append(flat(model))
    way = np.linalg.norm(weights[0] - before)
    return {
        "seconds": time.perf_counter() - start,
        "first_loss": float(losses[0][0]),
        "last_loss": float(losses[0][-1]),
        "loss_gap": float(np.abs(losses[1] / losses[0] - 1).max()),
        "weights_gap": float(np.linalg.norm(weights[1] - weights[0]) / way),
    }


def flat(model: Any) -> np.ndarray:
    """All weights that train, as one vector."""
    return np.concatenate([np.ravel(weight) for weight in model.trainable_weights])


def read(case: harness.Case) -> dict[str, float]:
    """All pairs of a cache in batches, with and without a shuffle."""
    import keras_lit

    with tempfile.TemporaryDirectory() as directory:
        write(pathlib.Path(directory), case["pairs"])
        pairs = keras_lit.features.load(directory, shuffle=case["shuffle"], seed=0)
        result = harness.measure(lambda: count(pairs.batch(512)), case["repeats"])
    return {**result, "pairs_per_second": case["pairs"] / result["seconds"]}


def stream(case: harness.Case) -> dict[str, float]:
    """Writes and reads many pairs and looks at the resident memory all along."""
    import keras_lit

    with tempfile.TemporaryDirectory() as directory:
        start, written = time.perf_counter(), []
        size = write(pathlib.Path(directory), case["pairs"], watch=written)
        seconds = time.perf_counter() - start
        keras_lit.features.verify(directory)
        pairs = keras_lit.features.load(directory, shuffle=True, seed=0)
        epochs = []
        for _ in range(case["repeats"]):
            watched: list[float] = []
            count(pairs.batch(512), watched)
            epochs.append(watched)
            gc.collect()
    writing_mb, writing_growth = harness.settled(written)
    reading_mb, reading_growth = harness.settled([*itertools.chain(*epochs)], len(epochs[0]))
    return {
        "seconds": seconds,
        "bytes_per_pair": size / case["pairs"],
        "written_per_second": case["pairs"] / seconds,
        "writing_mb": writing_mb,
        "writing_growth": writing_growth,
        "reading_mb": reading_mb,
        "reading_growth": reading_growth,
    }


def count(batches: Any, watch: list[float] | None = None) -> int:
    """Reads everything; notes the memory now and then."""
    pairs = 0
    for i, batch in enumerate(batches):
        pairs += len(batch["image_features"])
        if watch is not None and i % 100 == 0:
            watch.append(harness._memory("VmRSS"))
    return pairs


def image_tower(case: harness.Case) -> Any:
    """A ViT with its CLS token, as the paper's."""
    import keras

    import keras_lit

    if case["dtype"] == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    return keras_lit.ImageTower(keras_lit.backbones.VisionTransformer.from_size(case["tower"]))


def lit(tower: Any, width: int, layers: int) -> Any:
    """A compiled LiT with a text tower of this size."""
    import keras_lit

    backbone = keras_lit.backbones.TextTransformer(
        VOCABULARY, TOKENS, width, layers, 4 * width, width // 64, pooling="last"
    )
    model = keras_lit.LiT(tower, keras_lit.TextTower(backbone), "LU")
    model.compile(keras_lit.optimizers.Adafactor(1e-4))
    return model


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["encode", "convolutions", "step", "fit", "gap", "read", "stream"]
    parser.add_argument("what", nargs="?", choices=names)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--sizes", nargs="+", default=["S", "B"], help="text towers of fit, gap")
    parser.add_argument("--epochs", type=int, default=5, help="of gap")
    parser.add_argument("--towers", nargs="+", default=["B/32", "L/16"], help="of step")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["EfficientNetLite0", "MobileNet", "ResNet50"],
        help="of convolutions: the quickstart's, or names of keras.applications",
    )
    parser.add_argument("--width", type=int, default=512, help="of the text tower of step")
    parser.add_argument("--layers", type=int, default=12, help="of the text tower of step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default="", help="a Python that has open_clip_torch")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/features.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    common = {"what": args.what, "repeats": args.repeats, "library": "keras_lit"}
    sizes = {"pairs": args.pairs, "batch": args.batch}
    text = {"batch": args.batch, "width": args.width, "layers": args.layers}
    cases = {
        "encode": [
            {**common, "library": library, "tower": "B/32", "dtype": dtype, "batch": args.batch}
            for dtype, library in (
                *(("float32", "keras_lit"), ("float32", "open_clip")),
                *(("bfloat16", "keras_lit"), ("bfloat16", "open_clip"), ("autocast", "open_clip")),
            )
        ],
        "convolutions": [
            {**common, "library": library, "backbone": backbone, "batch": args.batch}
            for backbone in args.backbones
            for library in ("keras_lit", "keras")
        ],
        "step": [
            {**common, **text, "tower": tower, "cached": cached, "dtype": "float32"}
            for tower in args.towers
            for cached in (True, False)
        ],
        **{
            name: [{**common, **sizes, "size": size, "epochs": args.epochs} for size in args.sizes]
            for name in ("fit", "gap")
        },
        "read": [{**common, "pairs": args.pairs, "shuffle": shuffle} for shuffle in (False, True)],
        "stream": [{**common, "pairs": args.pairs}],
    }[args.what or "read"]
    results = harness.main(__file__, run, cases, args.rounds, args.peer)
    of_what = {"step": "pairs_per_second", "convolutions": "images_per_second"}
    for fast, slow in zip(results[::2], results[1::2], strict=False):
        if speed := of_what.get(args.what):
            slow["ratio"] = fast[speed] / slow[speed]
    harness.report(results, args.output)


if __name__ == "__main__":
    main()

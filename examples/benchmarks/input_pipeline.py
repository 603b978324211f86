"""Images a second per core of the input pipeline, beside a loader of PIL and NumPy (or torch).

    python examples/benchmarks/input_pipeline.py
    python examples/benchmarks/input_pipeline.py --records 1000000 --image-size 64 48 --rounds 1

A record, a JPEG of --image-size pixels and a caption, becomes 224 x 224 x 3 floats in -1..1 and
16 token ids. keras_lit: `LiT.preprocess` in tf.data. The other: PIL decodes and resizes, NumPy (or
torch, where it is importable) converts, stacks batches, SentencePiece tokenises, in one process.
Each runs pinned to one core. "growth_mb" is by how much the process grew after its first --warm-up
batches, up to the middle of the others; "late_growth_mb" is that from there to the end, which is
near nothing where memory is flat. "first_batch_seconds" is what each further epoch waits for.
"""

import argparse
import io
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import harness
import numpy as np

WORDS = ("red", "green", "small", "dog", "cat", "house", "boat", "on", "snow", "street", "old", "a")


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images, captions = records(case["image_size"])
    load = {"keras_lit": keras_lit_batches, "plain": plain_batches}[case["library"]]
    begin = load(images, captions, case["records"], case["batch"])
    batches = begin()
    for _ in range(case["warm_up"]):
        next(batches)
    left = -(-case["records"] // case["batch"]) - case["warm_up"]
    early = harness.measure(lambda: consume(itertools.islice(batches, left // 2)), 0)
    late = harness.measure(lambda: consume(batches), 0)
    seconds = early["seconds"] + late["seconds"]
    return {
        "seconds": seconds,
        "growth_mb": early["growth_mb"],
        "late_growth_mb": late["growth_mb"],
        "images_per_second": (case["records"] - case["warm_up"] * case["batch"]) / seconds,
        "first_batch_seconds": harness.measure(lambda: next(begin()), 5)["seconds"],
    }


def consume(batches: Iterator[Any]) -> None:
    """Reads all of them and keeps none."""
    for _ in batches:
        pass


def records(size: list[int], count: int = 64) -> tuple[list[bytes], list[str]]:
    """JPEGs with as much detail as photos have, and captions."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, [48, 64, 3]).astype("uint8"))
        buffer = io.BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    return images, [" ".join(rng.choice(WORDS, 12)) for _ in range(count)]


def keras_lit_batches(
    images: list[bytes], captions: list[str], count: int, size: int
) -> Callable[[], Iterator[Any]]:
    """Begins an epoch: batches of `size` from `LiT.preprocess`."""
    import keras
    import tensorflow as tf

    import keras_lit

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 28)
    model = keras_lit.LiT(
        keras_lit.ImageTower(
            keras.Sequential([keras.layers.Conv2D(4, 16, strides=16)]),
            preprocessor=keras_lit.preprocessing.ImagePreprocessor(224),
        ),
        keras_lit.TextTower.from_size("Ti", tokenizer=tokenizer, sequence_length=16),
    )
    pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": captions})
    batches = model.preprocess(pairs.repeat().take(count).batch(size))
    return lambda: iter(batches)


def plain_batches(
    images: list[bytes], captions: list[str], count: int, size: int
) -> Callable[[], Iterator[Any]]:
    """Begins an epoch: batches of `size` from PIL, SentencePiece and torch or NumPy."""
    import sentencepiece
    from PIL import Image

    try:
        import torch
    except ImportError:
        torch = None
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=28, minloglevel=2
    )
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def row(number: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.open(io.BytesIO(images[number % len(images)])).convert("RGB")
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        ids = np.full(16, 1, np.int32)
        tokens = tokenizer.encode(captions[number % len(captions)])[:16]
        ids[: len(tokens)] = tokens
        return pixels / 127.5 - 1.0, ids

    def batches() -> Iterator[Any]:
        for start in range(0, count, size):
            rows = [row(number) for number in range(start, min(start + size, count))]
            found = [np.stack(column) for column in zip(*rows, strict=True)]
            yield found if torch is None else [torch.from_numpy(x) for x in found]

    return batches


def main() -> None:
    """Runs both in turns, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=6_400)
    parser.add_argument("--image-size", type=int, nargs=2, default=[500, 375])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=10, help="batches before the clock starts")
    parser.add_argument("--libraries", nargs="+", default=["keras_lit", "plain"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs/input_pipeline.json")
    )
    args = parser.parse_args([] if "--case" in sys.argv else None)
    if args.records <= args.warm_up * args.batch:
        parser.error("--records should be more than the warm-up reads.")
    options = {name: getattr(args, name) for name in ("image_size", "records", "batch", "warm_up")}
    cases = [{"library": library, **options} for library in args.libraries]
    results = harness.main(__file__, run, cases, args.rounds, "")
    harness.report(results, args.output)
    speed = {result["library"]: result["images_per_second"] for result in results}
    if len(speed) == 2:
        print(f"keras_lit / plain: {speed['keras_lit'] / speed['plain']:.2f}")


if __name__ == "__main__":
    main()

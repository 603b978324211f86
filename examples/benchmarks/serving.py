"""What a request to an artifact costs beyond the forward pass, and what 16-bit weights change.

    python examples/benchmarks/serving.py --model runs/quickstart/model.keras
    python examples/benchmarks/serving.py             # pretrained towers, heads untrained
    python examples/benchmarks/serving.py --weights --model runs/quickstart/model.keras

Requests run as in TF Serving, through a session, with strings and JPEG bytes; the forward pass is a
compiled call of the Keras tower on a batch that is preprocessed already, and as long as its longest
text. They take turns.
"""

import argparse
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import harness
import keras
import numpy as np
import tensorflow as tf

import keras_lit
from keras_lit.evaluation import retrieval_recall
from keras_lit.towers.lengths import trimmed

CLASSES = [f"a class of number {i}" for i in range(100)]


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a LiT as .keras")
    parser.add_argument("--weights", action="store_true", help="compare 16-bit weights instead")
    parser.add_argument("--data-dir", help="of the prepared stamps, for --weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/serving.json"))
    args = parser.parse_args()
    if args.model:
        model = keras.saving.load_model(args.model)
    else:
        towers = keras_lit.demo.efficientnet_lite0(), keras_lit.demo.minilm()
        model = keras_lit.LiT(*towers, "LU")
    with tempfile.TemporaryDirectory() as directory:
        results = (
            compare_weights(model, directory, args)
            if args.weights
            else overhead(model, directory, args)
        )
    harness.report(results, args.output)


def overhead(model: keras_lit.LiT, directory: str, args: argparse.Namespace) -> list[dict]:
    """Milliseconds of requests beside those of the bare forward pass."""
    request = serve(keras_lit.export.save(model, directory, class_names=CLASSES))
    image_tower, text_tower = model.image_tower, model.text_tower
    results = []
    for count in args.batches:
        texts = np.array(
            [f"a photo of {i} red balloons over the sea" for i in range(count)], object
        )
        images = jpegs(count)
        token_ids = trimmed(text_tower.preprocessor(texts), text_tower)
        pixels = image_tower.preprocessor(images)
        bare_text, bare_image = forward(text_tower, token_ids), forward(image_tower, pixels)
        cases = {
            "encode_text": (bare_text, {"text": texts}),
            "encode_image": (bare_image, {"image_bytes": images}),
            "classify": (bare_image, {"image_bytes": images}),
        }
        for name, (bare_forward, inputs) in cases.items():
            asked = functools.partial(request, name, inputs)
            ours, bare = in_turns([asked, bare_forward], args.repeats)
            results.append(
                {
                    "signature": name,
                    "batch": count,
                    "request_ms": ours,
                    "forward_ms": bare,
                    "overhead_percent": 100 * (ours / bare - 1),
                }
            )
    return results


def compare_weights(model: keras_lit.LiT, directory: str, args: argparse.Namespace) -> list[dict]:
    """Size, recall on the stamps' test part, agreement and time of float32 and 16 bits."""
    builder = keras_lit.data.TuxPaintStamps(data_dir=args.data_dir)
    builder.download_and_prepare()
    stamps = list(builder.as_dataset(split="test").as_numpy_iterator())
    images = [tf.io.encode_png(stamp["image"]).numpy() for stamp in stamps]
    texts = [stamp["caption"] for stamp in stamps]
    _, groups = np.unique(texts, return_inverse=True)
    results, exact = [], None
    for dtype in ("float32", "bfloat16", "float16"):
        path = keras_lit.export.save(model, pathlib.Path(directory, dtype), weights=dtype)
        request = serve(path)
        found = [
            np.concatenate(
                [
                    request(name, {key: np.array(rows[i : i + 32], object)})["embedding"]
                    for i in range(0, len(rows), 32)
                ]
            )
            for name, key, rows in (
                ("encode_image", "image_bytes", images),
                ("encode_text", "text", texts),
            )
        ]
        exact = exact or found
        recalls = retrieval_recall(*found, np.arange(len(texts)), ks=(1,), image_groups=groups)
        one = {"text": np.array(texts[:32], object)}
        (milliseconds,) = in_turns([functools.partial(request, "encode_text", one)], args.repeats)
        results.append(
            {
                "weights": dtype,
                "megabytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6,
                **{name: 100 * value for name, value in recalls.items() if "recall" in name},
                "worst_cosine": min(
                    float((a * b).sum(axis=1).min()) for a, b in zip(found, exact, strict=True)
                ),
                "text_ms_at_32": milliseconds,
            }
        )
    return results


def forward(tower: Any, inputs: tf.Tensor) -> Callable[[], np.ndarray]:
    """The compiled call of a tower."""
    compiled = tf.function(lambda x: tower(x, training=False))
    return lambda: compiled(inputs).numpy()


def serve(path: pathlib.Path) -> Callable[[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Loads an artifact as TF Serving does."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def

    def request(name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        signature = signatures[name]
        feeds = {signature.inputs[key].name: values for key, values in inputs.items()}
        return session.run({k: info.name for k, info in signature.outputs.items()}, feeds)

    return request


def jpegs(count: int) -> np.ndarray:
    """Smooth 224-pixel pictures, some 10 to 20 KB each as photographs are."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, [count, 40, 40, 3]).astype("uint8")
    pixels = tf.cast(
        tf.clip_by_value(tf.image.resize(coarse, [224, 224], "bicubic"), 0, 255), "uint8"
    )
    return np.array([tf.io.encode_jpeg(image).numpy() for image in pixels], object)


def in_turns(steps: list[Callable[[], Any]], repeats: int) -> list[float]:
    """The median milliseconds of each."""
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 3):
        for step, found in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if turn >= 3:  # The first ones trace, optimise and allocate.
                found.append(time.perf_counter() - start)
    return [1000 * statistics.median(found) for found in seconds]


if __name__ == "__main__":
    main()

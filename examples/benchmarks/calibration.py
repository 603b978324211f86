"""Calibrated scores on halves not fitted on: ECE, precision, coverage, none of these.

    python examples/quickstart.py                # trains a model on OpenPictures
    python examples/benchmarks/calibration.py    # that one's scores; without it, made ones alone

Rows are halved at random --repeats times; one half fits, the other measures; the table has means.

- made: 10 classes of points of dim 64 around centres, some much further from them than others,
  against centres that are a little off; 3 more classes are none of these.
- shapes: a folder of pictures of 10 shapes, drawn here in any colour, size and place, on noise,
  against the mean embedding of ten more pictures of each.
- zero-shot: pictures of OpenPictures' validation and test split against the names of 17 categories.
- class means: the same against the mean embedding of each category's training pictures.
- "..., 3 left out": the last three categories have no name, and their pictures are none of these:
  `none_auroc` is how well their probability tells them from others; after it, how well the top
  logit does, and the top probability of a softmax without that class.

`ece_before` is that of the model's own temperature; `ece_noise` what perfect probabilities would
have on as many rows. `off` is the mean distance of a half's precision from the wished one, and
`refused` how many halves had no threshold for it (they are left out of `precision`, `accepted` and
`off`).
"""

import argparse
import pathlib
import sys
import tempfile
import time

import harness
import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw
from scipy import stats

import keras_lit
from keras_lit import evaluation, features
from keras_lit.evaluation import calibration

LEFT_OUT = 3


def main() -> None:
    """Prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quickstart", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--rows", type=int, default=2000, help="of the made classes")
    parser.add_argument("--repeats", type=int, default=20, help="random halves")
    parser.add_argument("--precision", type=float, default=0.9)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs/calibration.json")
    )
    args = parser.parse_args()
    scores = {"made": made(args.rows, known=10)}
    if (args.quickstart / "model.keras").exists():
        model = keras.saving.load_model(args.quickstart / "model.keras")
        scores |= shapes(model, args.rows) | open_pictures(model, args.quickstart / "features")
    else:
        print(f"no model.keras in {args.quickstart}: made scores alone", file=sys.stderr)
    results = []
    for name, (logits, labels) in scores.items():
        known = labels < logits.shape[1]
        results.append(measure(name, logits[known], labels[known], args))
        if not known.all():  # Made ones have rows of more classes than columns.
            labels = np.where(known, labels, -1)
        else:
            logits = logits[:, :-LEFT_OUT]
            labels = np.where(labels < logits.shape[1], labels, -1)
        results.append(measure(f"{name}, {LEFT_OUT} left out", logits, labels, args))
    harness.report(results, args.output)


def measure(
    name: str, logits: np.ndarray, labels: np.ndarray, args: argparse.Namespace
) -> harness.Case:
    """The means over random halves."""
    rows: list[dict[str, float]] = []
    refused = 0
    own = calibration.Calibration(temperature=1.0)
    for seed in range(args.repeats):
        order = np.random.default_rng(seed).permutation(len(labels))
        fit, rest = order[: len(order) // 2], order[len(order) // 2 :]
        start = time.perf_counter()
        try:
            found = calibration.fit_calibration(logits[fit], labels[fit], args.precision)
        except ValueError as error:
            print(error, file=sys.stderr)
            refused += 1
            found = calibration.fit_calibration(logits[fit], labels[fit], precision=None)
        row = {
            "seconds": time.perf_counter() - start,
            "ece_before": own.measure(logits[rest], labels[rest])["ece"],
            **found.measure(logits[rest], labels[rest]),
        }
        none = labels[rest] < 0
        if none.any():
            top = logits[rest].max(axis=1)
            above = stats.mannwhitneyu(top[~none], top[none]).statistic
            row["top_logit_auroc"] = above / (none.sum() * (~none).sum())
            few = labels[fit] >= 0
            softmax = calibration.fit_calibration(logits[fit][few], labels[fit][few], None)
            row["softmax_auroc"] = softmax.measure(logits[rest], labels[rest])["none_auroc"]
        if "precision" in row:
            row["off"] = abs(row["precision"] - args.precision)
        rows.append(row)
    names = dict.fromkeys(key for row in rows for key in row)
    means = {key: float(np.mean([row[key] for row in rows if key in row])) for key in names}
    accuracy = float(np.mean(logits.argmax(axis=1)[labels >= 0] == labels[labels >= 0]))
    return {"scores": name, "rows": len(labels), "accuracy": accuracy, **means, "refused": refused}


def made(rows: int, known: int) -> tuple[np.ndarray, np.ndarray]:
    """100 times cosines, as CLIP's, with the centres of `known` classes; labels of three more."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=[known + LEFT_OUT, 64])
    labels = rng.integers(len(centres), size=rows)
    spread = rng.lognormal(0.8, 0.4, size=[rows, 1])
    images = centres[labels] + spread * rng.normal(size=[rows, 64])
    weights = centres[:known] + rng.normal(size=[known, 64])
    images, weights = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, weights))
    return 100 * images @ weights.T, labels


def shapes(model: keras_lit.LiT, rows: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{classifier: (logits at the model's temperature, labels)} of drawn pictures."""
    rng = np.random.default_rng(0)
    turns = np.arange(360) * np.pi / 180
    outlines = {  # Distance from the middle by angle.
        "circle": np.ones(360),
        "ellipse": 1 / np.hypot(np.cos(turns), 2 * np.sin(turns)),
        **{
            f"polygon of {n}": np.cos(np.pi / n) / np.cos(turns % (2 * np.pi / n) - np.pi / n)
            for n in (3, 4, 6)
        },
        **{f"star of {n}": 0.65 + 0.35 * np.sign(np.cos(n * turns)) for n in (4, 7)},
        **{f"flower of {n}": 0.6 + 0.4 * np.cos(n * turns) for n in (3, 5)},
        "heart": 1 - np.abs(turns - np.pi) / np.pi,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, outline in outlines.items():
            (pathlib.Path(folder) / name).mkdir()
            for i in range(10 + rows // len(outlines)):
                canvas = Image.fromarray(rng.integers(255, size=[128, 128, 3], dtype="uint8"))
                middle, turn = rng.uniform(50, 78, size=2), rng.uniform(0, 2 * np.pi)
                around = np.stack([np.cos(turns + turn), np.sin(turns + turn)], axis=1)
                edge = middle + rng.uniform(15, 45) * outline[:, None] * around
                colour = tuple(map(int, rng.integers(255, size=3)))
                ImageDraw.Draw(canvas).polygon([tuple(xy) for xy in edge], fill=colour)
                canvas.save(f"{folder}/{name}/{i:04}.png")
        pictures = keras.utils.image_dataset_from_directory(
            folder, shuffle=False, image_size=(128, 128)
        )
        labels = np.concatenate([y for _, y in pictures])
        images = model.encode_image(pictures.map(lambda x, y: tf.cast(x, "uint8")))
    place = np.arange(len(labels)) - np.searchsorted(labels, labels)  # Within its folder.
    means = np.stack([images[(labels == i) & (place < 10)].mean(0) for i in range(len(outlines))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scale = float(model.temperature)
    return {"shapes": (scale * images[place >= 10] @ means.T, labels[place >= 10])}


def open_pictures(
    model: keras_lit.LiT, folder: pathlib.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{classifier: (logits at the model's temperature, labels)} of OpenPictures' features."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
    from studies import captioned, scores

    embeddings, categories = [], []
    for split in captioned.read(captioned.OPEN_PICTURES, "test", None, ("en",)):
        pairs = features.load(folder, split.name, captions="first").batch(256)
        embeddings.append(model.encode_image(pairs, verbose=0))
        categories.append([name.split("/")[0] for name in split.names])
    names = sorted(set(categories[0]))
    labels = [np.array([names.index(category) for category in split]) for split in categories]
    words = [scores.CATEGORY_NAMES.get(name, name) for name in names]
    means = np.stack([embeddings[0][labels[0] == i].mean(axis=0) for i in range(len(names))])
    classifiers = {
        "zero-shot": evaluation.zero_shot_weights(model.encode_text, words, scores.TEMPLATES),
        "class means": means / np.linalg.norm(means, axis=1, keepdims=True),
    }
    images, held_out = np.concatenate(embeddings[1:]), np.concatenate(labels[1:])
    scale = float(model.temperature)
    return {name: (scale * images @ weights.T, held_out) for name, weights in classifiers.items()}


if __name__ == "__main__":
    main()

"""Between a locked text tower and an unlocked one: heads alone, LoRA, the last block, WiSE-FT.

    python examples/studies/middle_ways.py

The model to begin with ("start") was made of emoji: both heads in closed form. OpenPictures' clip
art and stamps train it further. Recall is measured on pictures of these styles, and on emoji, which
are drawn and named otherwise; all of concepts that are not trained on. The image tower
EfficientNet-Lite0 is locked and run once; MiniLM's lower three layers read the captions. All
variants train the heads too; the epoch that retrieves validation pictures of the trained styles
best is kept. "WiSE" is `keras_lit.evaluation.along` from the start to LU, at the alpha that is best
on validation pictures of both kinds.
"""

import argparse
import functools
import math
import pathlib
from typing import Any

import keras
import numpy as np
import repeated_captions
import runner
import scores
import stamps

import keras_lit

TOKENS = 12
EMOJI = (1, 2)  # Styles: clip art, Noto, OpenMoji, stamps.
SPLITS = ("train", "validation", "test")
METRICS = {
    "trained": "test, clip art and stamps, %",
    "emoji": "test, emoji, %",
    "validation": "validation, clip art and stamps, %",
    "share": "of the text tower trained, %",
    "adapters_mb": "backbone's changes in a file, MB",
}
# By variant: the tuning, what of the text tower trains, and the learning rate.
VARIANTS: dict[str, tuple[Any, Any, float]] = {
    "start": ("LL", None, 0.0),
    "heads": ("LL", None, 1e-3),
    "LoRA, rank 8": ("LU", keras_lit.Lock(lora=8), 1e-3),
    "last block": ("LU", keras_lit.Lock(last_blocks=1), 3e-4),
    "LU": ("LU", None, 3e-4),
    "WiSE": ("LU", None, 3e-4),
}
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Parts = dict[str, dict[str, Any]]


def by_style(part: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Clip art and stamps, and emoji."""
    emoji = np.isin(part["style"], EMOJI)
    return tuple({k: v[x] for k, v in part.items()} for x in (~emoji, emoji))


def read(args: argparse.Namespace) -> Parts:
    """{"train", "validation", "test", and of the latter "... emoji"}: features and captions."""
    directory, found = str(pathlib.Path(args.data_dir).expanduser()), {}
    for split in SPLITS:
        make = functools.partial(repeated_captions.read, directory, split, args.limit)
        path = args.output / f"middle_ways_{split}_{args.limit or 'all'}.npz"
        part = repeated_captions.cached(path, make)
        found[split], found[f"{split} emoji"] = by_style(part)
    return found


def aligned(parts: Parts, path: pathlib.Path) -> keras_lit.LiT:
    """A new model with both heads in closed form, which no seed changes: kept for the next."""
    if not path.exists():
        text_tower = stamps.lower_half_of_minilm(TOKENS)
        emoji = parts["train emoji"]
        image_tower = keras_lit.ImageTower.from_features(emoji["features"].shape[-1])
        model = keras_lit.LiT(image_tower, text_tower, "LL")
        print(model.align(pairs_of(emoji), batch_size=256, verbose=0), flush=True)
        model.save(path)
    return keras.saving.load_model(path)


def pairs_of(part: dict[str, Any]) -> dict[str, Any]:
    """What `fit` takes."""
    return {"image_features": part["features"], "text": list(part["text"])}


def recall(model: keras_lit.LiT, part: dict[str, Any]) -> float:
    """The mean of the six, %."""
    images = model.encode_image(part["features"], 256, 0)
    texts = model.encode_text(list(part["text"]), 256, 0)
    return 100 * scores.mean_recall(scores.recalls(images, texts, part["text"]))


def tune(
    model: keras_lit.LiT, parts: Parts, args: argparse.Namespace, rate: float
) -> keras_lit.LiT:
    """Trains, and leaves the model at its best epoch, or the start."""
    steps = args.epochs * -(-len(parts["train"]["text"]) // args.batch_size)
    schedule = keras_lit.optimizers.WarmupSchedule(rate, steps, steps // 10)
    optimizer = keras_lit.optimizers.Adam(schedule, weight_decay=0.01, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=False)
    best = scores.KeepBest(lambda model: recall(model, parts["validation"]))
    given = {"batch_size": args.batch_size, "epochs": args.epochs, "verbose": 0}
    model.fit(pairs_of(parts["train"]), callbacks=[best], **given)
    print("validation:", *(f"{x:.1f}" for x in best.scores), flush=True)
    return model


def measured(model: keras_lit.LiT, parts: Parts) -> runner.Point:
    """Recalls of both kinds of pictures."""
    found = {"trained": "test", "emoji": "test emoji", "validation": "validation"}
    found["validation_emoji"] = "validation emoji"
    return {name: recall(model, parts[part]) for name, part in found.items()}


def interpolated(before: keras_lit.LiT, after: keras_lit.LiT, parts: Parts) -> list[runner.Point]:
    """A point for each alpha; the last is that of the best on validation."""
    found = keras_lit.evaluation.along(
        before, after, lambda model: measured(model, parts), ALPHAS, verbose=0
    )
    points = [
        {"alpha": alpha, **{name: values[i] for name, values in found.metrics.items()}}
        for i, alpha in enumerate(found.alphas)
    ]
    best = max(points, key=lambda x: x["validation"] + x["validation_emoji"])
    return [*points, best]


def train(parts: Parts, args: argparse.Namespace, variant: str, seed: int) -> list[runner.Point]:
    """One cell."""
    start = aligned(parts, args.output / "middle_ways_start.keras")
    path = args.output / f"middle_ways_LU_{seed}.keras"
    tuning, lock, rate = VARIANTS[variant]
    if variant == "WiSE":
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there: the variant LU writes it. Run it first.")
        after = keras.saving.load_model(path)
        sizes = {"pairs": 0.0, "share": share(after), "adapters_mb": 0.0}
        return [{**x, **sizes} for x in interpolated(start, after, parts)]
    model = keras_lit.LiT(start.image_tower, start.text_tower, tuning, text_options=lock)
    model.log_temperature.assign(start.log_temperature)
    if rate:
        model = tune(model, parts, args, rate)
    if variant == "LU":
        model.save(path)
    size = 0.0
    if tuning == "LU":
        file = args.output / "middle_ways_adapters.npz"
        size = keras_lit.checkpoints.save_adapters(model, file, heads=False).stat().st_size / 1e6
        file.unlink()
    seen = float(args.epochs * len(parts["train"]["text"]))
    sizes = {"share": share(model) if rate else 0.0, "adapters_mb": size}
    return [{"pairs": seen if rate else 0.0, **measured(model, parts), **sizes}]


def share(model: keras_lit.LiT) -> float:
    """How much of the text tower trains, %."""
    trains = {id(x) for x in model.trainable_variables}
    counts = {id(x): math.prod(x.shape) for x in model.text_tower.weights}
    return 100 * sum(n for x, n in counts.items() if x in trains) / sum(counts.values())


def report(args: argparse.Namespace, results: list[dict[str, Any]]) -> str:
    """The table of variants, who is above whom, recalls along alpha, and the bars."""
    lines = [runner.table(results, METRICS)]
    for name in ("trained", "emoji"):
        found = runner.summarise(results, name)
        others = [x for x in found if x != "LU"]
        if "LU" in found:
            lines.append(f"{METRICS[name]}:\n{stamps.ranked(found, others, ['LU'])}")
    curves = [x["curve"] for x in results if x["variant"] == "WiSE"]
    if curves:
        lines += ["| alpha | clip art and stamps, % | emoji, % |", "| --- | --- | --- |"]
    for points in zip(*(curve[:-1] for curve in curves), strict=True):
        means = [np.mean([x[name] for x in points]) for name in ("trained", "emoji")]
        lines.append(f"| {points[0]['alpha']:g} | {means[0]:.1f} | {means[1]:.1f} |")
    for curve in curves:
        first, last, best = curve[0], curve[-2], curve[-1]
        gain = (best["trained"] - first["trained"]) / max(last["trained"] - first["trained"], 1e-9)
        lines.append(
            f"WiSE at alpha {best['alpha']:g} keeps {gain:.0%} of LU's gain; emoji "
            f"{best['emoji'] - first['emoji']:+.1f} from the start, LU "
            f"{last['emoji'] - first['emoji']:+.1f}."
        )
    return "\n".join(lines)


def main() -> None:
    """Trains, measures, reports."""
    parser = runner.parser(__doc__, epochs=6, batch_size=256)
    parser.set_defaults(data_dir="~/tensorflow_datasets/open_pictures/1.0.0")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    parts = read(args)
    results = runner.run("middle_ways", args, VARIANTS, functools.partial(train, parts, args))
    print(report(args, results))


if __name__ == "__main__":
    main()

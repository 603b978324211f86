"""The best model of few pairs: heads in closed form and `fit` after them, beside other ways.

    python examples/studies/few_pairs.py

OpenPictures' first n pictures train, the same for all seeds, which change order and initial values.
Its validation split chooses epochs and settings; recall is measured on its test split, whose
concepts are in neither. Half of the captions have keywords appended. EfficientNet-Lite0 is locked
and run once, and so is MiniLM's lower half; all of it where a method locks both towers. "Between"
are the models between `align` and the end of `fit` (WiSE-FT), at the alpha of each size that
retrieves best in validation, over the seeds.
"""

import argparse
import functools
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import runner
import scores
import stamps
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit

TOKENS = 10
ALL = 10_000  # Or as many as there are.
SIZES = (100, 300, 1000, 3000, ALL)
SPLITS = ("train", "validation", "test")
TITLES = {
    "mean_recall": "test, mean of six, %",
    "validation": "validation, %",
    "start": "validation after align, %",
    "between": "between both: test, %",
    "alpha": "alpha",
}
METHODS = ("ridge", "CCA", "align, fit", "LU", "ShareLock's MLP")
# By size: learning rate, rounds (after each of which validation decides), steps, batch size.
SETTINGS = {
    "align, fit": {
        100: (1e-4, 6, 10, 100),
        300: (1e-4, 6, 15, 300),
        1000: (1e-3, 6, 30, 512),
        3000: (1e-3, 5, 40, 512),
        ALL: (1e-3, 8, 50, 1024),
    },
    "LU": {
        100: (1e-3, 12, 4, 100),
        300: (2e-3, 12, 4, 256),
        1000: (2e-3, 12, 6, 256),
        3000: (2e-3, 12, 11, 256),
        ALL: (2e-3, 12, 22, 256),
    },
    "ShareLock's MLP": {
        100: (3e-3, 4, 10, 100),
        300: (3e-3, 12, 10, 300),
        1000: (1e-3, 12, 20, 512),
        3000: (3e-3, 12, 44, 256),
        ALL: (3e-3, 12, 88, 256),
    },
}
# What `--tune` tries with the rivals that train: learning rates, and rounds of these steps.
GRID = {
    "LU": ((4e-4, 1e-3, 2e-3, 4e-3), (4, 12)),
    "ShareLock's MLP": ((3e-4, 1e-3, 3e-3, 1e-2), (4, 12)),
}
# What multiplies the variances that `align` chose for the noise of images and of text.
NOISE = {100: (0.3, 0.3), 300: (0.5, 0.5), 1000: (1, 2), 3000: (1, 1), ALL: (1.5, 5)}

Part = dict[str, np.ndarray]


def read(directory: str, split: str) -> Part:
    """What the locked layers make of pictures and of captions, without keywords and with."""
    tower = keras_lit.demo.efficientnet_lite0(antialias=True)
    pictures = tfds.builder_from_directory(directory).as_dataset(split=split)
    pixels = pictures.map(lambda x: {"image": tower.preprocessor(x["image"])}, tf.data.AUTOTUNE)
    features = [tower.features(x["image"]).numpy() for x in pixels.batch(32).prefetch(2)]
    return {"features": np.concatenate(features), **read_text(pictures)}


def read_text(pictures: tf.data.Dataset) -> Part:
    """The text's part of `read`."""
    names = ("caption", "keywords", "concept")
    rows = pictures.map(lambda x: tuple(x[name] for name in names)).as_numpy_iterator()
    text, words, concepts = map(list, zip(*rows, strict=True))
    text = [own.decode().rstrip(".") for own in text]
    words = [[word.decode() for word in own] for own in words]
    tagged = [
        ", ".join([own, *(word for word in more if word not in own.lower())])
        for own, more in zip(text, words, strict=True)
    ]
    tower = keras_lit.demo.minilm(TOKENS)
    token_ids = tower.preprocessor(np.stack([text, tagged], axis=1).ravel()).numpy()
    lower = tower.backbone.get_layer("transformer_layer_2").output
    whole = keras.Model(tower.backbone.input, [lower, tower.backbone.output["sequence_output"]])
    states, last = [], []
    for ids in np.array_split(token_ids, len(token_ids) // 256 + 1):
        given = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
        of = [x.numpy() for x in whole(given)]
        states.append(of[0].astype("float16"))
        weights = (ids > 0)[..., np.newaxis]
        last.append((of[1] * weights).sum(axis=1) / weights.sum(axis=1))
    shape = (len(text), 2, TOKENS)
    return {
        "text": np.array([own.lower() for own in text]),
        "group": np.unique(concepts, return_inverse=True)[1],
        "real": (token_ids > 0).reshape(shape),
        "states": np.concatenate(states).reshape(*shape, -1),
        "text_features": np.concatenate(last).reshape(*shape[:2], -1).astype("float32"),
    }


def blocks(backbone: keras.Model) -> list[keras.layers.Layer]:
    """MiniLM's upper three of six, which train."""
    return [backbone.get_layer(f"transformer_layer_{i}") for i in (3, 4, 5)]


def upper_half(states: np.ndarray, backbone: keras.Model) -> keras_lit.TextTower:
    """MiniLM with its lower half run once: its "token embeddings" are the states [rows, 384]."""
    token_ids = keras.Input([TOKENS], dtype="int32")
    table = keras.layers.Embedding(*states.shape, weights=[states], trainable=False)
    x, mask = table(token_ids), token_ids > 0
    for block in blocks(backbone):
        x = block(x, padding_mask=mask)
    return keras_lit.TextTower(keras.Model(token_ids, x), sequence_length=TOKENS, pooling="mean")


class Data:
    """The splits, with "token_ids", and the table of MiniLM's states that these are rows of."""

    def __init__(self, args: argparse.Namespace):
        self.folder = args.output
        directory = str(pathlib.Path(args.data_dir).expanduser())
        self.parts, tables = {}, [np.zeros([1, 384], "float16")]  # Row 0 is padding.
        for split in SPLITS:
            path = args.output / f"open_pictures_{split}{args.limit or ''}.npz"
            part = cached(path, directory, f"{split}[:{args.limit}]" if args.limit else split)
            real, states = part.pop("real"), part.pop("states")
            part["token_ids"] = np.zeros(real.shape, "int32")
            part["token_ids"][real] = sum(map(len, tables)) + np.arange(real.sum())
            tables.append(states[real])
            self.parts[split] = part
        self.states = np.concatenate(tables).astype("float32")
        self.backbone = keras_lit.demo.minilm_backbone()
        self.pretrained = [block.get_weights() for block in blocks(self.backbone)]

    def few(self, size: int) -> Part:
        """The first pairs of "train"."""
        return {name: values[:size] for name, values in self.parts["train"].items()}

    def unlocked(self, image_dim: int | None = None, **options: Any) -> keras_lit.LiT:
        """LU: MiniLM as it was, a random head; and one of images of this width, if any."""
        for block, weights in zip(blocks(self.backbone), self.pretrained, strict=True):
            block.set_weights(weights)
        width = self.parts["train"]["features"].shape[-1]
        text_tower = upper_half(self.states, self.backbone)
        image_tower = keras_lit.ImageTower.from_features(width, image_dim)
        return keras_lit.LiT(image_tower, text_tower, "LU", **options)


def cached(path: pathlib.Path, directory: str, split: str) -> Part:
    """What `read` gave the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with keras_lit.files.whole(path) as working, open(working, "wb") as file:
            np.savez(file, **read(directory, split))
    return dict(np.load(path))


def features_only(part: Part, image_head: Any, text_head: Any) -> keras_lit.LiT:
    """A LiT of both towers' features with these heads, of images and of text."""
    image_dim, text_dim = (part[name].shape[-1] for name in ("features", "text_features"))
    image_tower = keras_lit.ImageTower.from_features(image_dim, head=image_head)
    text_tower = keras_lit.TextTower.from_features(text_dim, head=text_head)
    return keras_lit.LiT(image_tower, text_tower, "LL")


def closed_form(data: "Data", size: int, method: Any) -> keras_lit.LiT:
    """Heads by `LiT.align`, which no seed changes: kept for the next."""
    path = data.folder / f"few_pairs_{method}_{size}.keras"
    if not path.exists():
        part = data.few(size)
        # The full width: of so few pairs a fold is too small to tell which narrower ones are good.
        width = min(part[name].shape[-1] for name in ("features", "text_features"))
        heads = (keras_lit.backbones.ResidualHead(width) for _ in range(2))
        model = features_only(part, *heads)
        pairs = {
            "image_features": np.repeat(part["features"], 2, axis=0),
            "text_features": np.concatenate(part["text_features"]),
            "group": np.repeat(part["group"], 2),
        }
        print(size, model.align(pairs, method, batch_size=512, verbose=0), flush=True)
        model.save(path)
    return keras.models.load_model(path)


def recall(model: keras_lit.LiT, part: Part) -> float:
    """The mean of the six, %; captions are without keywords."""
    locked = model.tuning[1] == "L"
    texts = model.encode_text(part["text_features" if locked else "token_ids"][:, 0], 256, 0)
    images = model.encode_image(part["features"], 256, 0)
    return 100 * scores.mean_recall(scores.recalls(images, texts, part["text"]))


class Best(keras.callbacks.Callback):
    """Keeps the weights of the epoch, or of the start, that retrieves best on a part."""

    def __init__(self, part: Part):
        super().__init__()
        self.part = part
        self.history: list[float] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures."""
        self.history.append(recall(self.model, self.part))
        if self.history[-1] == max(self.history):
            self.weights = [variable.numpy() for variable in self.model.trainable_variables]

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Goes back to the best."""
        for variable, weights in zip(self.model.trainable_variables, self.weights, strict=True):
            variable.assign(weights)


def fit(
    model: keras_lit.LiT,
    part: Part,
    best: Best,
    seed: int,
    rate: float,
    rounds: int,
    steps: int,
    batch_size: int,
) -> list[float]:
    """Trains on captions with and without keywords; returns the validation recalls."""
    size, locked = len(part["features"]), model.tuning[1] == "L"
    key, name = ("text_features",) * 2 if locked else ("text", "token_ids")
    given = [tf.constant(part[x]) for x in ("features", name, "group")]

    def pairs(rows: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        images, texts, groups = (tf.gather(x, rows) for x in given)
        texts = tf.gather(texts, tf.cast(draws, tf.int32), batch_dims=1)
        return {"image_features": images, key: texts, "group": groups}

    order = tf.data.Dataset.range(size).shuffle(size, seed).repeat()
    draws = tf.data.Dataset.random(seed).map(lambda x: x % 2)
    batches = tf.data.Dataset.zip(order, draws).batch(batch_size, drop_remainder=True).map(pairs)
    schedule = keras_lit.optimizers.WarmupSchedule(rate, rounds * steps, rounds * steps // 10)
    optimizer = keras_lit.optimizers.Adam(schedule, weight_decay=0.1, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=False)
    model.fit(batches, epochs=rounds, steps_per_epoch=steps, callbacks=[best], verbose=0)
    return best.history


def start(method: str, data: Data, size: int, noise: Iterable[float]) -> keras_lit.LiT:
    """What `fit` starts from."""
    if method == "LU":
        return data.unlocked()
    if method == "ShareLock's MLP":
        dim = data.parts["train"]["features"].shape[-1]
        return features_only(data.few(1), "linear", keras_lit.backbones.MLPHead(dim, 1024, 3))
    model = closed_form(data, size, "ridge" if method == "ridge" else "cca")
    for tower, factor in zip((model.image_tower, model.text_tower), noise, strict=True):
        known = tower.head  # Whose MLP has initial values of another seed.
        tower.add_head(head=keras_lit.backbones.ResidualHead(known.dim, noise=factor))
        tower.head.start(*known.linear.get_weights(), known.variance)
    return model


def train(data: Data, args: argparse.Namespace, variant: str, seed: int) -> list[runner.Point]:
    """One cell."""
    method, number = variant.split(" of ")
    size = min(int(number), len(data.parts["train"]["text"]))
    model = start(method, data, size, NOISE[int(number)])
    before = keras_lit.soup([model]) if method == "align, fit" else None  # A copy.
    history = [recall(model, data.parts["validation"])]
    if method in SETTINGS:
        settings = SETTINGS[method][int(number)]
        best = Best(data.parts["validation"])
        history = fit(model, data.few(size), best, seed, *settings)
    point = {
        "pairs": float(size),
        "mean_recall": recall(model, data.parts["test"]),
        "validation": max(history),
        "start": history[0],
        "epoch": float(np.argmax(history)),
    }
    return [*(along(before, model, data) if before else []), point]


def tune(data: Data, args: argparse.Namespace) -> None:
    """Validation recalls of the rivals that train, by learning rate and rounds."""

    def validate(variant: str, seed: int) -> list[runner.Point]:
        cell, rate, rounds = variant.split(", ")
        method, size = cell.split(" of ")
        _, _, steps, batch_size = SETTINGS[method][int(size)]
        best, part = Best(data.parts["validation"]), data.few(int(size))
        model = start(method, data, int(size), (1, 1))
        history = fit(model, part, best, seed, float(rate), int(rounds), steps, batch_size)
        return [{"validation": max(history), "epoch": float(np.argmax(history))}]

    variants = [
        f"{method} of {size}, {rate:g}, {rounds}"
        for method, grid in GRID.items()
        for size in SIZES
        for rate, rounds in itertools.product(*grid)
    ]
    results = runner.run("few_pairs_tuning", args, variants, validate)
    print(runner.table(results, {"validation": TITLES["validation"], "epoch": "best round"}))


def along(before: keras_lit.LiT, after: keras_lit.LiT, data: Data) -> list[runner.Point]:
    """Recalls on the way from one to the other."""
    measured = {name: functools.partial(recall, part=data.parts[name]) for name in SPLITS[1:]}
    found = keras_lit.evaluation.along(before, after, measured, verbose=0)
    columns = {"alpha": found.alphas, **found.metrics}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def between(results: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """By variant, the alpha whose mean validation is best, and the test recall there."""
    curves: dict[str, list[list[runner.Point]]] = {}
    for result in results:
        if len(result["curve"]) > 1:
            curves.setdefault(result["variant"], []).append(result["curve"][:-1])
    found: dict[str, dict[str, tuple[float, float]]] = {"between": {}, "alpha": {}}
    for variant, of in curves.items():
        points = list(zip(*of, strict=True))  # One of each seed, by alpha.
        means = [np.mean([x["validation"] for x in there]) for there in points]
        best = points[int(np.argmax(means))]
        found["between"][variant] = runner.mean_and_deviation([x["test"] for x in best])
        found["alpha"][variant] = best[0]["alpha"], 0.0
    return found


def report(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """A table of methods by sizes, what is above what, a curve for each method."""
    values = {
        name: runner.summarise(results, name) for name in ("mean_recall", "validation", "start")
    } | between(results)
    sizes = {result["variant"].split(" of ")[1]: result["curve"][-1]["pairs"] for result in results}
    rows = [["", "", *(f"{pairs:.0f}" for pairs in sizes.values())], ["---"] * (2 + len(sizes))]
    for method in METHODS:
        for name in values if method == "align, fit" else ("mean_recall",):
            cells = [values[name].get(f"{method} of {size}") for size in sizes]
            spread = args.seeds > 1 and name != "alpha"  # One for all seeds; one seed has none.
            form = "{:.1f} ± {:.1f}" if spread else "{:.1f}"
            texts = [form.format(*cell) if cell else "" for cell in cells]
            rows.append([method, TITLES[name], *texts])
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    for size in sizes:
        recalls = values["mean_recall"]
        known = {m: recalls[f"{m} of {size}"] for m in METHODS if f"{m} of {size}" in recalls}
        others = [m for m in known if m != "align, fit"]
        if "align, fit" in known and args.seeds > 1:
            print(f"{sizes[size]:.0f} pairs:\n{stamps.ranked(known, ['align, fit'], others)}")

    curves: dict[tuple[str, int], list[runner.Point]] = {}
    for result in results:
        key = result["variant"].split(" of ")[0], result["seed"]
        curves.setdefault(key, []).append(result["curve"][-1])
    most = {
        method: max(len(curves[key]) for key in curves if key[0] == method) for method, _ in curves
    }
    whole = [
        {"variant": method, "seed": seed, "curve": curve}
        for (method, seed), curve in curves.items()
        if len(curve) == most[method]
    ]
    runner.plot(
        whole,
        {"mean_recall": TITLES["mean_recall"]},
        args.output / "few_pairs.png",
        xlabel="pairs",
        xscale="log",
    )


def main() -> None:
    """Trains, measures, reports."""
    parser = runner.parser(__doc__)
    parser.set_defaults(data_dir="~/tensorflow_datasets/open_pictures/1.0.0", seeds=5)
    parser.add_argument("--tune", action="store_true", help="choose settings of rivals instead")
    args = parser.parse_args()
    tuning, data = vars(args).pop("tune"), Data(args)
    if tuning:
        return tune(data, args)
    variants = [f"{method} of {size}" for size in SIZES for method in METHODS]
    results = runner.run("few_pairs", args, variants, functools.partial(train, data, args))
    report(args, results)


if __name__ == "__main__":
    main()

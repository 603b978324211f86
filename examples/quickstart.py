"""Trains a LiT on real pictures and captions, evaluates it, shows the result, and saves it.

    python examples/quickstart.py                      # Tux Paint's stamps, some five minutes
    python examples/quickstart.py --text Ti --epochs 40 --learning-rate 1e-3
    python examples/quickstart.py --dataset coco_captions --test-split val \\
        --backbone resnet50_v2_imagenet
    python examples/quickstart.py --dataset my_photos  # a folder, see the README

The locked image tower is run once over the pictures as they are and over a few random crops; the
text tower then trains on those features at its own speed (the paper's section 5.6). Writes to
--output: metrics.json, model.keras, a SavedModel, training.png and retrieval.png.
"""

import argparse
import json
import pathlib
import platform
import time
from typing import Any

import keras
import keras_nlp
import matplotlib
import numpy as np
import tensorflow as tf
from studies.scores import mean_recall, recalls, zero_shot

import keras_lit
from keras_lit import evaluation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)


def main() -> None:
    """Runs all stages, timing each."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    clock = Clock()

    splits = ("train", args.test_split)
    sources = [read(args.dataset, split, args.test_fraction) for split in splits]
    train, test = map(texts_and_names, sources)
    clock.lap("data")

    image_tower = make_image_tower(args.backbone)
    text_tower = make_text_tower(args.text, train["text"])
    model = keras_lit.LiT(image_tower, text_tower, "LU", temperature=8.0)
    clock.lap("towers")

    train["views"] = np.stack(
        [features(model, sources[0], random) for random in [False] + [True] * args.views]
    )
    test["features"] = features(model, sources[1])
    clock.lap("image features")

    everything = np.random.default_rng(args.seed).permutation(len(train["text"]))
    validation, training = np.split(everything, [len(everything) // 10])
    baseline = ridge_baseline(text_tower, train, test, training, validation)
    clock.lap("ridge baseline")

    start = model.text_tower.backbone.get_weights()
    model = untrained(model, start, train, training, args)
    history = fit(model, train, training, args, validation)
    clock.lap("training")

    if args.refit:
        model = untrained(model, start, train, everything, args)
        fit(model, train, everything, args, epochs=int(np.argmax(history["validation"])))
        clock.lap("training on all pairs")

    metrics = {
        **recalls(
            model.encode_image(test["features"]), model.encode_text(test["text"]), test["text"]
        ),
        "ridge_baseline": baseline,
        "zero_shot": zero_shot(model, test),
        "pairs": {
            "train": len(training),
            "validation": len(validation),
            "test": len(test["text"]),
        },
    }
    metrics["mean_recall"] = mean_recall(metrics)
    metrics["ridge_baseline"]["mean_recall"] = mean_recall(baseline)
    plot_training(history, metrics, args.output / "training.png")
    contact_sheet(model, test, sources[1], args.output / "retrieval.png")
    clock.lap("evaluation")

    model.save(args.output / "model.keras")
    saved_model = keras_lit.export.save(model, args.output / "saved_model")
    clock.lap("saving")

    metrics |= {
        "history": history,
        "seconds": clock.laps,
        "seed": args.seed,
        "settings": {name: str(value) for name, value in vars(args).items()},
        "versions": {
            "python": platform.python_version(),
            "keras_lit": keras_lit.__version__,
            "keras": keras.__version__,
            "keras_nlp": keras_nlp.__version__,
            "tensorflow": tf.__version__,
        },
    }
    (args.output / "metrics.json").write_text(json.dumps(metrics, indent=2))
    report(metrics, args.output, saved_model)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument(
        "--dataset", default="tux_paint_stamps", help="a TensorFlow dataset, folder or table"
    )
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--test-fraction", type=float, help="of files; 0 if they have splits")
    parser.add_argument("--backbone", help="a keras-cv or keras-nlp image preset, or its folder")
    parser.add_argument("--text", default="minilm", help="minilm, or from scratch: Ti, S, B, L")
    parser.add_argument("--views", type=int, default=2, help="random crops of each picture")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument(
        "--refit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train once more on all pairs, for the number of epochs that validated best",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.start = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage and prints how long it took."""
        now = time.perf_counter()
        self.laps[stage], self.start = round(now - self.start, 1), now
        print(f"[{self.laps[stage]:6.1f} s] {stage}", flush=True)


# Data and towers.


def read(dataset: str, split: str, part: float | None) -> tf.data.Dataset:
    """One caption for each picture; of a folder, table or shards a fifth of them are "test"."""
    files = pathlib.Path(dataset).exists() or keras_lit.data.shards.shard_files(dataset)
    part = (0.2 if files else 0.0) if part is None else part
    return keras_lit.data.image_text_pairs(dataset, split, captions="first", test_fraction=part)


def texts_and_names(pairs: tf.data.Dataset) -> dict[str, Any]:
    """The captions and names, without the pictures."""
    rows = list(pairs.map(lambda pair: (pair["text"], pair["name"])).as_numpy_iterator())
    text, name = (
        [x.decode(errors="replace") for x in column] for column in zip(*rows, strict=True)
    )
    return {"text": np.array(text), "name": name}


def make_image_tower(preset: str | None) -> keras_lit.ImageTower:
    """EfficientNet-Lite0 from PyPI, or any preset of keras-nlp or keras-cv."""
    options = {"antialias": True, "random_crop": (0.5, 1.0), "random_flip": True}
    if preset is None:
        return keras_lit.demo.efficientnet_lite0(resize="pad", **options)
    import keras_cv  # Here, for it takes five seconds.

    for name in dir(keras_cv.models):
        backbone = getattr(keras_cv.models, name)
        if name.endswith("Backbone") and preset in getattr(backbone, "presets", {}):
            tower = keras_lit.ImageTower(backbone.from_preset(preset))
            settings = {**tower.preprocessor.get_config(), **options}
            preprocessor = keras_lit.preprocessing.ImagePreprocessor.from_config(settings)
            return keras_lit.ImageTower(tower.backbone, preprocessor=preprocessor)
    return keras_lit.ImageTower.from_preset(preset, **options)


def make_text_tower(text: str, captions: np.ndarray) -> keras_lit.TextTower:
    """MiniLM from PyPI, or the paper's transformer with a vocabulary of these captions."""
    if text == "minilm":
        tower = keras_lit.demo.minilm()
        for layer in tower.backbone.layers[: 3 * len(tower.backbone.layers) // 4]:
            layer.trainable = False  # Embeddings and three of six blocks: few captions, less time.
        return tower
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 8_000)
    return keras_lit.TextTower.from_size(text, tokenizer, dropout=0.1)


def features(model: keras_lit.LiT, pairs: tf.data.Dataset, random: bool = False) -> np.ndarray:
    """The image tower's features of every picture; of a random crop of each if `random`."""
    batches = model.preprocess(pairs.batch(32), training=random)
    return model.image_tower.predict(batches.map(lambda pair: pair["image"]), verbose=2)


# Training.


def untrained(
    model: keras_lit.LiT,
    start: list[np.ndarray],
    train: dict[str, Any],
    rows: np.ndarray,
    args: argparse.Namespace,
) -> keras_lit.LiT:
    """A LiT of the same towers, the text tower with the weights of its start and a new head.

    MiniLM's features and the image tower's get heads from a regularised canonical correlation
    analysis. Pooled features have a large mean and a few strong directions, in which all pictures
    (and all captions) look alike. The analysis takes the mean away, evens out the directions, and
    keeps those that pictures and captions share. The image head stays as it is, a fixed function of
    the training pairs; the text tower and its head go on from there with the contrastive loss.
    """
    image_tower, text_tower = model.image_tower, model.text_tower
    text_tower.backbone.set_weights(start)
    text_tower = keras_lit.TextTower(
        text_tower.backbone, pooling=text_tower.pooling, preprocessor=text_tower.preprocessor
    )
    if args.text != "minilm":
        return keras_lit.LiT(image_tower, text_tower, "LU", temperature=8.0)
    heads = canonical_heads(train["views"][0][rows], text_features(text_tower, train["text"][rows]))
    image_tower.add_head(heads[0][0].shape[1])
    model = keras_lit.LiT(image_tower, text_tower, "LU", temperature=8.0, lock_heads=True)
    for tower, head in zip((image_tower, text_tower), heads, strict=True):
        tower.head.set_weights(head)
    return model


def canonical_heads(
    images: np.ndarray, texts: np.ndarray, image_penalty: float = 3.0, text_penalty: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel, bias) for images and for texts: whiten, rotate, weight by the correlation.

    The penalties are multiples of the mean variance; cross-validation on "train" chose them.
    """
    (image_mean, image_kernel), (text_mean, text_kernel) = (
        keras_lit.data.whitening_kernel(rows, penalty)
        for rows, penalty in ((images, image_penalty), (texts, text_penalty))
    )
    covariance = (images - image_mean).T @ (texts - text_mean) / len(images)
    cross = image_kernel @ covariance @ text_kernel
    left, correlations, right = np.linalg.svd(cross, full_matrices=False)
    heads = (
        (image_mean, image_kernel @ left * correlations),
        (text_mean, text_kernel @ right.T * correlations),
    )
    return [(kernel, -mean @ kernel) for mean, kernel in heads]


def fit(
    model: keras_lit.LiT,
    train: dict[str, Any],
    training: np.ndarray,
    args: argparse.Namespace,
    validation: np.ndarray | None = None,
    epochs: int | None = None,
) -> dict[str, list[float]]:
    """Trains the text tower; keeps the weights that retrieve best on the validation part, if any.

    `epochs`, if given, ends the training early: the schedule is that of `args.epochs`.
    """
    token_ids = model.text_tower.preprocessor(train["text"]).numpy()
    views, rows = tf.constant(train["views"]), tf.constant(training)

    def pair(row: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "image_features": views[draw % len(train["views"]), row],
            "text": tf.gather(token_ids, row),
        }

    draws = tf.data.Dataset.random(args.seed, rerandomize_each_iteration=True)
    order = tf.data.Dataset.from_tensor_slices(rows).shuffle(len(training), seed=args.seed)
    batch_size = min(args.batch_size, len(training))
    pairs = tf.data.Dataset.zip(order, draws).map(pair).batch(batch_size, drop_remainder=True)

    steps = args.epochs * (len(training) // batch_size)
    schedule = keras_lit.optimizers.WarmupSchedule(args.learning_rate, steps, steps // 10)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01))
    if validation is None:
        return model.fit(pairs, epochs=epochs).history
    best = KeepBest(train, validation)
    history = model.fit(pairs, epochs=args.epochs, callbacks=[best]).history
    model.set_weights(best.weights)
    return {**history, "validation": best.scores}


class KeepBest(keras.callbacks.Callback):
    """Scores the mean recall on the validation part by epoch; remembers the best weights."""

    def __init__(self, train: dict[str, Any], rows: np.ndarray) -> None:
        super().__init__()
        self.features, self.text = train["views"][0][rows], train["text"][rows]
        self.scores, self.weights = [], None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """The start counts as well."""
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Evaluates once."""
        images = self.model.encode_image(self.features)
        texts = self.model.encode_text(self.text)
        self.scores.append(mean_recall(recalls(images, texts, self.text)))
        if self.scores[-1] == max(self.scores):
            self.weights = self.model.get_weights()


# Evaluation.


def text_features(text_tower: keras_lit.TextTower, texts: np.ndarray) -> np.ndarray:
    """The text tower's output before its head."""
    batches = [text_tower.preprocessor(texts[i : i + 256]) for i in range(0, len(texts), 256)]
    return np.concatenate([text_tower.features(batch) for batch in batches])


def least_squares(
    inputs: np.ndarray, targets: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression with a bias; the penalty is for inputs of mean length 1."""
    scale = np.linalg.norm(inputs, axis=1).mean()
    mean, target = inputs.mean(axis=0), targets.mean(axis=0)
    centred = (inputs - mean) / scale
    gram = centred.T @ centred + penalty * np.eye(inputs.shape[1], dtype=inputs.dtype)
    kernel = np.linalg.solve(gram, centred.T @ (targets - target)) / scale
    return kernel, target - mean @ kernel


def ridge_baseline(
    text_tower: keras_lit.TextTower,
    train: dict[str, Any],
    test: dict[str, Any],
    training: np.ndarray,
    validation: np.ndarray,
) -> dict[str, float]:
    """Ridge regression from image features to the untrained text tower's embeddings.

    The penalty is chosen on the validation part; the regression then uses all of "train".
    """
    images = train["views"][0]
    texts = keras.utils.normalize(text_features(text_tower, train["text"]))
    length = np.linalg.norm(images, axis=1).mean()

    def predict(rows: np.ndarray, penalty: float, queries: np.ndarray) -> np.ndarray:
        kernel, bias = least_squares(images[rows], texts[rows], penalty / length**2)
        return keras.utils.normalize(queries @ kernel + bias)

    def validate(penalty: float) -> float:
        predicted = predict(training, penalty, images[validation])
        return mean_recall(recalls(predicted, texts[validation], train["text"][validation]))

    penalty = max(PENALTIES, key=validate)
    everything = np.concatenate([training, validation])
    predicted = predict(everything, penalty, test["features"])
    wanted = keras.utils.normalize(text_features(text_tower, test["text"]))
    return {
        **recalls(predicted, wanted, test["text"]),
        "penalty": penalty,
        "validation": validate(penalty),
    }


# What a person looks at.


def plot_training(
    history: dict[str, list[float]], metrics: dict[str, Any], path: pathlib.Path
) -> None:
    """Loss, validation recall and test recalls, the latter two beside the baseline's."""
    baseline = metrics["ridge_baseline"]
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    left, middle, right = panels
    epochs = range(1, len(history["loss"]) + 1)
    left.plot(epochs, history["loss"], label="contrastive loss")
    left.plot(epochs, history["chance_loss"], "--", color="grey", label="chance, ln(batch)")
    scores = history["validation"]
    middle.plot(
        range(len(scores)), scores, color="tab:green", label="LiT (epoch 0: before training)"
    )
    middle.axhline(baseline["validation"], ls="--", color="grey", label="ridge baseline")
    names = [name for name in baseline if "_recall@" in name]
    labels = [name.replace("_to_", " to ").replace("_recall", "\n") for name in names]
    labels = [label.replace("image", "img").replace("text", "txt") for label in labels]
    for offset, (label, source, colour) in enumerate(
        [("LiT", metrics, "tab:green"), ("ridge baseline", baseline, "lightgrey")]
    ):
        places = np.arange(len(names)) + 0.4 * offset - 0.2
        right.bar(places, [source[name] for name in names], 0.4, label=label, color=colour)
    right.set_xticks(range(len(names)), labels, fontsize=8)
    left.set(title="Training", xlabel="epoch")
    middle.set(title="Validation: mean of the six recalls", xlabel="epoch")
    right.set(title=f"Recall on {metrics['pairs']['test']} test pairs")
    for axes, top in zip(panels, (None, 1, 1), strict=True):
        axes.set_ylim(0, top)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (left, middle):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def contact_sheet(
    model: keras_lit.LiT, test: dict[str, Any], pairs: tf.data.Dataset, path: pathlib.Path
) -> None:
    """Queries with their five nearest pictures; a green frame marks the caption's own."""
    texts = test["text"]
    queries = texts[np.random.default_rng(0).permutation(len(texts))[:8]]
    rows = evaluation.sheets.nearest_pictures(
        queries,
        model.encode_text(queries),
        model.encode_image(test["features"]),
        texts == queries[:, np.newaxis],
        evaluation.Images(pairs, ()),
        size=128,
    )
    figure, grid = plt.subplots(len(rows), 6, figsize=(9.5, 1.55 * len(rows)))
    for line, row in zip(grid, rows, strict=True):
        line[0].text(1, 0.5, row.query, ha="right", va="center", wrap=True, fontsize=9)
        line[0].axis("off")
        for axes, hit in zip(line[1:], row.hits, strict=True):
            axes.imshow(hit.pixels)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{hit.similarity:.2f}", fontsize=7, labelpad=2)
            for spine in axes.spines.values():
                colour, width = ("tab:green", 4) if hit.right else ("lightgrey", 1)
                spine.set(color=colour, linewidth=width)
    figure.suptitle("Test captions and their five nearest test pictures (green: the right one)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(metrics: dict[str, Any], output: pathlib.Path, saved_model: pathlib.Path) -> None:
    """Prints the result."""
    print(f"\n{'test recall, %':24}{'LiT':>8}{'ridge':>8}")
    for name, value in metrics["ridge_baseline"].items():
        if "recall" in name:
            print(f"{name:24}{100 * metrics[name]:8.1f}{100 * value:8.1f}")
    if metrics["zero_shot"]:
        shot = metrics["zero_shot"]
        print(f"{'zero-shot accuracy':24}{100 * shot['accuracy@1']:8.1f}", end="")
        print(f"  ({len(shot['classes'])} folders, chance {100 * shot['chance']:.1f})")
    print(f"\nmetrics.json, model.keras, training.png, retrieval.png in {output}; {saved_model}")


if __name__ == "__main__":
    main()

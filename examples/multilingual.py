"""Trains one text tower for all languages of Tux Paint's stamps, and one for English alone.

    python examples/multilingual.py                           # half an hour on two cores
    python examples/multilingual.py --layers 0 --epochs 400   # these, without a choice

The locked image tower, EfficientNet-Lite0, is run once; its head takes the mean of the training
pictures away and evens their directions out, and is locked too. The text towers start from scratch,
each with a SentencePiece vocabulary of the training captions; in each epoch a picture goes with its
caption in a language drawn anew. Where --layers or --epochs are several, a fifth of the training
pictures is held out to choose by, for each of the two towers: the layers first (0 is the mean of
the embeddings of a text's pieces), then the epochs; the chosen are trained once more, on all. The
test pictures are looked at once, in the end. Writes to --output: trials.json (a run that was killed
does not try these again), metrics.json, multilingual.keras, english_only.keras, languages.png.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf

import keras_lit
from keras_lit import evaluation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ENGLISH = "en"
RECALL = "validation_recall@10"


def main() -> None:
    """Features, two towers, their recalls."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    start = time.perf_counter()
    image_tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)
    train, test = (read(args.data_dir, split, image_tower) for split in ("train", "test"))
    counts = captions_by_language(train, test)
    seconds = {"features": time.perf_counter() - start}
    results, choices = {}, {}
    for name, languages, size in (
        ("multilingual", list(counts), args.vocabulary_size),
        ("english_only", [ENGLISH], 8_000),
    ):
        start = time.perf_counter()
        choices[name] = choose(image_tower, train, languages, size, counts, args)
        settings = choices[name]["chosen"]
        tokenizer = tokenizer_of(train, languages, size)
        add_whitening_head(image_tower, train["features"])
        model = train_tower(image_tower, train, languages, tokenizer, settings, args)
        seconds[name] = time.perf_counter() - start
        results[name] = evaluate(model, test, languages)
        model.save(args.output / f"{name}.keras")
    metrics = summary(results, counts, args.at_least)
    metrics |= {"choices": choices, "seconds": seconds}
    metrics["settings"] = {k: str(v) for k, v in vars(args).items()}
    (args.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
    plot(metrics, args.output / "languages.png")
    print(json.dumps({k: v for k, v in metrics.items() if k != "languages"}, indent=1))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/multilingual"))
    parser.add_argument("--data-dir", help="of the prepared stamps")
    parser.add_argument("--vocabulary-size", type=int, default=32_000)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--at-least", type=int, default=900, help="captions of a language that counts"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read(
    data_dir: str | None,
    split: str,
    image_tower: keras_lit.ImageTower,
    limit: int | None = None,
) -> dict[str, Any]:
    """The features of all pictures (or the first `limit`), and their captions by language."""
    builder = keras_lit.data.TuxPaintStamps(data_dir=data_dir)
    builder.download_and_prepare()
    stamps = builder.as_dataset(split=split).take(limit or -1)
    pixels = stamps.map(lambda stamp: image_tower.preprocessor(stamp["image"]), tf.data.AUTOTUNE)
    captions = [
        {
            language.decode(): text.decode()
            for language, text in zip(each["language"], each["text"], strict=True)
        }
        for each in stamps.map(lambda stamp: stamp["captions"]).as_numpy_iterator()
    ]
    return {"features": image_tower.predict(pixels.batch(32), verbose=2), "captions": captions}


def captions_by_language(train: dict[str, Any], test: dict[str, Any]) -> dict[str, int]:
    """How many captions there are in each of the languages to train on."""
    return {
        language: sum(language in captions for captions in train["captions"] + test["captions"])
        for language in sorted({name for captions in train["captions"] for name in captions})
    }


def add_whitening_head(
    image_tower: keras_lit.ImageTower, features: np.ndarray, penalty: float = 3.0
) -> None:
    """A linear head after which the training pictures have mean 0 and more even directions.

    Cross-validation on the training pictures chose the penalty.
    """
    mean, kernel = keras_lit.data.whitening_kernel(features, penalty)
    image_tower.add_head(kernel.shape[1])
    image_tower.head.set_weights([kernel, -mean @ kernel])


def choose(
    image_tower: keras_lit.ImageTower,
    train: dict[str, Any],
    languages: list[str],
    vocabulary_size: int,
    counts: dict[str, int],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The layers, then the epochs that are best for a held-out fifth; {"chosen", "trials"}."""
    candidates = {"layers": args.layers, "epochs": args.epochs}
    chosen = {name: values[0] for name, values in candidates.items()}
    trials: list[dict[str, float]] = []
    if all(len(values) == 1 for values in candidates.values()):
        return {"chosen": chosen, "trials": trials}
    held_out = np.random.default_rng(args.seed).permutation(len(train["captions"])) % 5 == 0
    fitting, validation = (part(train, rows) for rows in (~held_out, held_out))
    tokenizer = tokenizer_of(fitting, languages, vocabulary_size)
    add_whitening_head(image_tower, fitting["features"])

    file = args.output / "trials.json"
    done = json.loads(file.read_text()) if file.exists() else []
    same = {name: getattr(args, name) for name in ("width", "batch_size", "learning_rate", "seed")}
    same |= {"languages": len(languages), "vocabulary_size": vocabulary_size}

    def recall(settings: dict[str, int]) -> float:
        trial = {**same, **settings}
        known = [each[RECALL] for each in done if trial.items() <= each.items()]
        if known:
            found = known[0]
        else:
            model = train_tower(image_tower, fitting, languages, tokenizer, settings, args)
            found = mean_recall(evaluate(model, validation, languages), counts, args.at_least)
            done.append({**trial, RECALL: found})
            file.write_text(json.dumps(done, indent=1))
        trials.append({**settings, RECALL: found})
        print(trials[-1], flush=True)
        return found

    best = recall(chosen)
    for name, values in candidates.items():
        for value in values[1:]:
            settings = {**chosen, name: value}
            if (found := recall(settings)) > best:
                best, chosen = found, settings
    return {"chosen": chosen, "trials": trials}


def part(pictures: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """The pictures where [pictures] `rows` is True."""
    captions = [each for each, wanted in zip(pictures["captions"], rows, strict=True) if wanted]
    return {"features": pictures["features"][rows], "captions": captions}


def tokenizer_of(
    train: dict[str, Any], languages: list[str], vocabulary_size: int
) -> keras.layers.Layer:
    """A SentencePiece tokenizer of the captions in these languages."""
    texts = [
        captions[name] for captions in train["captions"] for name in languages if name in captions
    ]
    return keras_lit.tokenizers.train_sentencepiece(texts, vocabulary_size, character_coverage=1.0)


def train_tower(
    image_tower: keras_lit.ImageTower,
    train: dict[str, Any],
    languages: list[str],
    tokenizer: keras.layers.Layer,
    settings: dict[str, int],
    args: argparse.Namespace,
) -> keras_lit.LiT:
    """A LiT whose text tower knows these languages."""
    text_tower = keras_lit.TextTower(
        backbone(tokenizer.vocabulary_size(), settings["layers"], args.width),
        tokenizer,
        pooling="mean",
    )
    model = keras_lit.LiT(image_tower, text_tower, "LU", temperature=8.0, lock_heads=True)
    steps = settings["epochs"] * len(train["captions"]) // args.batch_size
    schedule = keras_lit.optimizers.WarmupSchedule(args.learning_rate, steps, steps // 20)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.05))
    examples = tf.data.Dataset.from_tensor_slices(
        {
            "image_features": train["features"],
            "captions": {
                "language": tf.ragged.constant([list(each) for each in train["captions"]]),
                "text": tf.ragged.constant([list(each.values()) for each in train["captions"]]),
            },
        }
    )
    pairs = keras_lit.data.captions.draw_language(
        examples.shuffle(len(train["captions"]), seed=args.seed).repeat(), languages, args.seed
    )
    # Few long rounds: Keras starts each with a new iterator, for so few pairs half of the time.
    rounds = min(8, settings["epochs"])
    model.fit(
        pairs.batch(args.batch_size), epochs=rounds, steps_per_epoch=steps // rounds, verbose=2
    )
    return model


def backbone(vocabulary_size: int, layers: int, width: int) -> keras.Model:
    """A transformer whose layers begin as nothing, or (0 layers) an embedding for each piece."""
    initial = keras.initializers.RandomNormal(stddev=0.02)
    if layers == 0:
        token_ids = keras.Input([None], dtype="int32")
        x = keras.layers.Embedding(vocabulary_size, width, initial)(token_ids)
        return keras.Model(token_ids, keras.layers.Dropout(0.1, (None, None, 1))(x))
    model = keras_lit.backbones.TextTransformer(
        vocabulary_size, 16, width, layers, 4 * width, width // 64, dropout=0.1
    )
    model.token_embedding.embeddings.assign(0.02 * width**0.5 * model.token_embedding.embeddings)
    for layer in model.layers:
        if isinstance(layer, keras_lit.backbones.text_transformer.TransformerBlock):
            for last in (layer._self_attention_layer.output_dense, layer._feedforward_output_dense):
                last.set_weights([0 * weight for weight in last.get_weights()])
    return model


def evaluate(
    model: keras_lit.LiT, test: dict[str, Any], languages: list[str]
) -> dict[str, dict[str, float]]:
    """Recalls by language."""
    images = model.encode_image(test["features"])
    captions = [
        {language: text for language, text in each.items() if language in languages}
        for each in test["captions"]
    ]
    texts = sorted({text for each in captions for text in each.values()})
    rows = dict(zip(texts, model.encode_text(texts), strict=True))  # At once, not by language.

    def encode_text(texts: list[str]) -> np.ndarray:
        return np.stack([rows[text] for text in texts])

    return evaluation.recall_by_language(encode_text, images, captions)


def recall_at_10(recalls: dict[str, float]) -> float:
    """The mean of both directions, in percent."""
    ways = ("image_to_text_recall@10", "text_to_image_recall@10")
    return 100 * float(np.mean([recalls[way] for way in ways]))


def mean_recall(
    recalls: dict[str, dict[str, float]], counts: dict[str, int], at_least: int
) -> float:
    """The mean of `recall_at_10` over the languages with many captions."""
    large = [name for name in recalls if counts[name] >= at_least]
    return float(np.mean([recall_at_10(recalls[name]) for name in large]))


def summary(
    results: dict[str, dict[str, dict[str, float]]], counts: dict[str, int], at_least: int
) -> dict[str, Any]:
    """Averages over the languages with many captions, beside English's own."""
    recalls = results["multilingual"]
    mean = mean_recall(recalls, counts, at_least)
    english = recall_at_10(recalls[ENGLISH])
    return {
        "recall@10": {
            "mean": mean,
            "languages": sum(counts[name] >= at_least for name in recalls),
            "english": english,
            "english_only_tower": recall_at_10(results["english_only"][ENGLISH]),
            "mean_to_english": mean / english,
        },
        "languages": {
            name: {"captions": counts[name], "recall@10": recall_at_10(value), **value}
            for name, value in recalls.items()
        },
    }


def plot(metrics: dict[str, Any], path: pathlib.Path) -> None:
    """A bar for each language with many captions."""
    least = int(metrics["settings"]["at_least"])
    rows = {
        name: row["recall@10"]
        for name, row in metrics["languages"].items()
        if row["captions"] >= least
    }
    names = sorted(rows, key=rows.get, reverse=True)
    figure, axes = plt.subplots(figsize=(12, 3.8), layout="constrained")
    colours = ["tab:green" if name == ENGLISH else "lightgrey" for name in names]
    axes.bar(range(len(names)), [rows[name] for name in names], color=colours)
    summary = metrics["recall@10"]
    axes.axhline(summary["mean"], color="black", lw=1, label=f"mean {summary['mean']:.1f}")
    only = summary["english_only_tower"]
    axes.axhline(only, color="tab:green", ls="--", lw=1, label=f"English-only tower {only:.1f}")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set(title="R@10 on the test stamps, mean of both directions, %", xlim=(-1, len(names)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()

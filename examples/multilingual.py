"""Trains one text tower for all languages of Tux Paint's stamps, and one for English alone.

    python examples/multilingual.py                     # some minutes on two cores
    python examples/multilingual.py --layers 1 --learning-rate 1e-3 --epochs 200   # a transformer

The locked image tower, EfficientNet-Lite0, is run once; its head takes the mean of the training
pictures away and evens their directions out, and is locked too. The text towers start from scratch,
each with a SentencePiece vocabulary of the training captions; in each epoch a picture goes with its
caption in a language drawn anew. With 773 pictures a tower of no transformer layers (the mean of
the embeddings of a text's pieces) is the default. Writes to --output: metrics.json,
multilingual.keras and languages.png.
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


def main() -> None:
    """Features, two towers, their recalls."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    start = time.perf_counter()
    image_tower = keras_lit.pretrained.efficientnet_lite0(resize="pad", antialias=True)
    train, test = (read(args.data_dir, split, image_tower) for split in ("train", "test"))
    add_whitening_head(image_tower, train["features"])
    counts = {
        language: sum(language in captions for captions in train["captions"] + test["captions"])
        for language in sorted({name for captions in train["captions"] for name in captions})
    }
    seconds = {"features": time.perf_counter() - start}
    results, models = {}, {}
    for name, languages, size in (
        ("multilingual", list(counts), args.vocabulary_size),
        ("english_only", [ENGLISH], 8_000),
    ):
        start = time.perf_counter()
        models[name] = train_tower(image_tower, train, languages, size, args)
        seconds[name] = time.perf_counter() - start
        results[name] = evaluate(models[name], test, languages)
    metrics = summary(results, counts, args.at_least)
    metrics |= {"seconds": seconds, "settings": {k: str(v) for k, v in vars(args).items()}}
    (args.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
    models["multilingual"].save(args.output / "multilingual.keras")
    plot(metrics, args.output / "languages.png")
    print(json.dumps({k: v for k, v in metrics.items() if k != "languages"}, indent=1))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/multilingual"))
    parser.add_argument("--data-dir", help="of the prepared stamps")
    parser.add_argument("--vocabulary-size", type=int, default=32_000)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--at-least", type=int, default=900, help="captions of a language that counts"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read(data_dir: str | None, split: str, image_tower: keras_lit.ImageTower) -> dict[str, Any]:
    """The features of all pictures, and their captions by language."""
    builder = keras_lit.data.TuxPaintStamps(data_dir=data_dir)
    builder.download_and_prepare()
    stamps = builder.as_dataset(split=split)
    pixels = stamps.map(lambda stamp: image_tower.preprocessor(stamp["image"]), tf.data.AUTOTUNE)
    captions = [
        {
            language.decode(): text.decode()
            for language, text in zip(each["language"], each["text"], strict=True)
        }
        for each in stamps.map(lambda stamp: stamp["captions"]).as_numpy_iterator()
    ]
    return {"features": image_tower.predict(pixels.batch(32), verbose=2), "captions": captions}


def add_whitening_head(
    image_tower: keras_lit.ImageTower, features: np.ndarray, penalty: float = 3.0
) -> None:
    """A linear head after which the training pictures have mean 0 and more even directions."""
    centred = features - features.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(features))
    deviations = np.sqrt(np.maximum(variances, 0) + penalty * variances.mean())
    kernel = directions / deviations @ directions.T
    image_tower.add_head(kernel.shape[1])
    image_tower.head.set_weights([kernel, -features.mean(axis=0) @ kernel])


def train_tower(
    image_tower: keras_lit.ImageTower,
    train: dict[str, Any],
    languages: list[str],
    vocabulary_size: int,
    args: argparse.Namespace,
) -> keras_lit.LiT:
    """A LiT whose text tower knows these languages."""
    texts = [
        captions[name] for captions in train["captions"] for name in languages if name in captions
    ]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(
        texts, vocabulary_size, character_coverage=1.0
    )
    text_tower = keras_lit.TextTower(
        backbone(tokenizer.vocabulary_size(), args), tokenizer, pooling="mean"
    )
    model = keras_lit.LiT(image_tower, text_tower, "LU", temperature=8.0, lock_heads=True)
    steps = args.epochs * (len(train["captions"]) // args.batch_size)
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
    rounds = min(8, args.epochs)
    model.fit(
        pairs.batch(args.batch_size), epochs=rounds, steps_per_epoch=steps // rounds, verbose=2
    )
    return model


def backbone(vocabulary_size: int, args: argparse.Namespace) -> keras.Model:
    """A transformer whose layers begin as nothing, or (0 layers) an embedding for each piece."""
    initial = keras.initializers.RandomNormal(stddev=0.02)
    if args.layers == 0:
        token_ids = keras.Input([None], dtype="int32")
        x = keras.layers.Embedding(vocabulary_size, args.width, initial)(token_ids)
        return keras.Model(token_ids, keras.layers.Dropout(0.1, (None, None, 1))(x))
    model = keras_lit.backbones.TextTransformer(
        vocabulary_size, 16, args.width, args.layers, 4 * args.width, args.width // 64, dropout=0.1
    )
    model.token_embedding.embeddings.assign(
        0.02 * args.width**0.5 * model.token_embedding.embeddings
    )
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
    return evaluation.recall_by_language(model.encode_text, images, captions)


def recall_at_10(recalls: dict[str, float]) -> float:
    """The mean of both directions, in percent."""
    ways = ("image_to_text_recall@10", "text_to_image_recall@10")
    return 100 * float(np.mean([recalls[way] for way in ways]))


def summary(
    results: dict[str, dict[str, dict[str, float]]], counts: dict[str, int], at_least: int
) -> dict[str, Any]:
    """Averages over the languages with many captions, beside English's own."""
    recalls = results["multilingual"]
    large = [name for name in recalls if counts[name] >= at_least]
    mean = float(np.mean([recall_at_10(recalls[name]) for name in large]))
    english = recall_at_10(recalls[ENGLISH])
    return {
        "recall@10": {
            "mean": mean,
            "languages": len(large),
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

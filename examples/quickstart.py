"""Trains a LiT on open pictures and captions, evaluates it, shows the result, and saves it.

    python examples/quickstart.py                      # OpenPictures, some minutes
    python examples/quickstart.py --dataset my_photos  # a folder, table or shards, see the README
    python examples/quickstart.py --dataset coco_captions --test-split val \\
        --backbone resnet_50_imagenet

Writes to --output: metrics.json, training.png, retrieval.png, model.keras, a SavedModel, the test
pictures as files, and the features of pictures and captions, which the next run finds there.
"""

import argparse
import json
import pathlib

import keras
from studies import captioned, drawings, scores
from studies.runner import Clock

import keras_lit
from keras_lit import features

# Of the 16 that the text tower knows.
LANGUAGES = ("en", "de", "es", "fr", "ru", "ja", "zh", "ar")
# What a person would type, and one question in five languages.
QUERIES = ["something to drink", "a bird that can swim", "it is going to rain", "I am sad"]
QUERIES += ["to make music", "a fast car", "ein schnelles Auto", "un coche rápido"]
QUERIES += ["une voiture rapide", "быстрая машина"]


def main() -> None:
    """The story from data to pictures, timing each stage."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    recipe = keras_lit.recipes.get("few_pairs")
    clock = Clock()

    # Pictures with captions in several languages; those of one concept are one "group".
    splits = captioned.read(args.dataset, args.test_split, args.test_fraction, LANGUAGES)
    _, validation, test = splits
    clock.lap("pictures")

    # Two pretrained towers that have never met.
    if args.backbone:
        image_tower = keras_lit.ImageTower.from_preset(args.backbone)
    else:
        image_tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)
    text_tower = keras_lit.demo.universal_sentence_encoder(recipe.sequence_length)
    clock.lap("towers")

    # Both are locked: they look once at each picture and read each caption once.
    cache = args.output / "features"
    for split in splits:
        shards = 1 + len(split.names) // 500  # A run that is stopped goes on after its last shard.
        options = {"split": split.name, "text_tower": text_tower}
        features.precompute(image_tower, split.pairs, cache, 32, shards, **options)
        captioned.read_features(split, cache)
    clock.lap("features")

    # Heads in closed form: a regression to compare with, then canonical correlations.
    model = keras_lit.LiT(features.image_tower(cache), text_tower, **recipe.lit_options())
    every_caption = features.load(cache, "train", captions="all").batch(recipe.batch_size)
    model.align(every_caption, "ridge")
    results = {"ridge": scores.of_two(model, validation, test)}
    for tower in (model.image_tower, text_tower):  # Linear at first; `fit` makes more of them.
        width = min(model.image_tower.feature_dim, text_tower.feature_dim)
        tower.add_head(head=keras_lit.backbones.ResidualHead(width))
    model.align(every_caption)
    results["closed form"] = scores.of_two(model, validation, test)
    clock.lap("closed forms")

    # Training goes on from there; each epoch draws one caption of each picture.
    drawn = features.load(cache, "train", shuffle=True, seed=args.seed).batch(recipe.batch_size)
    model.compile(recipe.optimizer(steps=args.epochs * len(drawn)))
    best = scores.KeepBest(lambda model: mean_recall(model, validation), every_n_epochs=5)
    history = model.fit(drawn, epochs=args.epochs, callbacks=[best], verbose=2).history
    clock.lap("training")

    results["LiT"] = scores.of_two(model, validation, test)
    shot = scores.zero_shot(model, {"features": test.features, "name": test.names})
    clock.lap("evaluation")

    # One model of pictures and strings: a .keras file to go on with, a SavedModel to serve.
    model = model.with_image_tower(image_tower)
    model.save(args.output / "model.keras")
    saved_model = keras_lit.export.save(model, args.output / "saved_model")
    clock.lap("export")

    history |= {"validation": best.scores, "validated": best.epochs}
    drawings.training(history, results, args.output / "training.png")
    own = [*dict.fromkeys(text for texts in test.captions for text in texts.values())]
    queries = QUERIES if args.dataset == captioned.OPEN_PICTURES else own[:10]
    drawings.contact_sheet(model, queries, test, args.output / "retrieval.png")
    clock.lap("drawings")

    metrics = {
        "results": results,
        "zero_shot": shot,
        "history": history,
        "pictures": {split.name: len(split.names) for split in splits},
        "keras_lit": keras_lit.__version__,
        "seconds": clock.seconds,
        "processor_seconds": clock.cpu_seconds,
        "settings": {name: str(value) for name, value in vars(args).items()},
    }
    (args.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
    print(scores.report(results))
    if shot:
        print(
            f"zero-shot accuracy: {100 * shot['accuracy@1']:.1f} % of the test pictures, ", end=""
        )
        print(f"{len(shot['classes'])} categories, chance {100 * shot['chance']:.1f} %")
    print(f"metrics.json, training.png, retrieval.png, model.keras in {args.output}; {saved_model}")
    pictures = captioned.write(test, args.output / "test_pictures")
    model_file = args.output / "model.keras"
    print(f"A page: python examples/demo.py --model {model_file} --pictures {pictures}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument(
        "--dataset",
        default=captioned.OPEN_PICTURES,
        help="a folder, a table, shards or a TensorFlow dataset",
    )
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--test-fraction", type=float, help="of files; 0 if they have splits")
    parser.add_argument("--backbone", help="an image preset of keras-nlp, or its folder")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def mean_recall(model: keras_lit.LiT, split: captioned.Split) -> float:
    """Of the six recalls, over all languages."""
    return scores.mean_over_languages(scores.by_language(model, split))


if __name__ == "__main__":
    main()

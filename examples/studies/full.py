"""The studies at full size: a recipe of the paper, your dataset, every device that is there.

    python examples/studies/design_choices.py --full cc12m --dataset cc12m \\
        --backbone vit_base_patch16_224_imagenet --text-backbone bert_base_en_uncased \\
        --test-dataset coco_captions --test-split val
    python examples/studies/image_towers.py --full yfcc --backbone resnet50,vit_base ...

Every study down to `unlocking.py` in docs/studies.md takes `--full` and then measures retrieval and
the loss on the test pairs. `--dataset` is what `keras_lit.data.image_text_pairs` reads (also a name
of TensorFlow Datasets), `--backbone` and `--text-backbone` are presets of keras-nlp or their
folders.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import keras_nlp
import numpy as np
import runner
import stamps
import tensorflow as tf

import keras_lit
from keras_lit import data, evaluation, recipes
from keras_lit.preprocessing import tokenizers


def parser(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """The command line of the studies, with what they take at full size."""
    parser = runner.parser(description, **defaults)
    papers = [name for name, recipe in recipes.RECIPES.items() if not recipe.align]
    parser.add_argument("--open-pictures", action="store_true", help="instead of the stamps")
    parser.add_argument("--full", choices=papers, help="see full.py")
    parser.add_argument("--dataset", default="coco_captions")
    parser.add_argument("--split", default="train")
    parser.add_argument("--test-dataset", help="by default the --dataset")
    parser.add_argument("--test-split", default="val")
    parser.add_argument("--backbone", help="image preset, or its folder")
    parser.add_argument(
        "--text-backbone", help="text preset; without it the recipe's, from scratch"
    )
    parser.add_argument("--text-size", default="B")
    parser.add_argument("--global-batch", type=int, help="by default the recipe's")
    parser.add_argument("--steps", type=int, help="by default as many pairs as the recipe sees")
    return parser


def run(study: str, args: argparse.Namespace, variants: dict[str, dict[str, Any]]) -> None:
    """Trains, measures, reports: `variants` are the options of `tune` by name."""
    if not args.backbone:
        raise SystemExit("--full needs --backbone: an image preset of keras-nlp, or its folder.")
    results = runner.run(
        study, args, variants, lambda variant, seed: tune(seed, args, **variants[variant])
    )
    runner.report(study, args, results, METRICS)


def recipe_of(args: argparse.Namespace, **changes: Any) -> recipes.Recipe:
    """`args.full` with the steps and the batch that `args` asks for, and other changes."""
    recipe = recipes.get(args.full)
    batch_size = args.global_batch or recipe.batch_size
    steps = args.steps or recipe.total_steps(batch_size)
    changes = {"batch_size": batch_size, "steps": steps, **changes}
    warmup = round(recipe.warmup_steps * changes["steps"] / recipe.steps)
    return dataclasses.replace(recipe, **changes, warmup_steps=warmup)


def strategy() -> tf.distribute.Strategy:
    """All GPUs, or the TPU, or this one device."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.NotFoundError):
        many = len(tf.config.list_physical_devices("GPU")) > 1
        return tf.distribute.MirroredStrategy() if many else tf.distribute.get_strategy()


def tune(
    seed: int,
    args: argparse.Namespace,
    changes: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    backbone: str | None = None,
    keep: Callable[[dict[str, tf.Tensor]], tf.Tensor] | None = None,
    **options: Any,
) -> list[runner.Point]:
    """Trains one variant by the recipe `args.full` and measures as it goes.

    Args:
        seed: of the order of the pairs.
        args: of `parser`.
        changes: of the recipe.
        optimizer: further arguments of the recipe's.
        backbone: in place of `args.backbone`.
        keep: which pairs to train on.
        **options: of `LiT`.
    """
    recipe = recipe_of(args, **(changes or {}))
    batch_size, steps = recipe.batch_size, recipe.steps
    pairs = data.image_text_pairs(args.dataset, args.split, shuffle_buffer=250_000, seed=seed)
    pairs = pairs if keep is None else pairs.filter(keep)
    with strategy().scope():
        text_tower = _text_tower(recipe, args, pairs)
        crops = recipe.image_preprocessor()
        image_tower = keras_lit.ImageTower.from_preset(
            backbone or args.backbone,
            projection_dim=text_tower.feature_dim if recipe.image_head else None,
            random_crop=crops.random_crop,
            random_flip=crops.random_flip,
        )
        options = {**recipe.lit_options(), **options}
        model = keras_lit.LiT(image_tower, text_tower, **options)
        model.compile(recipe.optimizer(**(optimizer or {})))
    test = data.image_text_pairs(args.test_dataset or args.dataset, args.test_split, captions="all")
    test = evaluation.ImagesAndTexts(test)
    measurements = stamps.Measurements(
        lambda model: _measure(model, test), steps // args.rounds * batch_size
    )
    model.fit(
        pairs.repeat().batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE),
        epochs=args.rounds,
        steps_per_epoch=steps // args.rounds,
        callbacks=[measurements],
        verbose=2,
    )
    return measurements.curve


def _text_tower(
    recipe: recipes.Recipe, args: argparse.Namespace, pairs: tf.data.Dataset
) -> keras_lit.TextTower:
    if args.text_backbone:
        backbone = keras_nlp.models.Backbone.from_preset(args.text_backbone)
        tokenizer = keras_nlp.models.Tokenizer.from_preset(args.text_backbone)
        return keras_lit.TextTower(backbone, tokenizer, recipe.sequence_length)
    captions = pairs.take(1_000_000).map(lambda pair: pair["text"])
    if recipe.text == "transformer":
        tokenizer = tokenizers.train_sentencepiece(captions, 32_000)
        return keras_lit.TextTower.from_size(
            args.text_size, tokenizer, sequence_length=recipe.sequence_length
        )
    tokenizer = tokenizers.train_wordpiece(captions, 30_522)
    width, layers, inner, heads = keras_lit.backbones.text_transformer.SIZES[args.text_size]
    words = tokenizer.vocabulary_size()
    backbone = keras_nlp.models.BertBackbone(words, layers, heads, width, inner)
    return keras_lit.TextTower(backbone, tokenizer, recipe.sequence_length)


def _measure(model: keras_lit.LiT, test: evaluation.ImagesAndTexts) -> dict[str, float]:
    images, texts = test.embeddings(model)
    recalls = evaluation.retrieval_recall(images, texts, test.image_index, (1, 5, 10))
    measured = {
        way: 100 * float(np.mean([recalls[f"{way}_recall@{k}"] for k in (1, 5, 10)]))
        for way in ("image_to_text", "text_to_image")
    }
    return {**measured, "test_loss": stamps.loss(model, images[test.image_index], texts)}


METRICS = {name: title for name, title in stamps.TEST_METRICS.items() if name != "zero_shot"}
METRICS["test_loss"] = "loss on the test pairs"

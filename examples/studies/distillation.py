"""What a small text tower gains from a teacher's cached embeddings.

    python examples/studies/distillation.py

A transformer of two layers, 128 wide, learns OpenPictures' captions from scratch on EfficientNet-
Lite0's features ("alone"), or also from the similarities of a teacher, by a weight: MiniLM with
both heads in closed form (`few_pairs.py`'s CCA of all pairs), which is not run. Teacher and
students see the same training pairs; recall is measured on the test split, of other concepts.
"""

import argparse
import functools

import few_pairs
import keras
import runner
import scores
import tensorflow as tf

import keras_lit

METRICS = {
    "mean_recall": "test, mean of six, %",
    "validation": "validation, %",
    "parameters": "parameters of the text tower",
}
VARIANTS = ("teacher", "alone", "weight 0.5", "weight 1")
TOKENS, WIDTH = 12, 128


def student(captions: list[str], image_dim: int) -> keras_lit.LiT:
    """Untrained."""
    tokenizer = keras_lit.tokenizers.train_wordpiece(captions, 3_000)
    words = tokenizer.vocabulary_size()
    backbone = keras_lit.backbones.TextTransformer(words, TOKENS, WIDTH, 2, 4 * WIDTH, 4)
    text_tower = keras_lit.TextTower(backbone, tokenizer, TOKENS)
    return keras_lit.LiT(keras_lit.ImageTower.from_features(image_dim, 256), text_tower, "LU")


def recall(model: keras_lit.LiT, part: few_pairs.Part) -> float:
    """The mean of the six, %."""
    texts = model.encode_text(list(part["text"]), 256, 0)
    images = model.encode_image(part["features"], 256, 0)
    return 100 * scores.mean_recall(scores.recalls(images, texts, part["text"]))


def train(
    data: few_pairs.Data, args: argparse.Namespace, variant: str, seed: int
) -> list[runner.Point]:
    """One run; the curve has its end only."""
    teacher = few_pairs.closed_form(data, len(data.parts["train"]["text"]), "cca")
    parts, validation, test = (data.parts[name] for name in few_pairs.SPLITS)
    if variant == "teacher":
        backbone = keras_lit.demo.minilm_backbone()
        found = {name: few_pairs.recall(teacher, data.parts[name]) for name in few_pairs.SPLITS[1:]}
        size = backbone.count_params() + teacher.text_tower.head.count_params()
        last = {"mean_recall": found["test"], "validation": found["validation"]}
        return [{"pairs": float(len(parts["text"])), **last, "parameters": float(size)}]
    captions = list(parts["text"])
    model = student(captions, parts["features"].shape[-1])
    pairs = {
        "image_features": parts["features"],
        "text": model.text_tower.preprocessor(captions),
        "text_features": parts["text_features"][:, 0],
        "group": parts["group"],
    }
    rows = tf.data.Dataset.from_tensor_slices(pairs).shuffle(len(captions), seed)
    batches = rows.batch(args.batch_size, drop_remainder=True)
    distillation = None
    if variant != "alone":
        weight = float(variant.split()[1])
        distillation = keras_lit.losses.Distillation(teacher.temperature, weight)
        batches = keras_lit.features.with_teacher(batches, teacher)
    steps = args.epochs * len(batches)
    schedule = keras_lit.optimizers.WarmupSchedule(args.learning_rate, steps, steps // 10)
    optimizer = keras_lit.optimizers.Adam(schedule, weight_decay=0.01)
    model.compile(optimizer, distillation=distillation, jit_compile=False)
    model.fit(batches, epochs=args.epochs, verbose=0)
    last = {"mean_recall": recall(model, test), "validation": recall(model, validation)}
    size = float(model.text_tower.count_params())
    return [{"pairs": float(args.epochs * len(captions)), **last, "parameters": size}]


def main() -> None:
    """Trains, measures, reports."""
    parser = runner.parser(__doc__, epochs=30, batch_size=512, learning_rate=1e-3)
    parser.set_defaults(data_dir="~/tensorflow_datasets/open_pictures/1.0.0")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    data = few_pairs.Data(args)
    results = runner.run("distillation", args, VARIANTS, functools.partial(train, data, args))
    print(runner.table(results, METRICS, "{:.1f} ± {:.1f}"))


if __name__ == "__main__":
    main()

"""What the studies train and measure on: Tux Paint's stamps, or OpenPictures."""

import argparse
import copy
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import scores
import tensorflow as tf

import keras_lit

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import multilingual

TEST_METRICS = {
    "zero_shot": "zero-shot accuracy, %",
    "image_to_text": "image to text, mean of R@1, 5, 10, %",
    "text_to_image": "text to image, mean of R@1, 5, 10, %",
}


class Stamps:
    """Both splits: a tower's features of the pictures, captions, paths; the pixels it saw.

    Args:
        args: `--data-dir`, `--limit` and `--open-pictures` of the studies' command line.
        image_tower: without a head.
        pixels: whether to keep them, to train image towers.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        image_tower: keras_lit.ImageTower,
        pixels: bool = True,
    ):
        other = getattr(args, "open_pictures", False)
        make = keras_lit.demo.OpenPictures if other else keras_lit.data.TuxPaintStamps
        builder = make(data_dir=args.data_dir)
        builder.download_and_prepare()
        self.train, self.test = (
            _read(builder, split, image_tower, args.limit) for split in ("train", "test")
        )
        for part in (self.train, self.test):
            part["features"] = features(image_tower, part["pixels"])
            if not pixels:
                del part["pixels"]

    def only(self, keep: np.ndarray) -> "Stamps":
        """These with the training pictures where `keep` is true."""
        some = copy.copy(self)
        some.train = rows_of(self.train, np.flatnonzero(keep))
        return some

    def parts(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of "train" to train on, and a tenth of them to validate on."""
        rows = np.random.default_rng(seed).permutation(len(self.train["text"]))
        validation, training = np.split(rows, [len(rows) // 10])
        return training, validation


def features(image_tower: keras_lit.ImageTower, pixels: np.ndarray) -> np.ndarray:
    """What a tower makes of preprocessed pictures."""
    return image_tower.predict(pixels, batch_size=32, verbose=0)


def _read(builder: Any, split: str, tower: keras_lit.ImageTower, limit: int | None) -> dict:
    stamps = builder.as_dataset(split=split).take(limit or -1)
    pixels = stamps.map(lambda stamp: tower.preprocessor(stamp["image"]), tf.data.AUTOTUNE)

    def row(stamp: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        if "path" in stamp:
            return stamp["caption"], stamp["path"]
        category = tf.gather(builder.info.features["category"].names, stamp["category"])
        return stamp["caption"], tf.strings.join([category, "/", stamp["name"]])

    rows = stamps.map(row).as_numpy_iterator()
    text, name = ([value.decode() for value in column] for column in zip(*rows, strict=True))
    folders = [each.split("/")[0] for each in name]
    kinds = [scores.CATEGORY_NAMES.get(folder, folder) for folder in folders]
    tagged = [f"{each.rstrip('.')}, {kind}." for each, kind in zip(text, kinds, strict=True)]
    return {
        "pixels": np.stack(list(pixels)),
        "text": np.array(text),
        "tagged": np.array(tagged),
        "name": name,
    }


def inputs(part: dict[str, Any], locked: bool) -> tuple[str, np.ndarray]:
    """The key of a pair and the array: features for a locked image tower, else pixels."""
    return ("image_features", part["features"]) if locked else ("image", part["pixels"])


def lower_half_of_minilm(sequence_length: int = 12) -> keras_lit.TextTower:
    """MiniLM's embeddings and the first three of its six layers: pretrained, at half the cost."""
    whole = keras_lit.demo.minilm_backbone()
    config = {**whole.get_config(), "num_layers": whole.num_layers // 2}
    half = type(whole).from_config(config)
    for layer in half.layers:
        layer.set_weights(whole.get_layer(layer.name).get_weights())
    tokenizer = keras_lit.demo.minilm_tokenizer()
    return keras_lit.TextTower(half, tokenizer, sequence_length, pooling="mean")


def bag_of_pieces(
    captions: np.ndarray, sequence_length: int = 16, width: int = 256
) -> keras_lit.TextTower:
    """The multilingual example's tower of no layers: a vocabulary's embeddings, averaged."""
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 4_000, character_coverage=1.0)
    backbone = multilingual.backbone(tokenizer.vocabulary_size(), 0, width)
    return keras_lit.TextTower(backbone, tokenizer, sequence_length, pooling="mean")


def small_towers(image_size: int) -> tuple[keras_lit.ImageTower, keras_lit.TextTower]:
    """Pretrained, and small enough that two cores train both."""
    image_tower = keras_lit.demo.efficientnet_lite0(image_size, resize="pad", antialias=True)
    return image_tower, lower_half_of_minilm()


def locked(args: argparse.Namespace) -> tuple[keras_lit.ImageTower, Stamps]:
    """EfficientNet-Lite0's features of the stamps, and a tower that takes them."""
    tower = keras_lit.demo.efficientnet_lite0(args.image_size, resize="pad", antialias=True)
    data = Stamps(args, tower, pixels=False)
    return keras_lit.ImageTower.from_features(tower.feature_dim), data


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Pictures of several parts as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_of(part: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some pictures of a part."""
    return {
        name: [of[row] for row in rows] if isinstance(of, list) else of[rows]
        for name, of in part.items()
    }


def batches(
    part: dict[str, Any],
    rows: np.ndarray,
    text_tower: keras_lit.TextTower,
    locked: bool,
    batch_size: int,
    seed: int,
    tags: float = 0.5,
) -> tf.data.Dataset:
    """Endless shuffled batches of these rows.

    A stamp's folder says in a word or two what it is, as the tags of YFCC100M do; a share `tags`
    of the captions has it appended, anew each time. (Captions alone hardly ever name a folder, so
    that a text tower from scratch could not know the classes' names.)
    """
    key, images = inputs(part, locked)
    texts = [text_tower.preprocessor(part[name][rows]).numpy() for name in ("text", "tagged")]

    def pair(row: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        return {key: chosen[row], "text": tf.where(draw < tags, captions[1][row], captions[0][row])}

    chosen, captions = tf.constant(images[rows]), [tf.constant(text) for text in texts]
    order = tf.data.Dataset.range(len(rows)).shuffle(len(rows), seed=seed).repeat()
    draws = tf.data.Dataset.random(seed).map(lambda x: tf.cast(x, tf.float32) / 2**32)
    pairs = tf.data.Dataset.zip(order, draws).map(pair)
    return pairs.batch(min(batch_size, len(rows)), drop_remainder=True)


def measure(model: keras_lit.LiT, test: dict[str, Any], locked: bool) -> dict[str, float]:
    """The three numbers of the paper's Figure 3 on the test stamps, in percent."""
    images, texts = model.encode_image(inputs(test, locked)[1]), model.encode_text(test["text"])
    recalls = scores.recalls(images, texts, test["text"])
    shot = scores.zero_shot(model, {**test, "features": inputs(test, locked)[1]})
    return {
        "zero_shot": 100 * shot["accuracy@1"],
        **{
            way: 100 * float(np.mean([recalls[f"{way}_recall@{k}"] for k in scores.KS]))
            for way in ("image_to_text", "text_to_image")
        },
        "mean_recall": 100 * scores.mean_recall(recalls),
    }


def loss(model: keras_lit.LiT, images: np.ndarray, texts: np.ndarray, batch: int = 64) -> float:
    """The mean contrastive loss over batches of one size, as each has its own negatives."""
    order = np.random.default_rng(0).permutation(len(images))
    starts = range(0, max(1, len(order) - batch + 1), batch)
    losses = [
        keras_lit.losses.softmax_contrastive_loss(
            tf.constant(images[rows]), tf.constant(texts[rows]), model.log_temperature
        )
        for rows in (order[start : start + batch] for start in starts)
    ]
    return float(np.mean(losses))


def steps(pairs: int, args: argparse.Namespace) -> int:
    """Of a whole training: a multiple of `rounds`."""
    batch_size = min(args.batch_size, pairs)
    return args.rounds * max(1, round(pairs * args.epochs / (batch_size * args.rounds)))


def tune(
    data: Stamps,
    image_tower: keras_lit.ImageTower,
    text_tower: keras_lit.TextTower,
    tuning: str,
    seed: int,
    learning_rate: float,
    args: argparse.Namespace,
    measure_model: Callable[[keras_lit.LiT], dict[str, float]] | None = None,
    image_head: int | None = None,
    optimizer: dict[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, float]]:
    """Trains a LiT of copies of these towers and measures it as it goes.

    Args:
        data: with features, for a locked image tower.
        image_tower: it keeps its weights.
        text_tower: it keeps its weights.
        tuning: two letters.
        seed: of the rows that train and of their order.
        learning_rate: at the end of a warmup of a tenth of the steps; a cosine to 0 follows.
        args: `epochs`, `batch_size`, `rounds` (how often to measure), `tags`.
        measure_model: (model) -> numbers; by default those of Figure 3 on "test".
        image_head: the width of a linear head on the image tower.
        optimizer: of `keras_lit.optimizers.Adam`, over what stands here.
        **options: of `LiT`.

    Returns:
        The curve, a point at the start and after each round.
    """
    training, _ = data.parts(seed)
    is_locked = tuning[0] == "L"
    kept = [tower.backbone.get_weights() for tower in (image_tower, text_tower)]
    model = keras_lit.LiT(
        keras_lit.ImageTower(
            image_tower.backbone, image_tower.pooling, image_head, image_tower.preprocessor
        ),
        keras_lit.TextTower(
            text_tower.backbone,
            pooling=text_tower.pooling,
            preprocessor=text_tower.preprocessor,
        ),
        tuning,
        **options,
    )
    # In so few steps the averages of a batch norm get nowhere: those of a pretrained one would end
    # between two styles of pictures, those of a new one near its initial values.
    for layer in model.image_tower.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable, layer.momentum = tuning[0] == "u", 0.8
    batch_size = min(args.batch_size, len(training))
    total = steps(len(training), args)
    schedule = keras_lit.optimizers.WarmupSchedule(learning_rate, total, total // 10)
    settings = {"learning_rate": schedule, "weight_decay": 0.1, "global_clipnorm": 1.0}
    optimizer = keras_lit.optimizers.Adam(**{**settings, **(optimizer or {})})
    model.compile(optimizer, jit_compile=False)
    if measure_model is None:
        measure_model = functools.partial(measure, test=data.test, locked=is_locked)
    measurements = Measurements(measure_model, total // args.rounds * batch_size)
    model.fit(
        batches(data.train, training, text_tower, is_locked, batch_size, seed, args.tags),
        epochs=args.rounds,
        steps_per_epoch=total // args.rounds,
        callbacks=[measurements],
        verbose=0,
    )
    for tower, weights in zip((image_tower, text_tower), kept, strict=True):
        tower.backbone.set_weights(weights)
    return measurements.curve


def best_rate(
    data: Stamps,
    image_tower: keras_lit.ImageTower,
    make_text_tower: Callable[[np.ndarray], keras_lit.TextTower],
    seed: int,
    learning_rates: Iterable[float],
    args: argparse.Namespace,
    **options: Any,
) -> list[dict[str, float]]:
    """`tune`s a new text tower for a locked image tower with each of the learning rates.

    Args:
        data: with features.
        image_tower: of `tune`, as are `seed` and `args`.
        make_text_tower: (captions that are trained on) -> a new text tower.
        seed: of the parts too.
        learning_rates: to compare.
        args: see `tune`.
        **options: of `tune`.

    Returns:
        The curve of the learning rate that retrieves best on the validation part.
    """
    training, held_out = data.parts(seed)
    validation = rows_of(data.train, held_out)

    def measure_both(model: keras_lit.LiT) -> dict[str, float]:
        recall = measure(model, validation, True)["mean_recall"]
        return {**measure(model, data.test, True), "validation": recall}

    curves = []
    for rate in learning_rates:
        text_tower = make_text_tower(data.train["tagged"][training])
        curve = tune(data, image_tower, text_tower, "LU", seed, rate, args, measure_both, **options)
        curves.append([{**point, "learning_rate": rate} for point in curve])
    return max(curves, key=lambda curve: curve[-1]["validation"])


class Measurements(keras.callbacks.Callback):
    """A point of the curve after every round of `fit`, the start included.

    Args:
        measure: (model) -> numbers by name.
        pairs: how many pairs a round trains on.
    """

    def __init__(self, measure: Any, pairs: int):
        super().__init__()
        self.measure, self.pairs, self.curve = measure, pairs, []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures once; the loss of the round goes along."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.curve.append({"pairs": (epoch + 1) * self.pairs, **logs, **self.measure(self.model)})


def ranked(values: dict[str, tuple[float, float]], better: list[str], worse: list[str]) -> str:
    """Says whether every variant of `better` is above every one of `worse` by more than the spread.

    The spread is the standard deviation over seeds, of the two together.
    """
    lines = []
    for a in better:
        for b in worse:
            gap, spread = values[a][0] - values[b][0], np.hypot(values[a][1], values[b][1])
            verdict = "above" if gap > spread else "below" if -gap > spread else "like"
            lines.append(f"{a} is {verdict} {b}: {gap:+.1f} (spread {spread:.1f})")
    return "\n".join(lines)

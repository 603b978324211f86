"""The best model of few pairs: heads in closed form and `fit` after them, beside other ways.

    python examples/studies/few_pairs.py

OpenPictures' first n pictures train (another seed begins elsewhere in their order), its validation
split chooses epochs and settings, and recall is measured on its test split, whose concepts are in
neither. Half of the captions have keywords appended. The image tower, EfficientNet-Lite0, is
locked and was run once; so was MiniLM for the methods that lock it too.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import runner
import scores
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit

TOKENS = 10
SIZES = (100, 300, 1000, 3000, 0)  # 0: all
SPLITS = ("train", "validation", "test")
# Learning rate and epochs by size, the best of validation for seed 0.
LIT = {100: (2e-4, 20), 300: (2e-4, 16), 1000: (4e-4, 10), 3000: (4e-4, 6), 0: (4e-4, 6)}
PLAIN = {100: (1e-3, 20), 300: (1e-3, 20), 1000: (1e-3, 16), 3000: (1e-3, 10), 0: (1e-3, 10)}
MLP = {100: (1e-3, 40), 300: (1e-3, 40), 1000: (1e-3, 40), 3000: (1e-3, 30), 0: (1e-3, 30)}

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
    whole = keras.Model(
        tower.backbone.input,
        [tower.backbone.get_layer("transformer_layer_2").output, tower.backbone.output["sequence_output"]],
    )
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
        "text_features": np.concatenate(last).reshape(*shape[:2], -1),
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


def load(args: argparse.Namespace) -> tuple[dict[str, Part], np.ndarray]:
    """The splits, "token_ids" of their captions, and the table of states that these are rows of."""
    directory = str(pathlib.Path(args.data_dir).expanduser())
    parts, tables = {}, [np.zeros([1, 384], "float16")]  # Row 0 is padding.
    for split in SPLITS:
        path = args.output / f"open_pictures_{split}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with keras_lit.files.whole(path) as working, open(working, "wb") as file:
                np.savez(file, **read(directory, split))
        part = dict(np.load(path))
        real, states = part.pop("real"), part.pop("states")
        rows = sum(map(len, tables)) + np.arange(real.sum())
        part["token_ids"] = np.zeros(real.shape, "int32")
        part["token_ids"][real] = rows
        tables.append(states[real])
        parts[split] = {name: x.astype("float32") if x.dtype == float else x for name, x in part.items()}
    return parts, np.concatenate(tables).astype("float32")


def features_only(part: Part, head: Any = "linear") -> keras_lit.LiT:
    """A LiT of both towers' features."""
    towers = [
        keras_lit.ImageTower.from_features(part["features"].shape[-1]),
        keras_lit.TextTower.from_features(part["text_features"].shape[-1], head=head),
    ]
    return keras_lit.LiT(*towers, "LL")


def closed_form(part: Part, method: str) -> keras_lit.LiT:
    """Heads by `LiT.align`."""
    model = features_only(part)
    pairs = {
        "image_features": np.repeat(part["features"], 2, axis=0),
        "text_features": np.concatenate(part["text_features"]),
        "group": np.repeat(part["group"], 2),
    }
    found = model.align(pairs, method, batch_size=512, verbose=0)
    print(found)
    return model


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
        self.part, self.history = part, []

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
    validation: Part,
    rate: float,
    epochs: int,
    seed: int,
    batch_size: int = 256,
) -> list[float]:
    """Trains on captions with and without keywords; returns the validation recalls."""
    size = len(part["features"])
    locked = model.tuning[1] == "L"
    name = "text_features" if locked else "token_ids"
    given = [tf.constant(part[x]) for x in ("features", name, "group")]
    batch_size = min(batch_size, size)

    def pairs(rows: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        images, texts, groups = (tf.gather(x, rows) for x in given)
        texts = tf.gather(texts, tf.cast(draws, tf.int32), batch_dims=1)
        return {
            "image_features": images,
            "text_features" if locked else "text": texts,
            "group": groups,
        }

    order = tf.data.Dataset.range(size).shuffle(size, seed).repeat()
    draws = tf.data.Dataset.random(seed).map(lambda x: x % 2)
    batches = tf.data.Dataset.zip(order, draws).batch(batch_size, drop_remainder=True).map(pairs)
    steps = max(1, size // batch_size)
    schedule = keras_lit.optimizers.WarmupSchedule(rate, epochs * steps, epochs * steps // 10)
    optimizer = keras_lit.optimizers.Adam(schedule, weight_decay=0.1, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=False)
    best = Best(validation)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, callbacks=[best], verbose=0)
    return best.history


def align_fit(part: Part, validation: Part, settings: tuple, seed: int, text: tuple) -> tuple[keras_lit.LiT, list]:
    """`align`, then `fit`."""
    start = closed_form(part, "cca")
    model = keras_lit.LiT(
        keras_lit.ImageTower.from_features(part["features"].shape[-1]), upper_half(*text), "LU"
    )
    for tower, known in ((model.image_tower, start.image_tower), (model.text_tower, start.text_tower)):
        tower.add_head(known.embedding_dim)
        tower.head.set_weights(known.head.get_weights())
    model.log_temperature.assign(start.log_temperature)
    return model, fit(model, part, validation, *settings, seed)


def plain(part: Part, validation: Part, settings: tuple, seed: int, text: tuple) -> tuple[keras_lit.LiT, list]:
    """LU with a random head."""
    model = keras_lit.LiT(
        keras_lit.ImageTower.from_features(part["features"].shape[-1]), upper_half(*text), "LU"
    )
    return model, fit(model, part, validation, *settings, seed)


def sharelock(part: Part, validation: Part, settings: tuple, seed: int, text: tuple, width=1024, depth=3) -> tuple[keras_lit.LiT, list]:
    """ShareLock's MLP on the text side."""
    head = keras_lit.backbones.MLPHead(part["features"].shape[-1], width, depth)
    model = features_only(part, head)
    return model, fit(model, part, validation, *settings, seed)

"""Pictures with captions for the quickstart: OpenPictures in some languages, or any of your own."""

import collections
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit
from keras_lit import features
from keras_lit.preprocessing.formats import FORMATS

OPEN_PICTURES = "open_pictures"
KEYWORDS = 5  # at most, as one caption; of a flag there may be twenty


@dataclasses.dataclass
class Split:
    """A part of the pictures.

    Args:
        name: "train", "validation" or "test".
        pairs: {"image": encoded, "text": [captions], "group", "name"}, not batched.
        captions: of each picture {language: caption}; what is not known to be of one is "caption".
        names: of each picture its name, in the folder of its category if it has one.
        features: batches with "image_features", in the same order, once they are there.
        text_features: of each caption what the text tower makes of it, once that is there.
    """

    name: str
    pairs: tf.data.Dataset
    captions: list[dict[str, str]]
    names: list[str]
    features: tf.data.Dataset | None = None
    text_features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def read(
    dataset: str, test_split: str, test_fraction: float | None, languages: Sequence[str]
) -> tuple[Split, Split, Split]:
    """To train, to validate, to test; a tenth of what would train validates if no split does."""
    if dataset == OPEN_PICTURES:
        builder = keras_lit.demo.OpenPictures()
        builder.download_and_prepare()
        train, validation, test = (
            _open_pictures(builder, name, languages) for name in ("train", "validation", "test")
        )
        return train, validation, test
    files = pathlib.Path(dataset).exists() or keras_lit.data.shards.shard_files(dataset)
    part = (0.2 if files else 0.0) if test_fraction is None else test_fraction

    def pairs_of(split: str) -> tf.data.Dataset:
        options: Any = {"captions": "first", "test_fraction": part}
        return keras_lit.data.image_text_pairs(dataset, split, **options)

    def validates(pair: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.strings.to_hash_bucket_fast(pair["name"], 10) == 0

    train = pairs_of("train")
    return (
        _own("train", train.filter(lambda pair: not validates(pair)), dataset),
        _own("validation", train.filter(validates), dataset),
        _own("test", pairs_of(test_split), dataset),
    )


def read_features(split: Split, cache: pathlib.Path) -> None:
    """Of both towers, as `precompute` wrote them."""
    split.features = features.load(cache, split.name, captions="first").batch(256)
    captions = features.load(cache, split.name, captions="all")
    texts = captions.map(lambda pair: (pair["text"], pair["text_features"])).as_numpy_iterator()
    split.text_features = {text.decode(errors="replace"): row for text, row in texts}


def write(split: Split, folder: pathlib.Path, count: int = 1000) -> pathlib.Path:
    """The first pictures as files, named by their first captions; returns their folder, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pairs = zip(split.pairs.take(count).as_numpy_iterator(), split.captions, strict=False)
    times: collections.Counter[str] = collections.Counter()
    for pair, captions in pairs:
        content = pair["image"]
        name = (
            " ".join(re.sub(r"[^\w'-]", " ", next(iter(captions.values()), "")).split())[:60]
            or "picture"
        )
        times[name] += 1
        name += f" ({times[name]})" if times[name] > 1 else ""
        suffix = next((x.suffixes[0] for x in FORMATS if content.startswith(x.magic)), ".jpg")
        (folder / f"{name}{suffix}").write_bytes(content)
    return folder


def _open_pictures(
    builder: tfds.core.DatasetBuilder, split: str, languages: Sequence[str]
) -> Split:
    undecoded = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=undecoded)
    categories = builder.info.features["category"].names
    captions, names = [], []
    for example in examples.as_numpy_iterator():
        texts = example["translations"]
        of_all = zip(texts["language"], texts["text"], strict=True)
        captions.append({x.decode(): y.decode() for x, y in of_all if x.decode() in languages})
        names.append(f"{categories[example['category']]}/{example['name'].decode()}")
    return Split(split, examples.map(lambda example: pair_of(example, languages)), captions, names)


def pair_of(example: dict[str, Any], languages: Sequence[str]) -> dict[str, tf.Tensor]:
    """The captions in each of the languages that there are, and the keywords as one more."""
    known = tf.reduce_any(example["translations"]["language"][:, None] == languages, axis=1)
    texts = tf.boolean_mask(example["translations"]["text"], known)
    keywords = tf.strings.reduce_join(example["keywords"][:KEYWORDS], separator=", ")
    texts = tf.unique(tf.concat([texts, [keywords]], axis=0))[0]
    return {
        "image": example["image"],
        "text": tf.boolean_mask(texts, texts != ""),
        "group": example["concept"],
        "name": example["name"],
    }


def _own(name: str, pairs: tf.data.Dataset, source: str) -> Split:
    """One caption for each picture; equal ones are one group."""
    captions, names = [], []
    for pair in pairs.map(lambda pair: (pair["text"], pair["name"])).as_numpy_iterator():
        text, path = (x.decode(errors="replace") for x in pair)
        captions.append({"caption": text})
        names.append(path.removeprefix(f"{source.rstrip('/')}/"))
    if not captions:
        raise SystemExit(
            f'There are no pictures for the split "{name}": give more of them, or other values of '
            "--test-split and --test-fraction."
        )
    grouped = pairs.map(lambda pair: {**pair, "text": pair["text"][None], "group": pair["text"]})
    return Split(name, grouped, captions, names)

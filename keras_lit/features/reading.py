"""Reads a feature cache as a stream of pairs, and checks its files."""

import os
import pathlib
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_lit import checks, files
from keras_lit.features import manifests, tfrecords
from keras_lit.towers import ImageTower, TextTower, fingerprints
from keras_lit.towers.heads import Head
from keras_lit.training import pairs

SHUFFLE_BUFFER = 10_000
ROWS_AT_A_TIME = 64
FILES_AT_A_TIME = 8


def load(
    directory: str | os.PathLike,
    split: str = "train",
    shuffle: bool | int = False,
    seed: int | None = None,
    captions: Literal["random", "first", "all"] = "random",
    view: Literal["random"] | int = "random",
    text_preprocessor: keras.layers.Layer | None = None,
) -> tf.data.Dataset:
    """Reads pairs that `precompute` wrote, with constant memory.

    Args:
        directory: where they are.
        split: str.
        shuffle: bool or int: whether to shuffle in each epoch: the files and, within a buffer of
            that many pairs (10,000 for True), the pairs.
        seed: int, of the shuffle and of random captions and views; drawn when None.
        captions: where a pair has several: "random" (one, drawn in each epoch), "first" or "all" (a
            pair for each).
        view: where an image has several: "random" (one, drawn in each epoch) or its number.
        text_preprocessor: the `TextPreprocessor` that `precompute` was given: "text" then is the
            stored token ids, so that an epoch does no tokenisation.

    Returns:
        An unbatched tf.data.Dataset of {"image_features": [dim] (of tokens [tokens, dim]), "text",
        ...} with the other stored fields, and "fingerprint", by which `LiT.fit` refuses features of
        another tower. Where a `text_tower` was there, also "text_features": [dim], of the caption
        that is "text", and "text_fingerprint".

    Raises:
        FileNotFoundError: no such split, or an unfinished one; a file is missing.
        ValueError: token ids of another preprocessor, or none; no such view.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> directory = tempfile.mkdtemp()
    >>> _ = keras_lit.features.precompute(tower, pairs, directory, 4, 2, verbose=False)
    >>> cached = keras_lit.features.load(directory, shuffle=True, seed=0)
    >>> next(iter(cached.batch(6)))["image_features"].shape
    TensorShape([6, 8])
    """
    checks.check_one_of(captions, ("random", "first", "all"), "captions")
    found = manifests.read(directory, split)
    plan = found["plan"]
    if view != "random":
        checks.check_one_of(view, range(plan["views"]), "view")
    elif plan["views"] == 1:
        view = 0
    if text_preprocessor is not None:
        _check_tokens(plan, text_preprocessor)
    paths = []
    for shard in found["shards"]:
        path = pathlib.Path(directory) / shard["file"]
        if not path.exists() or path.stat().st_size != shard["bytes"]:
            raise FileNotFoundError(
                f"{str(path)!r} is missing or has been cut off: {shard['bytes']} bytes expected. "
                "`keras_lit.features.verify` lists all such files."
            )
        paths.append(str(path))
    seed = pairs.draw_seed() if seed is None else seed
    buffer = SHUFFLE_BUFFER if shuffle is True else int(shuffle)
    several = captions if plan["fields"].get("text", {}).get("shape") == [None] else None
    parse = _parser(plan, several, view, text_preprocessor is not None)
    # Rows are parsed many at a time, which is several times as fast.
    rows = _serialized(paths, buffer, seed).batch(ROWS_AT_A_TIME)
    if "random" in (several, view):
        seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        rows = tf.data.Dataset.zip(rows, seeds.batch(2, drop_remainder=True))
    parsed = rows.map(parse, tf.data.AUTOTUNE, deterministic=True).unbatch()
    if several == "all":
        # The captions of an image lie side by side until now.
        return parsed.shuffle(buffer, seed + 2) if buffer else parsed
    return parsed.apply(tf.data.experimental.assert_cardinality(found["pairs"]))


def image_tower(
    directory: str | os.PathLike,
    split: str = "train",
    projection_dim: int | None = None,
    head: Head = "linear",
    **options: Any,
) -> ImageTower:
    """Stands for the tower that wrote a cache, which need not be in memory to train.

    Args:
        directory: where the features are.
        split: str.
        projection_dim: int, the width of a head. None or 0: no head.
        head: as for `ImageTower`.
        **options: of `ImageTower`: for features that are tokens `blocks`, `pooling`, `drop_path`.

    Returns:
        `ImageTower.from_features` of their width, which refuses those of another tower;
        `LiT.with_image_tower` puts the real one in its place afterwards.

    Raises:
        ValueError: what is stored enters the last blocks of a tower, which train.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> directory = tempfile.mkdtemp()
    >>> _ = keras_lit.features.precompute(tower, pairs, directory, 4, 2, verbose=False)
    >>> keras_lit.features.image_tower(directory).feature_dim
    8
    """
    plan = manifests.read(directory, split)["plan"]
    if plan.get("last_blocks"):
        raise ValueError(
            f"What is stored in {str(directory)!r} enters the last {plan['last_blocks']} blocks of "
            "an image tower, which train: give `LiT` that tower, with "
            f"`image_options=keras_lit.Lock(last_blocks={plan['last_blocks']})`."
        )
    options |= plan.get("patches", {})
    return ImageTower.from_features(
        plan["dim"], projection_dim, plan["tower"], head=head, **options
    )


def text_tower(
    directory: str | os.PathLike,
    split: str = "train",
    projection_dim: int | None = None,
    head: Head = "linear",
) -> TextTower:
    """Stands for the text tower that wrote a cache, as `image_tower` does for that of images.

    Args:
        directory: where the features are.
        split: str.
        projection_dim: int, as for `TextTower`. None: as wide as the image embedding.
        head: as for `TextTower`.

    Returns:
        `TextTower.from_features` of their width, which refuses those of another tower;
        `LiT.with_text_tower` puts the real one in its place afterwards.

    Raises:
        ValueError: no text features are stored.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 8, 16, 1, 32, 2)
    >>> text_tower = keras_lit.TextTower(backbone, tokenizer, 8)
    >>> directory = tempfile.mkdtemp()
    >>> _ = keras_lit.features.precompute(
    ...     tower, pairs, directory, 4, 2, verbose=False, text_tower=text_tower)
    >>> keras_lit.features.text_tower(directory, projection_dim=8).feature_dim
    16
    """
    text = manifests.read(directory, split)["plan"].get("text")
    if text is None:
        raise ValueError(
            f"No text features are stored in {str(directory)!r}. Run `precompute` with a "
            "`text_tower`."
        )
    return TextTower.from_features(text["dim"], projection_dim, text["tower"], head=head)


def verify(directory: str | os.PathLike, split: str = "train") -> manifests.Record:
    """Reads all files of a split and compares them with the manifest.

    Args:
        directory: where they are.
        split: str.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: no such split, or an unfinished one.
        ValueError: files that are missing or have changed, by name.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> directory = tempfile.mkdtemp()
    >>> _ = keras_lit.features.precompute(tower, pairs, directory, 4, 2, verbose=False)
    >>> keras_lit.features.verify(directory)["pairs"]
    6
    """
    found = manifests.read(directory, split)
    directory = pathlib.Path(directory)
    bad = []
    for shard in found["shards"]:
        path = directory / shard["file"]
        if not path.exists():
            bad.append(f"{shard['file']} is missing")
        elif path.stat().st_size != shard["bytes"]:
            bad.append(f"{shard['file']} has {path.stat().st_size} bytes, not {shard['bytes']}")
        elif files.checksum(path) != shard["sha256"]:
            bad.append(f"{shard['file']} has another checksum")
    if bad:
        name = manifests.manifest_path(directory, split).name
        raise ValueError(
            f"The features in {str(directory)!r} are damaged: {'; '.join(bad)}. Copy these files "
            f"again, or delete them and {name!r} and run `precompute` again."
        )
    return found


def _serialized(files: list[str], buffer: int, seed: int) -> tf.data.Dataset:
    """Serialized rows in order, or shuffled: the files, and then their rows within a buffer."""
    if not buffer:
        return tf.data.TFRecordDataset(files)
    names = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed)
    rows = names.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(len(files), FILES_AT_A_TIME),
        block_length=ROWS_AT_A_TIME,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return rows.shuffle(buffer, seed=seed + 1)


def _parser(plan: manifests.Record, several: str | None, view: str | int, tokens: bool) -> Any:
    """A function from serialized rows [n], and a seed [2] where something is drawn, to pairs."""
    spec = {tfrecords.FEATURES: tf.io.FixedLenFeature([], tf.string)}
    text = plan.get("text")
    if text:
        one = plan["fields"]["text"]["shape"] != [None]
        spec[tfrecords.TEXT_FEATURES] = (
            tf.io.FixedLenFeature([], tf.string) if one else tf.io.RaggedFeature(tf.string)
        )
    if tokens:
        spec[tfrecords.TOKENS] = tf.io.FixedLenFeature([], tf.string)
    for name, field in plan["fields"].items():
        if field["shape"] == [None]:
            spec[name] = tf.io.RaggedFeature(tf.string)
        elif field["dtype"] == "float64":
            spec[name] = tf.io.FixedLenFeature([], tf.string)
        else:
            dtype = tf.as_dtype(field["dtype"])
            stored = dtype if dtype == tf.string else tf.float32 if dtype.is_floating else tf.int64
            spec[name] = tf.io.FixedLenFeature(field["shape"], stored)
    identity, shape = fingerprints.identity(plan["tower"]), manifests.feature_shape(plan)
    text_columns = ["text", *([tfrecords.TEXT_FEATURES] if text else [])]

    def parse(rows: tf.Tensor, seed: Any = None) -> dict[str, tf.Tensor]:
        pairs = tf.io.parse_example(rows, spec)
        features = tf.io.decode_raw(pairs.pop(tfrecords.FEATURES), tf.as_dtype(plan["dtype"]))
        features = tf.reshape(features, [-1, plan["views"], *shape])
        if view == "random":
            drawn = _draw(seed, tf.fill(tf.shape(rows), plan["views"]))
            features = tf.gather(features, drawn, batch_dims=1)
        else:
            features = features[:, view]
        for name, field in plan["fields"].items():
            if field["dtype"] == "float64":
                values = tf.io.decode_raw(pairs[name], tf.float64)
                pairs[name] = tf.reshape(values, [-1, *field["shape"]])
            pairs[name] = tf.cast(pairs[name], field["dtype"])
        if several in ("first", "random"):
            counts = tf.cast(pairs["text"].row_lengths(), tf.int32)
            drawn = _draw(seed + 1, counts) if several == "random" else tf.zeros_like(counts)
            for name in text_columns:
                pairs[name] = tf.gather(pairs[name], drawn, batch_dims=1)
        elif several == "all":
            owners = pairs["text"].value_rowids()
            features = tf.gather(features, owners)
            texts = {name: pairs.pop(name).flat_values for name in text_columns}
            pairs = {name: tf.gather(x, owners) for name, x in pairs.items()} | texts
        if text:
            of_text = tf.io.decode_raw(pairs[tfrecords.TEXT_FEATURES], tf.as_dtype(plan["dtype"]))
            pairs[tfrecords.TEXT_FEATURES] = tf.reshape(of_text, [-1, text["dim"]])
        if tokens:
            ids = tf.io.decode_raw(pairs.pop(tfrecords.TOKENS), tf.int32)
            pairs["text"] = tf.reshape(ids, [-1, plan["tokens"]["length"]])
        count = tf.shape(features)[:1]
        pairs["fingerprint"] = tf.fill(count, tf.constant(identity, tf.int64))
        if text:
            of_tower = fingerprints.identity(text["tower"])
            pairs["text_fingerprint"] = tf.fill(count, tf.constant(of_tower, tf.int64))
        return {tfrecords.FEATURES: features, **pairs}

    return parse


def _draw(seed: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
    """[n] integers, each at random below its limit."""
    uniform = tf.random.stateless_uniform(tf.shape(limits), seed)
    return tf.minimum(tf.cast(uniform * tf.cast(limits, tf.float32), tf.int32), limits - 1)


def _check_tokens(plan: manifests.Record, text_preprocessor: keras.layers.Layer) -> None:
    if plan["tokens"] is None:
        raise ValueError(
            "No token ids are stored here. Run `precompute` with `text_preprocessor`, or leave it "
            "out to read the text."
        )
    if plan["tokens"]["preprocessor"] != fingerprints.of_preprocessor(text_preprocessor):
        raise ValueError(
            "The token ids stored here are of another tokenizer or another choice of its options. "
            "Leave `text_preprocessor` out to read the text, or pass the one that `precompute` had."
        )

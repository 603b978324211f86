"""From raw pairs to rows of features: decoding, views, the locked towers on their replicas."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import distribution, internals
from keras_lit.features import tfrecords
from keras_lit.preprocessing.image import first_that_works, why_not
from keras_lit.towers import ImageTower, TextTower, Tower, lengths
from keras_lit.towers.lower import Lower
from keras_lit.training import pairs

Batch = dict[str, Any]
ANOTHER_NUMBER = (
    "The dataset should hold {} pairs, as when this began. It holds {}. Pass the same pairs, or "
    "write to another directory."
)


def prepare(
    dataset: tf.data.Dataset,
    tower: ImageTower,
    plan: dict[str, Any],
    start: int,
    skip: int | None = None,
) -> tf.data.Dataset:
    """Decodes and preprocesses raw pairs in parallel, from number `start` on, in order.

    `skip` is how many pairs of the dataset come before that one, if not `start`.

    Returns batches of {"pixels": [batch, views, height, width, 3], "good": [batch] bool, "raw": the
    image where it is not good, "hash" and "previous_hash": of the pair and of the one before it,
    "fields": the others (lists of strings are ragged)}.
    """
    size = (plan["views"], *tower.preprocessor.image_size, 3)

    def with_hashes(previous: tf.Tensor, pair: Batch) -> tuple[tf.Tensor, Batch]:
        current = hash_of(pair)
        return current, {"pair": pair, "hash": current, "previous_hash": previous}

    def one(index: tf.Tensor, row: Batch) -> Batch:
        pair = row.pop("pair")
        image = pair["image"]
        views = tf.range(plan["views"], dtype=tf.int64) + index * plan["views"]
        seeds = tf.stack([tf.fill([plan["views"]], tf.cast(plan["seed"], tf.int64)), views], 1)

        def preprocessed(image: tf.Tensor) -> tf.Tensor:
            if image.dtype.is_floating:
                pixels = image[tf.newaxis]
            elif plan["views"] == 1:
                pixels = tower.preprocessor(image)[tf.newaxis]
            else:
                rows = tf.repeat(image[tf.newaxis], plan["views"], axis=0)
                pixels = tower.preprocessor(rows, training=True, seed=seeds)
            return tf.ensure_shape(pixels, size)

        pixels, good = first_that_works(
            image, lambda image: (preprocessed(image), True), lambda _: (tf.zeros(size), False)
        )
        raw = tf.where(good, "", image) if image.dtype == tf.string else tf.constant("")
        fields = {name: x for name, x in pair.items() if name in plan["fields"]}
        return {**row, "pixels": pixels, "good": good, "raw": raw, "fields": fields}

    skip = start if skip is None else skip
    before = min(skip, 1)
    return (
        dataset.skip(skip - before)
        .scan(tf.constant(0, tf.int64), with_hashes)
        .skip(before)
        .enumerate(start)
        .map(one, tf.data.AUTOTUNE, deterministic=True)
        .ragged_batch(plan["batch_size"])
        .prefetch(2)
    )


def hash_of(pair: Batch) -> tf.Tensor:
    """A hash of a raw pair: a scalar int64."""
    parts = [tf.io.serialize_tensor(value) for _, value in sorted(pair.items())]
    return tf.strings.to_hash_bucket_fast(tf.strings.join(parts, "\0"), 2**62)


def encoder(
    tower: Tower, batch_size: int, last_blocks: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from what a tower takes, [n, ...], n at most `batch_size`, to float32 features.

    With `last_blocks` they are what enters these. Smaller batches are filled up, so that a pair's
    features do not depend on how many follow it.
    """
    replicas = distribution.replica_count()
    if distribution.has_workers():
        raise ValueError(
            "`precompute` uses the replicas of one process. Run one job a worker, with "
            "`shard_index` and `num_shards` and without MultiWorkerMirroredStrategy."
        )
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` should be a multiple of the {replicas} replicas. Received: {batch_size}."
        )

    encode = _encode(tower, last_blocks)

    def encode_batch(inputs: np.ndarray) -> np.ndarray:
        missing = batch_size - len(inputs)
        if missing:
            inputs = np.concatenate([inputs, np.repeat(inputs[:1], missing, axis=0)])
        found = distribution.on_replicas(encode, tf.constant(inputs))[: batch_size - missing]
        return found.astype("float32")

    return encode_batch


def _encode(tower: Tower, last_blocks: int | None) -> Callable[[tf.Tensor], tf.Tensor]:
    """The locked tower as a tf.function: its own, traced once for all splits, where that will do.

    Layers that compute in 16 bits cast their weights for every batch; copies spare them that.
    """
    weights = _weights_in_compute_dtype(tower)
    if last_blocks is None and not weights:
        return tower.inference("features")
    features = tower.features if last_blocks is None else Lower(tower, last_blocks).features

    @tf.function(reduce_retracing=True)
    def encode(inputs: tf.Tensor) -> tf.Tensor:
        scope = keras.StatelessScope()
        for weight, cast in weights:
            scope.add_update((weight, tf.convert_to_tensor(cast)))
        with scope:
            return features(inputs)

    return encode


def text_encoder(tower: TextTower, batch_size: int) -> Callable[[tf.Tensor], np.ndarray]:
    """A function from any number of captions, strings or token ids, to float32 [n, feature_dim]."""
    encode = encoder(tower, batch_size)

    def encode_texts(texts: tf.Tensor) -> np.ndarray:
        ids = pairs.ready_text(texts, tower).numpy()
        # Captions of about one length together: less is padding, which costs as much as words.
        order = np.argsort((ids != tower.pad_token_id).sum(axis=1), kind="stable")
        parts = [
            encode(np.asarray(lengths.trimmed(ids[order[i : i + batch_size]], tower)))
            for i in range(0, len(ids), batch_size)
        ]
        return np.concatenate(parts)[np.argsort(order)]

    return encode_texts


def _weights_in_compute_dtype(tower: Tower) -> list[tuple[keras.Variable, tf.Variable]]:
    """Copies of the weights of layers that compute in 16 bits."""
    found = []
    for layer in internals.flat_layers(tower):
        dtype = tf.as_dtype(layer.compute_dtype)
        if layer.autocast and dtype in (tf.bfloat16, tf.float16):
            for weight in internals.own_weights(layer):
                if internals.is_autocast(weight) and weight.dtype == "float32":
                    copy = tf.Variable(tf.cast(weight.value, dtype), trainable=False)
                    found.append((weight, copy))
    return found


@dataclasses.dataclass
class Rows:
    """Encodes batches and hands out their rows, with notes of what was seen.

    `encode` comes from `encoder`; `skip` leaves out images that do not decode, which are errors
    otherwise; `encode_texts`, from `text_encoder`, is for text features.
    """

    encode: Callable[[np.ndarray], np.ndarray]
    plan: dict[str, Any]
    tokenize: keras.layers.Layer | None
    skip: bool
    encode_texts: Callable[[tf.Tensor], np.ndarray] | None = None

    def of_shard(
        self, batches: Iterator[Batch], start: int, stop: int, after: int | None, notes: Batch
    ) -> Iterator[tfrecords.Row]:
        """The rows of pairs `start` to `stop`, after the pair whose hash is `after` (if known).

        `notes` receives "skipped", "input_before" (that hash as it was read, 0 where nothing was)
        and "last_input" as the rows are consumed.
        """
        notes["skipped"] = []
        index = start
        while index < stop:
            batch = next(batches, None)
            size = min(self.plan["batch_size"], stop - index)
            if batch is None or len(batch["good"]) != size:
                found = "more" if batch and len(batch["good"]) > size else "fewer"
                raise ValueError(ANOTHER_NUMBER.format(self.plan["pairs"], found))
            if after is not None and int(batch["previous_hash"][0]) != after:
                raise ValueError(
                    f"Pair {index - 1} of the dataset differs from when this began: the order "
                    "or the pairs have changed. Pass the same pairs in the same order (a shuffle "
                    "needs a seed), or write to another directory. Nothing was changed."
                )
            notes.setdefault("input_before", int(batch["previous_hash"][0]))
            yield from self._of_batch(batch, index, notes["skipped"])
            index += size
            after = notes["last_input"] = int(batch["hash"][-1])

    def _of_batch(self, batch: Batch, index: int, skipped: list[Batch]) -> Iterator[tfrecords.Row]:
        views = [self.encode(batch["pixels"][:, v].numpy()) for v in range(self.plan["views"])]
        stacked = views[0] if len(views) == 1 else np.stack(views, axis=1)
        good = batch["good"].numpy()
        features = self._stored(stacked, good, index + np.arange(len(good)), "image")
        fields = {name: values.numpy() for name, values in batch["fields"].items()}
        if self.tokenize is not None:
            fields[tfrecords.TOKENS] = self.tokenize(batch["fields"]["text"]).numpy()
        if self.encode_texts is not None:
            fields[tfrecords.TEXT_FEATURES] = self._of_text(batch["fields"], index)
        for i, decodes in enumerate(good):
            if decodes:
                yield {tfrecords.FEATURES: features[i], **{n: x[i] for n, x in fields.items()}}
                continue
            name = fields["name"][i] if "name" in fields else b""
            bad = {
                "index": index + i,
                "name": _shown(name),
                "reason": _reason(batch["raw"][i]),
            }
            if not self.skip:
                raise ValueError(
                    f"Image {bad['index']} ({bad['name'] or 'without a name'}) does not decode: "
                    f"{bad['reason']}. Remove it, or pass `skip_bad_images=True` to leave such "
                    "pairs out and list them in the manifest. What is finished is kept."
                )
            skipped.append(bad)

    def _of_text(self, fields: Batch, index: int) -> Any:
        """Features of each pair's text: [dim], or of several captions [captions, dim]."""
        several = self.plan["fields"]["text"]["shape"] == [None]
        texts = fields["text"]
        if not several:
            texts = tf.RaggedTensor.from_uniform_row_length(texts, 1)
        elif not isinstance(texts, tf.RaggedTensor):  # As many captions of each image.
            texts = tf.RaggedTensor.from_tensor(texts)
        captions, limits = texts.flat_values, texts.row_limits().numpy()
        owners, counts = texts.value_rowids().numpy(), texts.row_lengths().numpy()
        if captions.dtype == tf.string:
            empty = tf.strings.length(tf.strings.strip(captions)).numpy() == 0
            counts[owners[empty]] = 0
        if not counts.all():
            row = int(np.flatnonzero(counts == 0)[0])
            name = fields["name"][row].numpy() if "name" in fields else "without a name"
            raise ValueError(
                f"Pair {index + row} ({_shown(name)}) has an empty caption or none, which has no "
                "features. Filter such pairs out. What is finished is kept."
            )
        assert self.encode_texts is not None
        rows = self.encode_texts(captions)
        stored = self._stored(rows, np.ones(len(rows), bool), index + owners, "text of pair")
        return np.split(stored, limits[:-1]) if several else stored

    def _stored(
        self, features: np.ndarray, good: np.ndarray, numbers: np.ndarray, what: str
    ) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = features.astype(self.plan["dtype"])
        bad = good & ~np.isfinite(stored).reshape(len(good), -1).all(axis=1)
        if bad.any():
            row = int(numbers[bad][0])
            raise ValueError(
                f"Features should be finite numbers of {self.plan['dtype']}. Those of {what} {row} "
                f"are not; the largest of its batch is {np.abs(features).max()}. Check the tower's "
                'weights and value range, or store `dtype="float32"`.'
            )
        return stored


def _shown(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _reason(raw: tf.Tensor) -> str:
    """Why an image does not decode."""
    if raw.dtype != tf.string:
        return "it cannot be preprocessed"
    reason = why_not(raw).numpy().decode().rstrip(".")
    return f"{reason} ({len(raw.numpy())} bytes)"


def check_dataset(dataset: Any, tower: ImageTower, views: int) -> None:
    """Raises ValueError unless `dataset` holds unbatched raw pairs that suit the tower."""
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(spec, dict) or "image" not in spec:
        raise ValueError(
            'The dataset should be a tf.data.Dataset of dicts {"image", "text", ...}. Received: '
            f"{spec if spec is not None else type(dataset).__name__}."
        )
    pairs.check_image(spec["image"], tower)
    rank = 0 if spec["image"].dtype == tf.string else 3
    if spec["image"].shape.rank != rank:
        raise ValueError(
            "The dataset should not be batched, since `batch_size` says what is encoded at a time. "
            f"Received images of shape {spec['image'].shape}: call `unbatch()`."
        )
    preprocessor = tower.preprocessor
    random = preprocessor.random_crop is not None or preprocessor.random_flip
    if views > 1 and (spec["image"].dtype.is_floating or not random):
        raise ValueError(
            "Several `views` need raw images, and a tower whose `ImagePreprocessor` has a "
            f"`random_crop` or `random_flip` (or all would be the same). Received: {views}."
        )

"""What an artifact answers: named functions of strings, image bytes and pixels."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.evaluation.calibration import Calibration
from keras_lit.evaluation.zero_shot import zero_shot_weights
from keras_lit.export.searching import searchers
from keras_lit.model import LiT
from keras_lit.preprocessing.decoding import MAX_PIXELS
from keras_lit.preprocessing.image import first_bytes
from keras_lit.search import Index
from keras_lit.towers import Tower
from keras_lit.towers.encoding import unit_length
from keras_lit.towers.lengths import trimmed

Tensors = dict[str, tf.Tensor]
Encoder = Callable[[tf.Tensor], Tensors]
Scores = Callable[[tf.Tensor, Tensors], tf.Tensor]
IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")
PIXELS = tf.TensorSpec([None, None, None, None], tf.uint8, name="pixels")
TEXT = tf.TensorSpec([None], tf.string, name="text")
# [n, m], a row for each image; [1, m] or a list [m] for all of them.
ROWS_OF_TEXT = tf.TensorSpec(None, tf.string, name="text")
LABELS = tf.TensorSpec(None, tf.string, name="labels")
# What a row holds whose image does not decode.
FILLS = {"nan": float("nan"), "zero": 0.0}


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function and the names, dtypes and shapes of what it takes."""

    function: Callable[..., Tensors]
    inputs: tuple[tf.TensorSpec, ...]


class _Weights:
    """The variables that an artifact has beside (or in place of) the towers' weights.

    "float16" and "bfloat16" make copies in 16 bits, "int8" in 8 with a scale for each output
    channel, which the graph makes float32 again when it reads them, by stock operations. Vectors
    (biases, scales, statistics) are few and sensitive, and stay as they are.
    """

    def __init__(self, towers: list[Tower], dtype: str):
        checks.check_one_of(dtype, ("float32", "float16", "bfloat16", "int8"), "weights")
        self._kept: list[tf.Variable] = []  # Graphs hold their variables weakly.
        self._copies: dict[int, tf.Variable] = {}
        self._scales: dict[int, tf.Variable] = {}
        for variable in (v for tower in towers for v in tower.weights if dtype != "float32"):
            as_it_is = len(variable.shape) < 2 or variable.dtype != "float32"
            values = variable.numpy()
            if dtype == "float16" and not as_it_is and np.abs(values).max() > 65504:
                raise ValueError(
                    f"{variable.path} reaches {np.abs(values).max():.3g}, more than float16 holds "
                    '(65504). Use `weights="bfloat16"`.'
                )
            if dtype == "int8" and not as_it_is:
                # A depthwise kernel [height, width, channels, 1] has its channels before the end.
                channels = (-2, -1) if values.shape[-1] == 1 else (-1,)
                others = tuple(range(values.ndim - len(channels)))
                scale = np.abs(values).max(axis=others, keepdims=True) / 127
                values = np.round(values / np.where(scale, scale, 1))
                self._scales[id(variable)] = self.keep(f"{variable.name}_scale", scale)
            kept = variable.dtype if as_it_is else dtype
            self._copies[id(variable)] = self.keep(variable.name, tf.cast(values, kept))

    def keep(self, name: str, values: Any) -> tf.Variable:
        """A new variable that is saved with the artifact."""
        self._kept.append(tf.Variable(values, trainable=False, name=name))
        return self._kept[-1]

    def of(self, tower: Tower) -> contextlib.AbstractContextManager:
        """Inside, the tower computes with the artifact's weights."""
        if not self._copies:
            return contextlib.nullcontext()
        read = {id(v): tf.cast(self._copies[id(v)], v.dtype) for v in tower.weights}
        read |= {i: read[i] * scale for i, scale in self._scales.items() if i in read}
        return keras.StatelessScope(state_mapping=[(v, read[id(v)]) for v in tower.weights])


def make_signatures(
    model: LiT,
    towers: str,
    weights: str,
    on_corrupt: str,
    class_names: Sequence[str] | None,
    templates: Sequence[str],
    top_k: int,
    index: Index | None,
    calibration: Calibration | None,
    dim: int | None = None,
) -> dict[str, Signature]:
    """The signatures of an artifact by name, for the arguments of `keras_lit.export.save`."""
    both = {"image": model.image_tower, "text": model.text_tower}
    kept = _Weights([tower for name, tower in both.items() if towers in ("both", name)], weights)
    scores_of = _probabilities(model, kept, FILLS.get(on_corrupt))
    signatures = {}
    if towers != "text":
        encode_image, encode_pixels = _image_encoders(model, kept, on_corrupt, dim)
        signatures["encode_image"] = Signature(encode_image, (IMAGE_BYTES,))
        signatures["encode_pixels"] = Signature(encode_pixels, (PIXELS,))
    if towers != "image":

        @tf.function(input_signature=[TEXT], autograph=False)
        def encode_text(text: tf.Tensor) -> Tensors:
            # Equal texts are encoded once: no rounding ranks one of them before the other.
            distinct, places = tf.unique(text)
            token_ids = trimmed(model.text_tower.preprocessor(distinct), model.text_tower)
            embeddings = _embed(model.text_tower, kept, token_ids, dim)
            return {"embedding": tf.gather(embeddings, places)}

        signatures["encode_text"] = Signature(encode_text, (TEXT,))
    if towers == "both":
        similarity, classify_labels = _comparers(scores_of, encode_image, encode_text, templates)
        signatures["similarity"] = Signature(similarity, (IMAGE_BYTES, ROWS_OF_TEXT))
        signatures["classify_labels"] = Signature(classify_labels, (IMAGE_BYTES, LABELS))
    if class_names is not None:
        # The classes' embeddings are a variable, so `classify` encodes no text.
        encode = functools.partial(model.encode_text, dim=dim)
        embeddings = zero_shot_weights(encode, class_names, templates)
        kernel = kept.keep("class_weights", embeddings)
        calibrated = None
        if calibration is not None:
            calibrated = _calibrated(calibration, kept, FILLS.get(on_corrupt, 0.0))
        classify = _classifier(scores_of, encode_image, class_names, kernel, top_k, calibrated)
        signatures["classify"] = Signature(classify, (IMAGE_BYTES,))
    if index is not None:
        encoders: dict[str, Encoder] = {}
        if towers != "image":
            encoders["text"] = encode_text
        if towers != "text":
            encoders["image"] = encode_image
        fill = FILLS.get(on_corrupt)
        inputs = {"search": (TEXT,), "search_image": (IMAGE_BYTES,)}
        for name, function in searchers(encoders, index, kept.keep, top_k, fill).items():
            signatures[name] = Signature(function, inputs[name])
    default = "encode_image" if towers == "image" else "encode_text"
    return {**signatures, "serving_default": signatures[default]}


def _image_encoders(
    model: LiT, weights: _Weights, on_corrupt: str, dim: int | None
) -> tuple[Encoder, Encoder]:
    """`encode_image` and `encode_pixels`."""
    tower = model.image_tower

    def encode_pixels(pixels: tf.Tensor) -> Tensors:
        shape = tf.shape(pixels)
        fits = tf.reduce_all(shape[1:] > 0) & (shape[3] <= 4)
        expected = "`pixels` should be [n, height, width, 1 to 4 channels]. Received shape:"
        with tf.control_dependencies([tf.debugging.Assert(fits, [expected, shape], 10)]):
            images = tower.preprocessor(tf.identity(pixels))
            return {"embedding": _embed(tower, weights, images, dim)}

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def encode_image(image_bytes: tf.Tensor) -> Tensors:
        images, valid = tower.preprocessor.with_valid(image_bytes)
        if on_corrupt == "fail":
            with tf.control_dependencies([_assert_valid(image_bytes, valid)]):
                return {"embedding": _embed(tower, weights, tf.identity(images), dim)}
        embeddings = _embed(tower, weights, images, dim)
        embeddings = tf.where(valid[:, tf.newaxis], embeddings, FILLS[on_corrupt])
        return {"embedding": embeddings, "valid": valid}

    return encode_image, encode_pixels


def _assert_valid(image_bytes: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Fails with the rows that do not decode, in words for who sent them."""
    expected = (
        "An image does not decode: `image_bytes` should be whole files, JPEG, PNG, GIF, BMP or "
        f"WebP of at most {MAX_PIXELS:,} pixels (in JSON base64, under the key `b64`). Rows:"
    )

    def fail() -> tf.Tensor:
        bad = tf.where(~valid)[:, 0]
        shown = first_bytes(tf.gather(image_bytes, bad))
        with tf.control_dependencies(
            [tf.debugging.Assert(False, [expected, bad, "first bytes:", shown], 10)]
        ):
            return tf.constant(False)

    return tf.cond(tf.reduce_all(valid), lambda: tf.constant(True), fail)


def _embed(tower: Tower, weights: _Weights, inputs: tf.Tensor, dim: int | None) -> tf.Tensor:
    """[n, ...] -> [n, dim] of unit length. Some layers refuse no rows, so they see a blank one."""
    count = tf.shape(inputs)[0]
    paddings = [[0, tf.cast(count == 0, tf.int32)], *[[0, 0]] * (inputs.shape.rank - 1)]
    inputs = tf.ensure_shape(tf.pad(inputs, paddings), [None, *inputs.shape[1:]])
    with weights.of(tower):
        return unit_length(tower(inputs), dim)[:count]


def _classifier(
    scores_of: Scores,
    encode_image: Encoder,
    class_names: Sequence[str],
    kernel: tf.Variable,
    top_k: int,
    calibrated: Callable[..., Tensors] | None,
) -> Encoder:
    """`classify`, where `kernel` [classes, dim] holds the classes' embeddings."""
    names = tf.constant(list(class_names))

    def classify(image_bytes: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        cosines = tf.matmul(images["embedding"], kernel, transpose_b=True)
        scores = scores_of(cosines, images)
        _, indices = tf.math.top_k(scores, min(top_k, len(class_names)))
        best = tf.gather(names, indices)
        promised = calibrated(cosines, indices, images) if calibrated else {}
        if "valid" in images:
            valid = images["valid"][:, tf.newaxis]
            indices, best = tf.where(valid, indices, -1), tf.where(valid, best, "")
        return {
            "scores": scores,
            "classes": tf.tile(names[tf.newaxis], [tf.shape(scores)[0], 1]),
            "top_indices": indices,
            "top_classes": best,
            **promised,
            **_valid_of(images),
        }

    return classify


def _calibrated(calibration: Calibration, weights: _Weights, fill: float) -> Callable[..., Tensors]:
    """`probability` and `accepted` of the top classes, as `Calibration` has them."""
    temperature = weights.keep("calibration_temperature", calibration.temperature)

    def promised(cosines: tf.Tensor, top: tf.Tensor, images: Tensors) -> Tensors:
        logits = temperature * cosines + calibration.bias
        if calibration.multi_label:
            probabilities = tf.sigmoid(logits)
        else:
            none = -np.inf if calibration.none_logit is None else calibration.none_logit
            every = tf.nn.softmax(tf.pad(logits, [[0, 0], [0, 1]], constant_values=none))
            probabilities, of_none = every[:, :-1], every[:, -1]
        valid = images.get("valid", tf.ones(tf.shape(cosines)[0], tf.bool))[:, tf.newaxis]
        best = tf.gather(probabilities, top, batch_dims=1)
        found = {"probability": tf.where(valid, best, fill)}
        if calibration.threshold is not None:
            accepted = valid & (best >= calibration.threshold)
            if not calibration.multi_label:
                accepted = accepted[:, 0] & (best[:, 0] >= of_none)
            found["accepted"] = accepted
        return found

    return promised


def _comparers(
    scores_of: Scores, encode_image: Encoder, encode_text: Encoder, templates: Sequence[str]
) -> tuple[Callable[..., Tensors], Callable[..., Tensors]]:
    """`similarity` and `classify_labels`: each of n images against m texts or labels."""
    before, after = zip(*(template.split("{}") for template in templates), strict=True)

    def similarity(image_bytes: tf.Tensor, text: tf.Tensor) -> Tensors:
        rows = _rows(text, image_bytes, "text")
        images = encode_image(image_bytes)
        distinct, places = tf.unique(tf.reshape(rows, [-1]))
        texts = encode_text(distinct)["embedding"]
        return {"similarity": _cosines(images, rows, texts, places), **_valid_of(images)}

    def classify_labels(image_bytes: tf.Tensor, labels: tf.Tensor) -> Tensors:
        rows = _rows(labels, image_bytes, "labels")
        images = encode_image(image_bytes)
        distinct, places = tf.unique(tf.reshape(rows, [-1]))
        starts, ends = (tf.tile(parts, [tf.size(distinct)]) for parts in (before, after))
        prompts = tf.strings.join([starts, tf.repeat(distinct, len(templates)), ends])
        texts = encode_text(prompts)["embedding"]
        by_label = tf.reshape(texts, [-1, len(templates), texts.shape[-1]])
        texts = unit_length(tf.reduce_mean(by_label, axis=1))
        is_label = tf.strings.strip(rows) != ""
        cosines = tf.where(is_label, _cosines(images, rows, texts, places), -np.inf)
        scores = tf.where(is_label, scores_of(cosines, images), 0.0)
        return {"scores": scores, **_valid_of(images)}

    return similarity, classify_labels


def _rows(texts: tf.Tensor, image_bytes: tf.Tensor, name: str) -> tf.Tensor:
    """Strings [n, m], [1, m] or [m] -> [n, m] or [1, m], for n images.

    A server that batches joins requests along the first dimension where all inputs of each are
    equally long there. Joined rows stay with their images. Joined lists would be one list, of the
    labels of all clients, so a list as long as there are images is refused.
    """
    shape, count = tf.shape(texts), tf.shape(image_bytes)[0]
    rows, width = tf.reduce_prod(shape[:-1]), tf.reduce_prod(shape[-1:])
    a_list = (tf.size(shape) == 1) & ((width != count) | (count < 2))
    a_table = (tf.size(shape) == 2) & ((rows == 1) | (rows == count))
    received = [
        f"`{name}` should be [n, m], a row for each of the n images, or [1, m], one for all. A "
        "list [m] can be taken only where m is not n, as a server that batches would mix it with "
        f"those of other requests. Received shapes of `image_bytes` and `{name}`:",
        tf.shape(image_bytes),
        shape,
    ]
    with tf.control_dependencies([tf.debugging.Assert(a_list | a_table, received, 10)]):
        return tf.reshape(texts, [rows, width])


def _cosines(images: Tensors, rows: tf.Tensor, texts: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Of n images and `rows` [n or 1, m], whose texts are `texts[places]` -> [n, m]."""
    cosines = tf.matmul(images["embedding"], texts, transpose_b=True)
    columns = tf.reshape(places, tf.shape(rows))
    columns = tf.broadcast_to(columns, [tf.shape(cosines)[0], tf.shape(rows)[1]])
    return tf.gather(cosines, columns, batch_dims=1)


def _probabilities(model: LiT, weights: _Weights, fill: float | None) -> Scores:
    """Cosines [n, m] to probabilities: over the m with the softmax loss, each with the sigmoid."""
    temperature = weights.keep("temperature", model.temperature)
    bias = None if model.loss_name == "softmax" else weights.keep("bias", model.bias)

    def scores_of(cosines: tf.Tensor, images: Tensors) -> tf.Tensor:
        logits = temperature * cosines
        scores = tf.nn.softmax(logits) if bias is None else tf.sigmoid(logits + bias)
        return scores if fill is None else tf.where(images["valid"][:, tf.newaxis], scores, fill)

    return scores_of


def _valid_of(images: Tensors) -> Tensors:
    """Which images decode, where `on_corrupt` answers the others too."""
    return {name: images[name] for name in ("valid",) if name in images}

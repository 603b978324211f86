"""What an artifact answers: named functions of strings, image bytes and pixels."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.evaluation.zero_shot import zero_shot_weights
from keras_lit.model import LiT
from keras_lit.towers import Tower
from keras_lit.towers.encoding import unit_length

Tensors = dict[str, tf.Tensor]
Encoder = Callable[[tf.Tensor], Tensors]
Scores = Callable[[tf.Tensor], tf.Tensor]
IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")
PIXELS = tf.TensorSpec([None, None, None, None], tf.uint8, name="pixels")
TEXT = tf.TensorSpec([None], tf.string, name="text")
LABELS = tf.TensorSpec([None], tf.string, name="labels")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function and the names, dtypes and shapes of what it takes."""

    function: Callable[..., Tensors]
    inputs: tuple[tf.TensorSpec, ...]


class _Weights:
    """The variables that an artifact has beside (or in place of) the towers' weights.

    "float16" and "bfloat16" make copies in 16 bits, which the graph casts when it reads them.
    Vectors (biases, scales, statistics) are few and sensitive, and stay as they are.
    """

    def __init__(self, towers: list[Tower], dtype: str):
        checks.check_one_of(dtype, ("float32", "float16", "bfloat16"), "weights")
        self._kept: list[tf.Variable] = []  # Graphs hold their variables weakly.
        self._copies: dict[int, tf.Variable] = {}
        for variable in (v for tower in towers for v in tower.weights if dtype != "float32"):
            as_it_is = len(variable.shape) < 2 or variable.dtype != "float32"
            values = variable.numpy()
            if dtype == "float16" and not as_it_is and np.abs(values).max() > 65504:
                raise ValueError(
                    f"{variable.path} reaches {np.abs(values).max():.3g}, more than float16 holds "
                    '(65504). Use `weights="bfloat16"`.'
                )
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
        mapping = [(v, tf.cast(self._copies[id(v)], v.dtype)) for v in tower.weights]
        return keras.StatelessScope(state_mapping=mapping)


def make_signatures(
    model: LiT,
    towers: str,
    weights: str,
    on_corrupt: str,
    class_names: Sequence[str] | None,
    templates: Sequence[str],
    top_k: int,
) -> dict[str, Signature]:
    """The signatures of an artifact by name, for the arguments of `keras_lit.export.save`."""
    both = {"image": model.image_tower, "text": model.text_tower}
    kept = _Weights([tower for name, tower in both.items() if towers in ("both", name)], weights)
    scores_of = _probabilities(model, kept)
    signatures = {}
    if towers != "text":
        encode_image, encode_pixels = _image_encoders(model, kept, on_corrupt)
        signatures["encode_image"] = Signature(encode_image, (IMAGE_BYTES,))
        signatures["encode_pixels"] = Signature(encode_pixels, (PIXELS,))
    if towers != "image":

        @tf.function(input_signature=[TEXT], autograph=False)
        def encode_text(text: tf.Tensor) -> Tensors:
            token_ids = model.text_tower.preprocessor(text)
            with kept.of(model.text_tower):
                return {"embedding": unit_length(model.text_tower(token_ids))}

        signatures["encode_text"] = Signature(encode_text, (TEXT,))
    if towers == "both":
        similarity, classify_labels = _comparers(scores_of, encode_image, encode_text, templates)
        signatures["similarity"] = Signature(similarity, (IMAGE_BYTES, TEXT))
        signatures["classify_labels"] = Signature(classify_labels, (IMAGE_BYTES, LABELS))
    if class_names is not None:
        # The classes' embeddings are a variable, so `classify` encodes no text.
        embeddings = zero_shot_weights(model.encode_text, class_names, templates)
        kernel = kept.keep("class_weights", embeddings)
        classify = _classifier(scores_of, encode_image, class_names, kernel, top_k)
        signatures["classify"] = Signature(classify, (IMAGE_BYTES,))
    default = "encode_image" if towers == "image" else "encode_text"
    return {**signatures, "serving_default": signatures[default]}


def _image_encoders(model: LiT, weights: _Weights, on_corrupt: str) -> tuple[Encoder, Encoder]:
    """`encode_image` and `encode_pixels`."""
    tower = model.image_tower

    def encode_pixels(pixels: tf.Tensor) -> Tensors:
        return {"embedding": embed(tower.preprocessor(pixels))}

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def encode_image(image_bytes: tf.Tensor) -> Tensors:
        if on_corrupt == "fail":
            return {"embedding": embed(tower.preprocessor(image_bytes))}
        images, valid = tower.preprocessor.with_valid(image_bytes)
        embeddings = tf.where(valid[:, tf.newaxis], embed(images), float("nan"))
        return {"embedding": embeddings, "valid": valid}

    def embed(images: tf.Tensor) -> tf.Tensor:
        with weights.of(tower):
            return unit_length(tower(images))

    return encode_image, encode_pixels


def _classifier(
    scores_of: Scores,
    encode_image: Encoder,
    class_names: Sequence[str],
    kernel: tf.Variable,
    top_k: int,
) -> Encoder:
    """`classify`, where `kernel` [classes, dim] holds the classes' embeddings."""
    names = tf.constant(list(class_names))

    def classify(image_bytes: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        scores = scores_of(tf.matmul(images["embedding"], kernel, transpose_b=True))
        _, indices = tf.math.top_k(scores, min(top_k, len(class_names)))
        return {
            "scores": scores,
            "classes": tf.tile(names[tf.newaxis], [tf.shape(scores)[0], 1]),
            "top_indices": indices,
            "top_classes": tf.gather(names, indices),
            **_valid_of(images),
        }

    return classify


def _comparers(
    scores_of: Scores, encode_image: Encoder, encode_text: Encoder, templates: Sequence[str]
) -> tuple[Callable[..., Tensors], Callable[..., Tensors]]:
    """`similarity` and `classify_labels`: n images against m texts or labels."""
    before, after = zip(*(template.split("{}") for template in templates), strict=True)

    def similarity(image_bytes: tf.Tensor, text: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        texts = encode_text(text)["embedding"]
        cosines = tf.matmul(images["embedding"], texts, transpose_b=True)
        return {"similarity": cosines, **_valid_of(images)}

    def classify_labels(image_bytes: tf.Tensor, labels: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        starts, ends = (tf.tile(parts, [tf.shape(labels)[0]]) for parts in (before, after))
        prompts = tf.strings.join([starts, tf.repeat(labels, len(templates)), ends])
        texts = encode_text(prompts)["embedding"]
        by_label = tf.reshape(texts, [-1, len(templates), texts.shape[-1]])
        kernel = unit_length(tf.reduce_mean(by_label, axis=1))
        scores = scores_of(tf.matmul(images["embedding"], kernel, transpose_b=True))
        return {"scores": scores, **_valid_of(images)}

    return similarity, classify_labels


def _probabilities(model: LiT, weights: _Weights) -> Scores:
    """Cosines [n, m] to probabilities: over the m with the softmax loss, each with the sigmoid."""
    temperature = weights.keep("temperature", model.temperature)
    if model.loss_name == "softmax":
        return lambda cosines: tf.nn.softmax(temperature * cosines)
    bias = weights.keep("bias", model.bias)
    return lambda cosines: tf.sigmoid(temperature * cosines + bias)


def _valid_of(images: Tensors) -> Tensors:
    """The flag of `on_corrupt="nan"`, where there is one."""
    return {name: images[name] for name in ("valid",) if name in images}

"""What an artifact answers: named functions of strings, image bytes and pixels."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.model import LiT
from keras_lit.towers import Tower
from keras_lit.towers.encoding import unit_length

Tensors = dict[str, tf.Tensor]
IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")
PIXELS = tf.TensorSpec([None, None, None, None], tf.uint8, name="pixels")
TEXT = tf.TensorSpec([None], tf.string, name="text")
LABELS = tf.TensorSpec([None], tf.string, name="labels")
DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function and the names, dtypes and shapes of what it takes."""

    function: Callable[..., Tensors]
    inputs: tuple[tf.TensorSpec, ...]


class ArtifactWeights:
    """The variables that an artifact has beside (or in place of) the towers' weights.

    Args:
        towers: the towers that the artifact needs.
        dtype: "float32": the towers' own weights. "float16" or "bfloat16": copies in 16 bits; the
            graph casts them to the towers' dtype when it reads them. Vectors (biases, scales,
            statistics) are few and sensitive, and stay as they are.

    Raises:
        ValueError: unknown dtype, or a weight that float16 cannot hold.
    """

    def __init__(self, towers: list[Tower], dtype: str):
        checks.check_one_of(dtype, DTYPES, "weights")
        self._kept: list[tf.Variable] = []  # Graphs hold their variables weakly.
        self._copies: dict[int, tf.Variable] = {}
        for variable in (v for tower in towers for v in tower.weights if dtype != "float32"):
            as_it_is = len(variable.shape) < 2 or variable.dtype != "float32"
            values = variable.numpy()
            if dtype == "float16" and not as_it_is:
                _check_range(values, variable.path)
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


def _check_range(values: np.ndarray, path: str) -> None:
    largest = np.abs(values).max()
    if largest > np.finfo("float16").max:
        raise ValueError(
            f"{path} reaches {largest:.3g}, more than float16 holds (65504). Use "
            '`weights="bfloat16"`.'
        )


def of_images(
    model: LiT, weights: ArtifactWeights, on_corrupt: str
) -> tuple[dict[str, Signature], Callable[[tf.Tensor], Tensors]]:
    """`encode_image` and `encode_pixels`, and the function of the former, for others to use."""
    tower = model.image_tower

    def encode_pixels(pixels: tf.Tensor) -> Tensors:
        return {"embedding": embed(tower.preprocessor(pixels))}

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def encode_image(image_bytes: tf.Tensor) -> Tensors:
        if on_corrupt == "fail":
            return {"embedding": embed(tower.preprocessor(image_bytes))}
        images, valid = tower.preprocessor.with_valid(image_bytes)
        return {"embedding": nan_unless(valid, embed(images)), "valid": valid}

    def embed(images: tf.Tensor) -> tf.Tensor:
        with weights.of(tower):
            return unit_length(tower(images))

    signatures = {
        "encode_image": Signature(encode_image, (IMAGE_BYTES,)),
        "encode_pixels": Signature(encode_pixels, (PIXELS,)),
    }
    return signatures, encode_image


def of_text(
    model: LiT, weights: ArtifactWeights
) -> tuple[dict[str, Signature], Callable[[tf.Tensor], Tensors]]:
    """`encode_text`, and its function."""
    tower = model.text_tower

    @tf.function(input_signature=[TEXT], autograph=False)
    def encode_text(text: tf.Tensor) -> Tensors:
        token_ids = tower.preprocessor(text)
        with weights.of(tower):
            return {"embedding": unit_length(tower(token_ids))}

    return {"encode_text": Signature(encode_text, (TEXT,))}, encode_text


def of_classes(
    weights: ArtifactWeights,
    scores_of: Callable[[tf.Tensor], tf.Tensor],
    encode_image: Callable[[tf.Tensor], Tensors],
    class_names: Sequence[str],
    class_weights: tf.Tensor,
    top_k: int,
) -> dict[str, Signature]:
    """`classify`: the classes' embeddings are a variable, so no text is encoded."""
    kernel = weights.keep("class_weights", class_weights)
    names = tf.constant(list(class_names))

    def classify(image_bytes: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        scores = scores_of(tf.matmul(images["embedding"], kernel, transpose_b=True))
        _, indices = tf.math.top_k(scores, min(top_k, len(class_names)))
        classes = tf.tile(names[tf.newaxis], [tf.shape(scores)[0], 1])
        return {
            "scores": scores,
            "classes": classes,
            "top_indices": indices,
            "top_classes": tf.gather(names, indices),
            **valid_of(images),
        }

    return {"classify": Signature(classify, (IMAGE_BYTES,))}


def of_both(
    scores_of: Callable[[tf.Tensor], tf.Tensor],
    encode_image: Callable[[tf.Tensor], Tensors],
    encode_text: Callable[[tf.Tensor], Tensors],
    templates: Sequence[str],
) -> dict[str, Signature]:
    """`similarity` and `classify_labels`: n images against m texts or labels."""
    before, after = zip(*(template.split("{}") for template in templates), strict=True)

    def similarity(image_bytes: tf.Tensor, text: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        texts = encode_text(text)["embedding"]
        cosines = tf.matmul(images["embedding"], texts, transpose_b=True)
        return {"similarity": cosines, **valid_of(images)}

    def classify_labels(image_bytes: tf.Tensor, labels: tf.Tensor) -> Tensors:
        images = encode_image(image_bytes)
        starts, ends = (tf.tile(parts, [tf.shape(labels)[0]]) for parts in (before, after))
        prompts = tf.strings.join([starts, tf.repeat(labels, len(templates)), ends])
        texts = encode_text(prompts)["embedding"]
        by_label = tf.reshape(texts, [-1, len(templates), texts.shape[-1]])
        kernel = unit_length(tf.reduce_mean(by_label, axis=1))
        scores = scores_of(tf.matmul(images["embedding"], kernel, transpose_b=True))
        return {"scores": scores, **valid_of(images)}

    return {
        "similarity": Signature(similarity, (IMAGE_BYTES, TEXT)),
        "classify_labels": Signature(classify_labels, (IMAGE_BYTES, LABELS)),
    }


def probabilities(model: LiT, weights: ArtifactWeights) -> Callable[[tf.Tensor], tf.Tensor]:
    """Cosines [n, m] to probabilities: over the m with the softmax loss, each with the sigmoid."""
    temperature = weights.keep("temperature", model.temperature)
    if model.loss_name == "softmax":
        return lambda cosines: tf.nn.softmax(temperature * cosines)
    bias = weights.keep("bias", model.bias)
    return lambda cosines: tf.sigmoid(temperature * cosines + bias)


def nan_unless(valid: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
    """Rows that are not valid become NaN."""
    return tf.where(valid[:, tf.newaxis], embeddings, float("nan"))


def valid_of(images: Tensors) -> Tensors:
    """The flag of `on_corrupt="nan"`, where there is one."""
    return {name: images[name] for name in ("valid",) if name in images}

"""What both losses take and return."""

from typing import Any

import tensorflow as tf

from keras_lit import checks

TEMPERATURE_SHOULD_BE_FINITE = (
    "The temperature exp(`log_temperature`) should be finite. Bound it with "
    "`LiT(..., max_temperature=100.0)`, or lower the learning rate."
)


def checked(
    image: Any, text: Any, tile_size: int | None, groups: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Both embeddings in float32; ValueError for what a loss does not take."""
    image, text = float32(image), float32(text)
    checks.check_rank(image, 2, "image_embeddings", "[batch, dim]")
    checks.check_same_shape(image, text, "image_embeddings", "text_embeddings")
    if tile_size is not None:
        checks.check_count(tile_size, "tile_size")
    if groups is not None:
        groups = tf.convert_to_tensor(groups)
        if not groups.dtype.is_integer or not groups.shape.is_compatible_with(image.shape[:1]):
            raise ValueError(
                f"`groups` should be [batch] integers, one for each of {image.shape[0]} pairs. "
                f"Received: {groups.dtype.name} of shape {groups.shape}. Hash strings by "
                "`tf.strings.to_hash_bucket_fast(groups, 2**63 - 1)`."
            )
    return image, text


def float32(x: Any) -> tf.Tensor:
    """Arrays, numbers and tensors as float32 tensors."""
    return tf.cast(tf.convert_to_tensor(x), tf.float32)


def first_order(x: tf.Tensor) -> tf.Tensor:
    """Passes on the inputs of a hand-written gradient, which cannot be differentiated again."""
    return tf.raw_ops.PreventGradient(input=x, message="The loss has no second derivative.")


def finite_scale(log_temperature: tf.Tensor) -> tf.Tensor:
    """The multiplier of cosines; fails when it is NaN or infinite."""
    return tf.debugging.check_numerics(
        tf.exp(log_temperature), TEMPERATURE_SHOULD_BE_FINITE + " Received:"
    )


def result(accuracies: bool, loss: tf.Tensor, *hits: tf.Tensor) -> Any:
    """The loss, and on request the accuracies beside it."""
    names = "image_to_text_accuracy", "text_to_image_accuracy"
    found = dict(zip(names, map(tf.stop_gradient, hits), strict=True))
    return (loss, found) if accuracies else loss

"""Gradients of a large batch a chunk at a time: its loss is exact, its memory that of a chunk.

The embeddings of all chunks are computed first, without keeping what a gradient would need; then
the loss of the whole batch and its gradient with respect to the embeddings; then each chunk is
encoded once more, and the embeddings' gradient is carried on to the weights (GradCache, Gao et al.,
arXiv 2101.06983). Dropout draws the same numbers both times.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Tensors = dict[str, tf.Tensor]


def loss_and_gradients(
    model: keras.Model,
    data: Tensors,
    size: int,
    contrast: Callable[[Tensors], tuple[tf.Tensor, Any]],
    scale: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, Any, list[tf.Tensor]]:
    """What `contrast` returns for the whole batch, and the gradient of its loss.

    Args:
        model: a `LiT`.
        data: {"image" or "image_features", "text"}, [batch, ...] tensors.
        size: int, how many pairs to encode at one time.
        contrast: from the embeddings of the batch to (loss, anything).
        scale: applied to the loss before its gradient is taken (an optimizer's loss scaling).

    Returns:
        The loss, anything, and the gradients for `model.trainable_weights`.
    """
    if "image" in data and model.image_tower.locked:
        # Once is enough for what does not train.
        tower = model.image_tower
        features = _map(
            lambda image: tf.cast(tower.features(image), tf.float32),
            _chunks(data["image"], size),
            tf.TensorSpec([size, tower.feature_dim]),
        )
        data = {"image_features": _joined(features, data["text"]), "text": data["text"]}
    chunks = {name: _chunks(x, size) for name, x in data.items() if "mask" not in name}

    states = _states(model)
    before = [tf.identity(state) for state in states]
    dim = model.image_tower.embedding_dim
    embeddings = _map(
        lambda chunk: model(chunk, training=True),
        chunks,
        {
            "image_embeddings": tf.TensorSpec([size, dim]),
            "text_embeddings": tf.TensorSpec([size, *data["text"].shape[1:-1], dim]),
        },
    )
    embeddings = {name: _joined(x, data["text"]) for name, x in embeddings.items()}
    for state, value in zip(states, before, strict=True):
        state.assign(value)

    weights = [weight.value for weight in model.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss, anything = contrast(embeddings)
        scaled = scale(loss)
    of_embeddings, of_weights = tape.gradient(scaled, [embeddings, weights])
    of_chunks = {name: _chunks(x, size) for name, x in of_embeddings.items()}

    def add_chunk(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        chunk, gradients = ({name: x[i] for name, x in of.items()} for of in (chunks, of_chunks))
        with tf.GradientTape() as tape:
            outputs = model(chunk, training=True)
        more = tape.gradient(
            [outputs[name] for name in gradients],
            weights,
            list(gradients.values()),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return i + 1, [x + tf.convert_to_tensor(y) for x, y in zip(sums, more, strict=True)]

    sums = [
        tf.zeros(weight.shape, weight.dtype) if gradient is None else gradient
        for weight, gradient in zip(weights, of_weights, strict=True)
    ]
    count = tf.shape(chunks["text"])[0]
    _, sums = tf.while_loop(lambda i, _: i < count, add_chunk, (0, sums), parallel_iterations=1)
    return loss, anything, sums


def _states(model: keras.Model) -> list[keras.Variable]:
    """What a training pass changes besides the weights: seeds of dropout, batch-norm statistics."""
    return [
        variable
        for layer in model._flatten_layers()
        if layer.trainable
        for variable in [
            *layer._non_trainable_variables,
            *(generator.state for generator in layer._seed_generators),
        ]
    ]


def _chunks(x: tf.Tensor, size: int) -> tf.Tensor:
    """[batch, ...] -> [chunks, size, ...]; zeros fill the last chunk up."""
    count = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    chunks = -(-count // size)
    padded = tf.pad(x, [[0, chunks * size - count]] + [[0, 0]] * (x.shape.rank - 1))
    return tf.reshape(padded, [chunks, size, *x.shape[1:]])


def _joined(chunks: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Undoes `_chunks`, for a batch as long as `like`."""
    count = tf.shape(like)[0] if like.shape[0] is None else like.shape[0]
    return tf.reshape(chunks, [-1, *chunks.shape[2:]])[:count]


def _map(function: Callable[[Any], Any], chunks: Any, signature: Any) -> Any:
    return tf.map_fn(function, chunks, parallel_iterations=1, fn_output_signature=signature)

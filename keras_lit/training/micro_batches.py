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

from keras_lit import internals

Tensors = dict[str, tf.Tensor]


def embed(model: keras.Model, data: Tensors, size: int, tape: tf.GradientTape) -> Tensors:
    """`model(data, training=True)`, `size` pairs at a time; its gradient encodes each chunk again.

    The `tape` that watches learns of the weights and the embeddings, and of nothing between.
    """
    with tape.stop_recording():
        if "image" in data and model.tuning[0] == "L":
            data = {**data, "image_features": _features(model.image_tower, data["image"], size)}
            del data["image"]
        chunks = {name: _chunks(x, size) for name, x in data.items() if name != "mask"}
        embeddings = _embeddings(model, chunks, data["text"], size)
    weights = [weight.value for weight in model.trainable_weights]

    @internals.custom_gradient
    def linked(*values: tf.Tensor) -> tuple[Any, Callable]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            of_chunks = {
                name: _chunks(x, size) for name, x in zip(embeddings, upstream, strict=True)
            }
            return _gradients(model, chunks, of_chunks, weights)

        return tuple(map(tf.identity, embeddings.values())), gradient

    found = linked(*map(tf.convert_to_tensor, weights))
    return dict(zip(embeddings, found, strict=True))


def _features(tower: Any, images: tf.Tensor, size: int) -> tf.Tensor:
    """Of a locked tower, which encodes each image once."""
    signature = tf.TensorSpec([size, tower.feature_dim])
    chunks = _map(
        lambda image: tf.cast(tower.features(image), tf.float32), _chunks(images, size), signature
    )
    return _joined(chunks, images)


def _embeddings(model: keras.Model, chunks: Tensors, text: tf.Tensor, size: int) -> Tensors:
    """Chunk by chunk; dropout's seeds and the averages of batch norms stay what they were."""
    states = _states(model)
    before = [tf.identity(state) for state in states]
    dim = model.image_tower.embedding_dim
    signature = {
        "image_embeddings": tf.TensorSpec([size, dim]),
        "text_embeddings": tf.TensorSpec([size, *text.shape[1:-1], dim]),
    }
    found = _map(lambda chunk: model(chunk, training=True), chunks, signature)
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    return {name: _joined(x, text) for name, x in found.items()}


def _gradients(
    model: keras.Model, chunks: Tensors, of_chunks: Tensors, weights: list[tf.Variable]
) -> list[tf.Tensor | None]:
    """The sum over the chunks of what their embeddings' gradients say of the weights."""
    apart: set[int] = set()  # Weights that no embedding depends on; as without chunks, None.

    def add_chunk(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        chunk, gradients = ({name: x[i] for name, x in of.items()} for of in (chunks, of_chunks))
        with tf.GradientTape() as tape:
            outputs = model(chunk, training=True)
        targets = [outputs[name] for name in gradients]
        more = tape.gradient(targets, weights, list(gradients.values()))
        apart.update(j for j, y in enumerate(more) if y is None)
        both = zip(sums, more, strict=True)
        return i + 1, [x if y is None else x + tf.convert_to_tensor(y) for x, y in both]

    sums = [tf.zeros(weight.shape, weight.dtype) for weight in weights]
    count = tf.shape(chunks["text"])[0]
    _, found = tf.while_loop(lambda i, _: i < count, add_chunk, (0, sums), parallel_iterations=1)
    return [None if j in apart else x for j, x in enumerate(found)]


def _states(model: keras.Model) -> list[keras.Variable]:
    """What a training pass changes besides the weights: seeds of dropout, batch-norm statistics."""
    layers = internals.flat_layers(model)
    return [variable for layer in layers for variable in internals.own_states(layer)]


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

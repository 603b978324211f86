"""Gradients of a large batch a chunk at a time: its loss is exact, its memory that of a chunk.

The embeddings of all chunks are computed first, without keeping what a gradient would need; then
the loss of the whole batch and its gradient with respect to the embeddings; then each chunk is
encoded once more, and the embeddings' gradient is carried on to the weights (GradCache, Gao et al.,
arXiv 2101.06983). Dropout draws the same numbers both times. The last chunk may be smaller: what
would fill it up would change the statistics of batch norms.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lit import internals
from keras_lit.training.pairs import INPUTS

Tensors = dict[str, tf.Tensor]


def embed(model: keras.Model, data: Tensors, size: int, tape: tf.GradientTape) -> Tensors:
    """`model(data, training=True)`, `size` pairs at a time; its gradient encodes each chunk again.

    The `tape` that watches learns of the weights and the embeddings, and of nothing between.
    """
    with tape.stop_recording():
        data = {name: x for name, x in data.items() if name in INPUTS}
        if "image" in data and model.tuning[0] == "L":  # Encodes each image once.
            data["image_features"] = _features(model.image_tower, data.pop("image"), size)
        states = _states(model)
        before = [tf.identity(state) for state in states]
        embeddings = without_gradient(model, data, size, training=True)
        for state, value in zip(states, before, strict=True):
            state.assign(value)
    weights = [weight.value for weight in model.trainable_weights]

    @internals.custom_gradient
    def linked(*values: tf.Tensor) -> tuple[Any, Callable]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor | None]:
            of_rows = dict(zip(embeddings, upstream, strict=True))
            return _gradients(model, data, of_rows, weights, size)

        return tuple(map(tf.identity, embeddings.values())), gradient

    found = linked(*map(tf.convert_to_tensor, weights))
    return dict(zip(embeddings, found, strict=True))


def without_gradient(model: keras.Model, data: Tensors, size: int, training: bool) -> Tensors:
    """`model(data)`, `size` pairs at a time."""
    data = {name: x for name, x in data.items() if name in INPUTS}
    dim = model.image_tower.embedding_dim
    kinds = data["text"].shape[1:-1] if "text" in data else ()
    signature = {
        "image_embeddings": tf.TensorSpec([size, dim]),
        "text_embeddings": tf.TensorSpec([size, *kinds, dim]),
    }
    return _map(lambda chunk: model(chunk, training=training), data, size, signature)


def _features(tower: Any, images: tf.Tensor, size: int) -> tf.Tensor:
    """Of a locked tower."""
    signature = {"features": tf.TensorSpec([size, *tower.feature_shape])}

    def encode(chunk: Tensors) -> Tensors:
        return {"features": tf.cast(tower.features(chunk["image"]), tf.float32)}

    return _map(encode, {"image": images}, size, signature)["features"]


def _gradients(
    model: keras.Model, data: Tensors, of_rows: Tensors, weights: list[tf.Variable], size: int
) -> list[tf.Tensor | None]:
    """The gradients of the weights, from those of the embeddings, summed over the chunks."""
    apart: set[int] = set()  # Weights that no embedding depends on; as without chunks, None.

    def add(sums: list[tf.Tensor], chunk: Tensors, gradients: Tensors) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = model(chunk, training=True)
        targets = [outputs[name] for name in gradients]
        more = tape.gradient(targets, weights, list(gradients.values()))
        apart.update(j for j, y in enumerate(more) if y is None)
        both = zip(sums, more, strict=True)
        return [x if y is None else x + tf.cast(tf.convert_to_tensor(y), x.dtype) for x, y in both]

    def add_chunk(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return i + 1, add(sums, _chunk(data, i, size), _chunk(of_rows, i, size))

    # Many small numbers are added: not in 16 bits.
    sums = [tf.zeros(x.shape, tf.float32 if x.dtype.size < 4 else x.dtype) for x in weights]
    count = _count(data)
    full = count // size
    _, sums = tf.while_loop(lambda i, _: i < full, add_chunk, (0, sums), parallel_iterations=1)
    rest, of_rest = ({k: x[full * size :] for k, x in rows.items()} for rows in (data, of_rows))
    sums = _if(count > full * size, lambda: add(sums, rest, of_rest), lambda: sums)
    found = [tf.cast(x, weight.dtype) for x, weight in zip(sums, weights, strict=True)]
    return [None if j in apart else x for j, x in enumerate(found)]


def _states(model: keras.Model) -> list[keras.Variable]:
    """What a training pass changes besides the weights: seeds of dropout, batch-norm statistics."""
    layers = internals.flat_layers(model)
    return [variable for layer in layers for variable in internals.own_states(layer)]


def _map(
    function: Callable[[Tensors], Tensors], rows: Tensors, size: int, signature: Any
) -> Tensors:
    """`function` of rows, `size` at a time; `signature` is that of a full chunk's result."""
    count = _count(rows)
    full = count // size
    chunks = tf.map_fn(
        lambda i: function(_chunk(rows, i, size)),
        tf.range(full),
        parallel_iterations=1,
        fn_output_signature=signature,
    )
    found = {name: tf.reshape(x, [-1, *x.shape[2:]]) for name, x in chunks.items()}

    def joined() -> Tensors:
        rest = function({name: x[full * size :] for name, x in rows.items()})
        return {name: tf.concat([x, rest[name]], axis=0) for name, x in found.items()}

    found = _if(count > full * size, joined, lambda: found)
    return {name: tf.reshape(x, [count, *x.shape[1:]]) for name, x in found.items()}


def _if(condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    if isinstance(condition, bool):
        return then() if condition else otherwise()
    return tf.cond(condition, then, otherwise)


def _chunk(rows: Tensors, i: tf.Tensor, size: int) -> Tensors:
    return {
        # Of texts that are trimmed the width is not known.
        name: tf.slice(
            x,
            [i * size, *[0] * (x.shape.rank - 1)],
            [size, *(-1 if side is None else side for side in x.shape[1:])],
        )
        for name, x in rows.items()
    }


def _count(rows: Tensors) -> Any:
    x = next(iter(rows.values()))
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]

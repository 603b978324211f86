"""What an artifact answers from an index of pictures."""

import os
from collections.abc import Callable

import tensorflow as tf

from keras_lit.search import Index

Tensors = dict[str, tf.Tensor]
# More would be too much to read and multiply for each request.
MAX_BYTES = 2**30


def searchers(
    encoders: dict[str, Callable[[tf.Tensor], Tensors]],
    index: Index,
    keep: Callable[..., tf.Variable],
    top_k: int,
    fill: float | None,
) -> dict[str, Callable[..., Tensors]]:
    """{"search": of text, "search_image": of image bytes}, of `encoders` {"text", "image"}.

    `keep` makes a variable of the artifact; `fill` is the score of what does not decode.
    """
    ids, names, vectors = index.contents()
    if not 0 < vectors.nbytes <= MAX_BYTES:
        raise ValueError(
            f"An index in an artifact should hold a picture, and at most {MAX_BYTES:,} bytes of "
            f"vectors. Received: {len(ids):,} pictures, {vectors.nbytes:,} bytes. Search in a "
            "larger one with `keras_lit.search.Index`."
        )
    kernel = keep("index_vectors", vectors)
    ids_tensor, names_tensor = tf.constant(ids), tf.constant([os.fsencode(x) for x in names])

    def nearest(queries: Tensors) -> Tensors:
        cosines = tf.matmul(queries["embedding"], kernel, transpose_b=True)
        scores, rows = tf.math.top_k(cosines, min(top_k, len(ids)))
        found = {
            "ids": tf.gather(ids_tensor, rows),
            "names": tf.gather(names_tensor, rows),
            "scores": scores,
        }
        if "valid" not in queries:
            return found
        valid = queries["valid"][:, tf.newaxis]
        nothing = {"ids": tf.constant(-1, tf.int64), "names": "", "scores": fill}
        filled = {name: tf.where(valid, x, nothing[name]) for name, x in found.items()}
        return {**filled, "valid": queries["valid"]}

    def search(text: tf.Tensor) -> Tensors:
        return nearest(encoders["text"](text))

    def search_image(image_bytes: tf.Tensor) -> Tensors:
        return nearest(encoders["image"](image_bytes))

    functions = {"text": ("search", search), "image": ("search_image", search_image)}
    return dict(functions[side] for side in encoders)

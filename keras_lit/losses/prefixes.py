"""Embeddings whose first numbers are embeddings too: the loss of each width, summed."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_lit import checks


def sum_over_prefixes(
    loss: Callable[[tf.Tensor, tf.Tensor], Any],
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    dims: Sequence[int],
) -> Any:
    """The sum of a contrastive loss over prefixes of the embeddings (Matryoshka).

    The first `dim` numbers of each row, made unit length again, are embeddings of width `dim`. Each
    width has a loss of its own, with the same temperature, so gradients are exact, tiled and of the
    global batch as that loss's are.

    Args:
        loss: of [batch, dim] unit-length image embeddings and [batch (or batch, texts), dim] text
            embeddings to a scalar, or to (scalar, {name: accuracy}).
        image_embeddings: [batch, dim] float tensor.
        text_embeddings: [batch, dim] or [batch, texts, dim] float tensor.
        dims: ints that rise, the widths.

    Returns:
        The sum, a scalar; with the accuracies of the last width where `loss` gives some.

    Raises:
        ValueError: no `dims`, or `dims` that do not rise or are not within the embeddings.

    Example:

    >>> rows = np.eye(4, dtype="float32")
    >>> loss = lambda image, text: tf.reduce_sum(image * text)
    >>> float(keras_lit.losses.sum_over_prefixes(loss, rows, rows, dims=(2, 4)))  # 2 + 4
    6.0

    Reference: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022 (arXiv
    2205.13147), section 3.
    """
    check_dims(dims, text_embeddings.shape[-1])
    found = [
        loss(*(unit_prefix(x, dim) for x in (image_embeddings, text_embeddings))) for dim in dims
    ]
    if not isinstance(found[0], tuple):
        return tf.add_n(found)
    return tf.add_n([value for value, _ in found]), found[-1][1]


def unit_prefix(embeddings: Any, dim: int | None) -> tf.Tensor:
    """[..., width] -> the first `dim` (None: all) numbers of each row, of length 1, float32."""
    return tf.math.l2_normalize(tf.cast(embeddings[..., :dim], tf.float32), axis=-1)


def check_dims(dims: Sequence[int], width: int) -> None:
    """Raises ValueError unless `dims` are ints that rise from 1 to at most the width."""
    for dim in dims:
        checks.check_count(dim, "dims")
    if not dims or list(dims) != sorted({*dims}) or dims[-1] > width:
        raise ValueError(
            f"`dims` should be widths that rise to at most {width}, that of the embeddings, for "
            f"example ({max(width // 4, 1)}, {width}). Received: {tuple(dims)}."
        )

"""The contrastive loss of the global batch: exact on any number of replicas, linear in memory.

Replica r holds the image rows I_r and the text rows T_r of a global batch of B pairs. It gathers
all rows once and reads from them the log-sum-exps of its own rows and columns; once those vectors
are gathered too, the gradient of the *global* loss with respect to I_r and T_r is complete here:

    dL/dT_r = s / (2B) * [(softmax over texts + softmax over images)^T I - 2 I_r],  I_r likewise,

so nothing is communicated in the backward pass, and the sum over replicas that the optimizer takes
of the weights' gradients is exactly the gradient of one device. Logits exist only a tile of rows at
a time and are computed again for the gradient rather than kept.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_lit import checks, distribution

# Logits that exist at one time when `tile_size` is None: 64 MB in float32.
_TILE_ELEMENTS = 2**24


def softmax_contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    tile_size: int | None = None,
) -> tf.Tensor:
    """The bidirectional softmax loss (InfoNCE) of the global batch.

    The mean over pairs of half the cross-entropy of finding the text of an image among all texts
    plus half that of finding the image of a text among all images.

    Args:
        image_embeddings: [batch, dim] float tensor of unit-length rows.
        text_embeddings: [batch, dim] float tensor of unit-length rows; row i belongs to image i.
        log_temperature: scalar; logits are exp(log_temperature) times the cosine similarities.
        tile_size: int, the number of rows whose logits exist at one time. None: as many as make
            64 MB, so that small batches are computed whole.

    Returns:
        Scalar float32. Under a strategy this replica's share: the SUM over the replicas is the loss
        of the global batch.

    Raises:
        ValueError: the embeddings are not of rank 2 or their shapes differ, or `tile_size` is not
            positive.

    Example:

    >>> embeddings = np.eye(4, dtype="float32")
    >>> float(keras_lit.losses.softmax_contrastive_loss(embeddings, embeddings, 0.0))  # e/(e+3)
    0.743668...

    Reference: the LiT paper, section 3.1; big_vision's `bidirectional_contrastive_loss`.
    """
    loss, _ = softmax_contrastive(image_embeddings, text_embeddings, log_temperature, tile_size)
    return loss


def softmax_contrastive(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    tile_size: int | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """`softmax_contrastive_loss`, and what its logits tell besides.

    Returns:
        The loss, and {"image_to_text_accuracy", "text_to_image_accuracy"}: scalar float32, the
        part of this replica's images (texts) whose own text (image) is the nearest in the batch.
    """
    image = tf.cast(image_embeddings, tf.float32)
    text = tf.cast(text_embeddings, tf.float32)
    checks.check_rank(image, 2, "image_embeddings", "[batch, dim]")
    checks.check_same_shape(image, text, "image_embeddings", "text_embeddings")
    if tile_size is not None:
        checks.check_positive(tile_size, "tile_size")

    @tf.custom_gradient
    def compute(
        image: tf.Tensor, text: tf.Tensor, log_temperature: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        scale = tf.exp(log_temperature)
        all_images, all_texts = distribution.all_gather(image), distribution.all_gather(text)
        row_lse, row_best = _log_sum_exp(image, all_texts, scale, tile_size)
        column_lse, column_best = _log_sum_exp(text, all_images, scale, tile_size)
        local, total = tf.shape(image)[0], tf.shape(all_images)[0]
        pairs = tf.cast(total, tf.float32)
        own = scale * tf.reduce_sum(image * text, axis=1)
        loss = tf.reduce_sum(0.5 * (row_lse + column_lse) - own) / pairs

        expected = distribution.replica_id() * local + tf.range(local)
        hits = [
            tf.reduce_mean(tf.cast(best == expected, tf.float32))
            for best in (row_best, column_best)
        ]
        all_row_lse = distribution.all_gather(row_lse)
        all_column_lse = distribution.all_gather(column_lse)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            factor = upstream * scale / (2.0 * pairs)
            # Two separate walks: a graph drops the one whose result nobody asks for, for example
            # the images' when their tower is locked and has no head.
            image_gradient = factor * (
                _softmax_product(image, all_texts, scale, row_lse, all_column_lse, tile_size)
                - 2.0 * text
            )
            text_gradient = factor * (
                _softmax_product(text, all_images, scale, column_lse, all_row_lse, tile_size)
                - 2.0 * image
            )
            # d logit / d log-temperature is the logit itself, hence the sum over this replica's
            # columns of (dL/dlogit * logit) is the product of the texts with their gradient.
            return image_gradient, text_gradient, tf.reduce_sum(text * text_gradient)

        return (loss, *hits), gradient

    loss, image_to_text, text_to_image = compute(
        image, text, tf.cast(tf.convert_to_tensor(log_temperature), tf.float32)
    )
    return loss, {
        "image_to_text_accuracy": tf.stop_gradient(image_to_text),
        "text_to_image_accuracy": tf.stop_gradient(text_to_image),
    }


def _log_sum_exp(
    rows: tf.Tensor, columns: tf.Tensor, scale: tf.Tensor, tile_size: int | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """For each row the log-sum-exp over all columns' logits, and the place of the largest."""

    def one_tile(tile: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.matmul(tile * scale, columns, transpose_b=True)
        best = tf.argmax(logits, axis=1, output_type=tf.int32)
        return tf.reduce_logsumexp(logits, axis=1), best

    signature = (tf.TensorSpec([None]), tf.TensorSpec([None], tf.int32))
    return _by_tiles(one_tile, (rows,), signature, columns, tile_size)


def _softmax_product(
    rows: tf.Tensor,
    columns: tf.Tensor,
    scale: tf.Tensor,
    row_lse: tf.Tensor,
    column_lse: tf.Tensor,
    tile_size: int | None,
) -> tf.Tensor:
    """(softmax along each row + softmax along each column) @ columns, for these rows."""

    def one_tile(tile: tf.Tensor, tile_lse: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(tile * scale, columns, transpose_b=True)
        weights = tf.exp(logits - tile_lse[:, tf.newaxis]) + tf.exp(logits - column_lse)
        return tf.matmul(weights, columns)

    signature = tf.TensorSpec([None, columns.shape[1]])
    return _by_tiles(one_tile, (rows, row_lse), signature, columns, tile_size)


def _by_tiles(
    function: Callable,
    rows: tuple[tf.Tensor, ...],
    signature: tf.TensorSpec | tuple[tf.TensorSpec, ...],
    columns: tf.Tensor,
    tile_size: int | None,
) -> tf.Tensor | tuple[tf.Tensor, ...]:
    """`function(*rows)`, a tile of rows after the other; whole where one tile holds them all."""
    count, width = _length(rows[0]), _length(columns)
    known = isinstance(count, int) and isinstance(width, int)
    least, most = (min, max) if known else (tf.minimum, tf.maximum)
    tile_size = most(least(tile_size or most(_TILE_ELEMENTS // width, 1), count), 1)
    if known and count <= tile_size:
        return function(*rows)

    tiles = -(-count // tile_size)

    def tiled(x: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(x, [[0, tiles * tile_size - count]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(padded, [tiles, tile_size, *x.shape[1:]])

    results = tf.map_fn(
        lambda tile: function(*tile),
        tuple(tiled(x) for x in rows),
        parallel_iterations=1,
        fn_output_signature=signature,
    )

    def flat(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [tiles * tile_size, *x.shape[2:]])[:count]

    return tf.nest.map_structure(flat, results)


def _length(x: tf.Tensor) -> int | tf.Tensor:
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]

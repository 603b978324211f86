"""The sigmoid loss, and its gradient by hand."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lit import internals
from keras_lit.losses import arguments, global_batch, tiles
from keras_lit.losses.global_batch import NEVER


def sigmoid_contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    bias: tf.Tensor | float,
    tile_size: int | None = None,
    mask: tf.Tensor | None = None,
    local: bool = False,
    accuracies: bool = False,
    groups: tf.Tensor | None = None,
) -> Any:
    """SigLIP's loss of the global batch: every image with every text is a yes-or-no question.

    The binary cross-entropy of "these two belong together", summed over the texts and averaged over
    the images, with logits exp(log_temperature) * cosine + bias. With `groups` the answer is yes
    for each image with each text of its group; of n such answers each counts 1 / n, so that a
    caption that repeats pulls no more than another.

    Args:
        image_embeddings: [images, dim], as for `softmax_contrastive_loss`.
        text_embeddings: [texts, dim], as for `softmax_contrastive_loss`.
        log_temperature: scalar; SigLIP begins with ln 10.
        bias: scalar, learned; SigLIP begins with -10, as nearly all pairs are negatives.
        tile_size, mask, local, accuracies, groups: as for `softmax_contrastive_loss`.

    Returns:
        As `softmax_contrastive_loss`.

    Raises:
        ValueError: as `softmax_contrastive_loss`.
        tf.errors.InvalidArgumentError: as `softmax_contrastive_loss`.

    Example:

    >>> embeddings = np.eye(4, dtype="float32")
    >>> loss = keras_lit.losses.sigmoid_contrastive_loss(embeddings, embeddings, 2.3, -10.0)

    Reference: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343).
    """
    image, text = arguments.checked(image_embeddings, text_embeddings, tile_size, groups)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text, bias = map(tf.stop_gradient, (images, texts, bias))
        scale = tf.stop_gradient(arguments.finite_scale(log_temperature))
        batch = global_batch.gather(image, text, mask, local, groups, accuracies)

        def one_tile(
            rows: tf.Tensor,
            index: tf.Tensor,
            group: tf.Tensor,
            sizes: tf.Tensor,
            own_bias: tf.Tensor,
            column_max: tf.Tensor,
            column_rival: tf.Tensor,
        ) -> tuple[Any, Any]:
            logits = tf.matmul(rows * scale, batch.texts, transpose_b=True) + bias
            own = tf.gather(logits, index, axis=1, batch_dims=1)
            of_row, of_column = batch.counted(logits, own_bias)
            row_rival, rival = batch.rivals(of_row, of_column, group)
            row_max, largest = row_rival, rival
            if accuracies:
                row_max, largest = tf.reduce_max(of_row, axis=1), tf.reduce_max(of_column, axis=0)
            losses = tf.reduce_sum(batch.shared(tf.math.softplus(of_row), group, sizes), axis=1)
            results = own, row_max, row_rival, losses
            return results, (tf.maximum(column_max, largest), tf.maximum(column_rival, rival))

        never = tf.fill([batch.rows], NEVER)
        (own, row_max, row_rival, losses), (column_max, column_rival) = tiles.walk(
            one_tile,
            (image, batch.index, batch.own_group, batch.group_sizes, batch.own_bias),
            (never, never),
            tile_size,
            batch.rows,
        )
        column_max, column_rival = batch.across([column_max, column_rival])
        group_images, group_texts = batch.group_means(batch.images), batch.group_means(batch.texts)
        own = batch.of_group(own, scale, image, text, group_images)
        loss = batch.mean(losses - own)
        hits = batch.hits(scale, row_max, row_rival, column_max, column_rival)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, text = arguments.first_order(images), arguments.first_order(texts)
            factor = upstream / batch.pairs * batch.own_weights

            def of(
                rows: tf.Tensor, partners: tf.Tensor, columns: tf.Tensor
            ) -> tuple[tf.Tensor, tf.Tensor]:
                def one_tile(
                    tile: tf.Tensor, group: tf.Tensor, sizes: tf.Tensor
                ) -> tuple[Any, Any]:
                    logits = tf.matmul(tile * scale, columns, transpose_b=True) + bias
                    if mask is not None:
                        logits += batch.bias
                    yes = batch.shared(tf.sigmoid(logits), group, sizes)
                    return (tf.matmul(yes, columns), tf.reduce_sum(yes, axis=1)), ()

                own_rows = rows, batch.own_group, batch.group_sizes
                (product, sums), _ = tiles.walk(one_tile, own_rows, (), tile_size, batch.rows)
                product -= partners
                return scale * factor[:, tf.newaxis] * product, factor * (sums - 1.0)

            image_gradient, _ = of(image, group_texts, batch.texts)
            text_gradient, of_logits = of(text, group_images, batch.images)
            of_log_temperature = tf.reduce_sum(text * text_gradient)
            return image_gradient, text_gradient, of_log_temperature, tf.reduce_sum(of_logits)

        return (loss, *hits), gradient

    return arguments.result(
        accuracies,
        *compute(image, text, arguments.float32(log_temperature), arguments.float32(bias)),
    )

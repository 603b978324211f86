"""The bidirectional softmax loss, and its gradient by hand."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lit import internals
from keras_lit.losses import arguments, global_batch, tiles
from keras_lit.losses.global_batch import NEVER


def softmax_contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    tile_size: int | None = None,
    mask: tf.Tensor | None = None,
    local: bool = False,
    accuracies: bool = False,
    groups: tf.Tensor | None = None,
) -> Any:
    """The bidirectional softmax loss (InfoNCE) of the global batch.

    The mean over pairs of half the cross-entropy of finding an image's text among all texts plus
    half that of finding a text's image among all images. With `groups` the target of an image is
    spread uniformly over the texts of its group, that of a text over the images.

    Args:
        image_embeddings: [batch, dim] float tensor of unit-length rows.
        text_embeddings: [batch, dim] float tensor of unit-length rows; row i belongs to image i.
        log_temperature: scalar; logits are exp(log_temperature) times the cosine similarities.
        tile_size: int, the number of rows whose logits exist at one time. None: what fits in 64 MB.
        mask: [batch] bool tensor, False for rows that only fill the batch up; they count nowhere.
        local: bool, whether each replica contrasts its own pairs only (the paper's Appendix F);
            the loss is then the mean of the replicas' losses.
        accuracies: bool, whether to return also the accuracies.
        groups: [batch] int tensor; pairs with equal numbers, on any replica (with `local` on their
            own), are positives of each other. None: each pair is alone.

    Returns:
        Scalar float32. Under a strategy this replica's share: the SUM over the replicas is the loss
        of the global batch. With `accuracies` the pair (loss, {"image_to_text_accuracy",
        "text_to_image_accuracy"}): scalar float32, the share of the images (texts) of the global
        batch whose nearest text (image) is their own or of their group, where ties count as wrong;
        again to be summed over replicas.

    Raises:
        ValueError: embeddings that are not of rank 2 or differ in shape; `tile_size` below 1;
            `groups` that are not [batch] integers.
        tf.errors.InvalidArgumentError: replicas with different numbers of rows; a temperature that
            is not finite.
        LookupError: a second derivative is asked for.

    Example:

    >>> embeddings = np.eye(4, dtype="float32")
    >>> float(keras_lit.losses.softmax_contrastive_loss(embeddings, embeddings, 0.0))  # e/(e+3)
    0.743668...

    Reference: the LiT paper, section 3.1; big_vision's `bidirectional_contrastive_loss`; of
    `groups` Yang et al., "Unified Contrastive Learning in Image-Text-Label Space" (CVPR 2022).
    """
    image, text = arguments.checked(image_embeddings, text_embeddings, tile_size, groups)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text = map(tf.stop_gradient, (images, texts))
        scale = tf.stop_gradient(arguments.finite_scale(log_temperature))
        batch = global_batch.gather(image, text, mask, local, groups, accuracies)

        def one_tile(
            rows: tf.Tensor,
            index: tf.Tensor,
            group: tf.Tensor,
            own_bias: tf.Tensor,
            column_max: tf.Tensor,
            column_sum: tf.Tensor,
            column_rival: tf.Tensor,
        ) -> tuple[Any, Any]:
            logits = tf.matmul(rows * scale, batch.texts, transpose_b=True)
            own = tf.gather(logits, index, axis=1, batch_dims=1)
            of_row, of_column = batch.counted(logits, own_bias)
            row_rival, rival = batch.rivals(of_row, of_column, group)
            row_max = tf.reduce_max(of_row, axis=1)
            row_sum = tf.reduce_sum(tf.exp(of_row - row_max[:, tf.newaxis]), axis=1)
            largest = tf.maximum(column_max, tf.reduce_max(of_column, axis=0))
            column_sum *= tf.exp(column_max - largest)
            column_sum += tf.reduce_sum(tf.exp(of_column - largest), axis=0)
            results = own, row_max, row_rival, row_max + tf.math.log(row_sum)
            return results, (largest, column_sum, tf.maximum(column_rival, rival))

        never = tf.fill([batch.rows], NEVER)
        (own, row_max, row_rival, row_lse), (column_max, column_sum, column_rival) = tiles.walk(
            one_tile,
            (image, batch.index, batch.own_group, batch.own_bias),
            (never, tf.zeros([batch.rows]), never),
            tile_size,
            batch.rows,
            tiles.COMPILED_ELEMENTS,
        )
        # Each replica saw all columns, but only its own rows of them.
        column_lse = column_max + tf.math.log(column_sum)
        column_max, column_rival, column_lse = batch.across([column_max, column_rival, column_lse])
        column_lse = tf.reduce_logsumexp(column_lse, axis=0)
        row_lse_of_all = batch.gather(row_lse)
        own_column_lse = tf.gather(column_lse, batch.index)
        group_images, group_texts = batch.group_means(batch.images), batch.group_means(batch.texts)
        own = batch.of_group(own, scale, image, text, group_images)
        loss = batch.mean(0.5 * (row_lse + own_column_lse) - own)
        hits = batch.hits(scale, row_max, row_rival, column_max, column_rival)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, text = arguments.first_order(images), arguments.first_order(texts)

            def of(
                rows: tf.Tensor,
                lse: tf.Tensor,
                partners: tf.Tensor,
                columns: tf.Tensor,
                other_lse: tf.Tensor,
            ) -> tf.Tensor:
                def one_tile(tile: tf.Tensor, tile_lse: tf.Tensor) -> tuple[Any, Any]:
                    logits = tf.matmul(tile * scale, columns, transpose_b=True)
                    if mask is not None:
                        logits += batch.bias
                    weights = tf.exp(logits - tile_lse[:, tf.newaxis]) + tf.exp(logits - other_lse)
                    return (tf.matmul(weights, columns),), ()

                (product,), _ = tiles.walk(
                    one_tile, (rows, lse), (), tile_size, batch.rows, tiles.COMPILED_ELEMENTS
                )
                factor = upstream * scale / (2.0 * batch.pairs)
                return factor * batch.own_weights[:, tf.newaxis] * (product - 2.0 * partners)

            # Two separate walks: a graph drops the one whose result nobody asks for, for example
            # the images' when their tower is locked and has no head.
            image_gradient = of(image, row_lse, group_texts, batch.texts, column_lse)
            text_gradient = of(text, own_column_lse, group_images, batch.images, row_lse_of_all)
            # d logit / d log-temperature is the logit itself, hence the sum over this replica's
            # columns of (dL/dlogit * logit) is the product of the texts with their gradient.
            return image_gradient, text_gradient, tf.reduce_sum(text * text_gradient)

        return (loss, *hits), gradient

    return arguments.result(accuracies, *compute(image, text, arguments.float32(log_temperature)))

"""The contrastive losses of the global batch: exact on any number of replicas, linear in memory.

Replica r holds the image rows I_r and the text rows T_r of a global batch of B pairs. It gathers
all rows once, walks over the logits of its images and all texts, a tile of rows at a time, and so
learns its rows' log-sum-exps and its part of the columns'. Once those vectors are gathered too, the
gradient of the *global* loss with respect to I_r and T_r is complete here:

    dL/dT_r = s / (2B) * [(softmax over texts + softmax over images)^T I - 2 I_r],  I_r likewise,

so nothing is communicated in the backward pass, and the sum over replicas that the optimizer takes
of the weights' gradients is exactly the gradient of one device. Logits exist only a tile of rows at
a time and are computed again for the gradient rather than kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_lit import checks, distribution, internals

__all__ = ["sigmoid_contrastive_loss", "softmax_contrastive_loss"]

# Logits that exist at one time when `tile_size` is None: 64 MB in float32.
_TILE_ELEMENTS = 2**24
# What a masked logit becomes; unlike an infinity it leaves no NaN behind in a difference.
_NEVER = -1e30
# Cosines that differ by less are equal: what float32 makes of a sum in another order.
EPSILON = 1e-6
TEMPERATURE_SHOULD_BE_FINITE = (
    "The temperature exp(`log_temperature`) should be finite. Bound it with "
    "`LiT(..., max_temperature=100.0)`, or lower the learning rate."
)


def softmax_contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    tile_size: int | None = None,
    mask: tf.Tensor | None = None,
    local: bool = False,
    accuracies: bool = False,
) -> Any:
    """The bidirectional softmax loss (InfoNCE) of the global batch.

    The mean over pairs of half the cross-entropy of finding an image's text among all texts plus
    half that of finding a text's image among all images.

    Args:
        image_embeddings: [batch, dim] float tensor of unit-length rows.
        text_embeddings: [batch, dim] float tensor of unit-length rows; row i belongs to image i.
        log_temperature: scalar; logits are exp(log_temperature) times the cosine similarities.
        tile_size: int, the number of rows whose logits exist at one time. None: what fits in 64 MB.
        mask: [batch] bool tensor, False for rows that only fill the batch up; they count nowhere.
        local: bool, whether each replica contrasts its own pairs only (the paper's Appendix F);
            the loss is then the mean of the replicas' losses.
        accuracies: bool, whether to return also the accuracies.

    Returns:
        Scalar float32. Under a strategy this replica's share: the SUM over the replicas is the loss
        of the global batch. With `accuracies` the pair (loss, {"image_to_text_accuracy",
        "text_to_image_accuracy"}): scalar float32, the share of the images (texts) of the global
        batch to which their own text (image) is nearest, and no other as near, again to be summed
        over replicas.

    Raises:
        ValueError: embeddings that are not of rank 2 or differ in shape; `tile_size` below 1.
        tf.errors.InvalidArgumentError: replicas with different numbers of rows; a temperature that
            is not finite.
        LookupError: a second derivative is asked for.

    Example:

    >>> embeddings = np.eye(4, dtype="float32")
    >>> float(keras_lit.losses.softmax_contrastive_loss(embeddings, embeddings, 0.0))  # e/(e+3)
    0.743668...

    Reference: the LiT paper, section 3.1; big_vision's `bidirectional_contrastive_loss`.
    """
    image, text = _checked(image_embeddings, text_embeddings, tile_size)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text, scale = map(tf.stop_gradient, (images, texts, _scale(log_temperature)))
        batch = _gather(image, text, mask, local)

        def one_tile(
            rows: tf.Tensor,
            index: tf.Tensor,
            own_bias: tf.Tensor,
            column_max: tf.Tensor,
            column_sum: tf.Tensor,
            column_rival: tf.Tensor,
        ) -> tuple[Any, Any]:
            logits = tf.matmul(rows * scale, batch.texts, transpose_b=True)
            own = tf.gather(logits, index, axis=1, batch_dims=1)
            row_rival, rival = batch.rivals(logits, index, own_bias)
            column_rival = tf.maximum(column_rival, rival)
            of_row = logits if mask is None else logits + batch.bias
            row_max = tf.maximum(row_rival, own + own_bias)
            row_sum = tf.reduce_sum(tf.exp(of_row - row_max[:, tf.newaxis]), axis=1)
            if mask is not None:
                logits += own_bias[:, tf.newaxis]
            largest = tf.maximum(column_max, rival)
            largest = tf.tensor_scatter_nd_max(largest, index[:, tf.newaxis], own + own_bias)
            column_sum *= tf.exp(column_max - largest)
            column_sum += tf.reduce_sum(tf.exp(logits - largest), axis=0)
            results = own, row_rival, row_max + tf.math.log(row_sum)
            return results, (largest, column_sum, column_rival)

        rows = image, batch.index, batch.own_bias
        never = tf.fill([batch.rows], _NEVER)
        (own, row_rival, row_lse), (column_max, column_sum, column_rival) = _walk(
            one_tile, rows, (never, tf.zeros([batch.rows]), never), tile_size, batch.rows
        )
        # Each replica saw all columns, but only its own rows of them.
        column_lse = column_max + tf.math.log(column_sum)
        column_rival, column_lse = batch.across([column_rival, column_lse])
        column_lse = tf.reduce_logsumexp(column_lse, axis=0)
        row_lse_of_all = batch.gather(row_lse)
        own_column_lse = tf.gather(column_lse, batch.index)
        loss = batch.mean(0.5 * (row_lse + own_column_lse) - own)
        hits = batch.hits(own, scale, row_rival, column_rival)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, text = _first_order(images), _first_order(texts)

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

                (product,), _ = _walk(one_tile, (rows, lse), (), tile_size, batch.rows)
                factor = upstream * scale / (2.0 * batch.pairs)
                return factor * batch.own_weights[:, tf.newaxis] * (product - 2.0 * partners)

            # Two separate walks: a graph drops the one whose result nobody asks for, for example
            # the images' when their tower is locked and has no head.
            image_gradient = of(image, row_lse, text, batch.texts, column_lse)
            text_gradient = of(text, own_column_lse, image, batch.images, row_lse_of_all)
            # d logit / d log-temperature is the logit itself, hence the sum over this replica's
            # columns of (dL/dlogit * logit) is the product of the texts with their gradient.
            return image_gradient, text_gradient, tf.reduce_sum(text * text_gradient)

        return (loss, *hits), gradient

    return _result(accuracies, *compute(image, text, _float32(log_temperature)))


def sigmoid_contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    bias: tf.Tensor | float,
    tile_size: int | None = None,
    mask: tf.Tensor | None = None,
    local: bool = False,
    accuracies: bool = False,
) -> Any:
    """SigLIP's loss of the global batch: every image with every text is a yes-or-no question.

    The binary cross-entropy of "these two belong together", summed over the texts and averaged over
    the images, with logits exp(log_temperature) * cosine + bias.

    Args:
        image_embeddings: as for `softmax_contrastive_loss`, like all that is not named here.
        text_embeddings: likewise.
        log_temperature: scalar; SigLIP begins with ln 10.
        bias: scalar, learned; SigLIP begins with -10, as nearly all pairs are negatives.
        tile_size: likewise.
        mask: likewise.
        local: likewise.
        accuracies: likewise.

    Returns:
        As `softmax_contrastive_loss`.

    Raises:
        ValueError: as `softmax_contrastive_loss`.
        tf.errors.InvalidArgumentError: likewise.

    Example:

    >>> embeddings = np.eye(4, dtype="float32")
    >>> loss = keras_lit.losses.sigmoid_contrastive_loss(embeddings, embeddings, 2.3, -10.0)

    Reference: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343).
    """
    image, text = _checked(image_embeddings, text_embeddings, tile_size)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text, bias = map(tf.stop_gradient, (images, texts, bias))
        scale = tf.stop_gradient(_scale(log_temperature))
        batch = _gather(image, text, mask, local)

        def one_tile(
            rows: tf.Tensor, index: tf.Tensor, own_bias: tf.Tensor, column_rival: tf.Tensor
        ) -> tuple[Any, Any]:
            logits = tf.matmul(rows * scale, batch.texts, transpose_b=True) + bias
            own = tf.gather(logits, index, axis=1, batch_dims=1)
            row_rival, rival = batch.rivals(logits, index, own_bias)
            of_row = logits if mask is None else logits + batch.bias
            losses = tf.reduce_sum(tf.math.softplus(of_row), axis=1)
            return (own, row_rival, losses), (tf.maximum(column_rival, rival),)

        rows, never = (image, batch.index, batch.own_bias), tf.fill([batch.rows], _NEVER)
        (own, row_rival, losses), (column_rival,) = _walk(
            one_tile, rows, (never,), tile_size, batch.rows
        )
        (column_rival,) = batch.across([column_rival])
        loss = batch.mean(losses - own)
        hits = batch.hits(own, scale, row_rival, column_rival)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, text = _first_order(images), _first_order(texts)
            factor = upstream / batch.pairs * batch.own_weights

            def of(
                rows: tf.Tensor, partners: tf.Tensor, columns: tf.Tensor
            ) -> tuple[tf.Tensor, tf.Tensor]:
                def one_tile(tile: tf.Tensor) -> tuple[Any, Any]:
                    logits = tf.matmul(tile * scale, columns, transpose_b=True) + bias
                    if mask is not None:
                        logits += batch.bias
                    yes = tf.sigmoid(logits)
                    return (tf.matmul(yes, columns), tf.reduce_sum(yes, axis=1)), ()

                (product, sums), _ = _walk(one_tile, (rows,), (), tile_size, batch.rows)
                return scale * factor[:, tf.newaxis] * (product - partners), factor * (sums - 1.0)

            image_gradient, _ = of(image, text, batch.texts)
            text_gradient, of_logits = of(text, image, batch.images)
            of_log_temperature = tf.reduce_sum(text * text_gradient)
            return image_gradient, text_gradient, of_log_temperature, tf.reduce_sum(of_logits)

        return (loss, *hits), gradient

    return _result(accuracies, *compute(image, text, _float32(log_temperature), _float32(bias)))


class _Batch(NamedTuple):
    """The global batch, as one replica sees it."""

    images: tf.Tensor  # [rows, dim], those of all replicas
    texts: tf.Tensor
    rows: int | tf.Tensor
    index: tf.Tensor  # where this replica's own rows are
    bias: tf.Tensor  # [rows] float32, 0 or, for masked columns, _NEVER
    own_bias: tf.Tensor
    own_weights: tf.Tensor  # 1 or, for masked rows, 0
    pairs: tf.Tensor  # what the sum over replicas and rows is divided by
    local: bool
    masked: bool

    def gather(self, x: tf.Tensor) -> tf.Tensor:
        return x if self.local else distribution.all_gather(x)

    def across(self, vectors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Vectors [rows] -> each [replicas, rows], in one collective."""
        return tf.unstack(self.gather(tf.stack(vectors)[tf.newaxis]), num=len(vectors), axis=1)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self.own_weights * values) / self.pairs

    def rivals(
        self, logits: tf.Tensor, index: tf.Tensor, own_bias: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The largest logit of each row of a tile, and of each column, but a pair's own."""
        others = tf.where(tf.range(self.rows) == index[:, tf.newaxis], _NEVER, logits)
        of_rows, of_columns = others, others
        if self.masked:
            of_rows, of_columns = others + self.bias, others + own_bias[:, tf.newaxis]
        return tf.reduce_max(of_rows, axis=1), tf.reduce_max(of_columns, axis=0)

    def hits(
        self, own: tf.Tensor, scale: tf.Tensor, row_rival: tf.Tensor, column_rival: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The share of rows, and of columns, whose own logit is above the others: ties lose."""
        column_rival = tf.gather(tf.reduce_max(column_rival, axis=0), self.index)
        least = own - EPSILON * scale
        of_rows, of_columns = (tf.cast(least > x, tf.float32) for x in (row_rival, column_rival))
        return self.mean(of_rows), self.mean(of_columns)


def _gather(image: tf.Tensor, text: tf.Tensor, mask: tf.Tensor | None, local: bool) -> _Batch:
    gather = tf.identity if local else distribution.all_gather
    images, texts = gather(image), gather(text)
    count, rows = _length(image), _length(images)
    index = tf.range(count)
    if not local:
        index += distribution.replica_id() * count
    weights = tf.ones([count]) if mask is None else _float32(mask)
    all_weights = tf.ones([rows]) if mask is None else gather(weights)
    pairs = tf.maximum(tf.reduce_sum(all_weights), 1.0)
    if local:
        pairs *= distribution.replica_count()
    bias, own_bias = ((1.0 - w) * _NEVER for w in (all_weights, weights))
    masked = mask is not None
    return _Batch(images, texts, rows, index, bias, own_bias, weights, pairs, local, masked)


def _checked(image: Any, text: Any, tile_size: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    image, text = _float32(image), _float32(text)
    checks.check_rank(image, 2, "image_embeddings", "[batch, dim]")
    checks.check_same_shape(image, text, "image_embeddings", "text_embeddings")
    if tile_size is not None:
        checks.check_count(tile_size, "tile_size")
    return image, text


def _float32(x: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(x), tf.float32)


def _first_order(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.PreventGradient(input=x, message="The loss has no second derivative.")


def _scale(log_temperature: tf.Tensor) -> tf.Tensor:
    return tf.debugging.check_numerics(
        tf.exp(log_temperature), TEMPERATURE_SHOULD_BE_FINITE + " Received:"
    )


def _result(accuracies: bool, loss: tf.Tensor, *hits: tf.Tensor) -> Any:
    names = "image_to_text_accuracy", "text_to_image_accuracy"
    found = dict(zip(names, map(tf.stop_gradient, hits), strict=True))
    return (loss, found) if accuracies else loss


def _walk(
    function: Callable,
    rows: tuple[tf.Tensor, ...],
    carry: tuple[tf.Tensor, ...],
    tile_size: int | None,
    width: int | tf.Tensor,
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    """`function(*rows, *carry)` -> (results by row, carry), a tile of rows after the other.

    `width` is how many logits a row has. What one tile holds is computed whole, with no loop.
    """
    count = _length(rows[0])
    known = isinstance(count, int) and isinstance(width, int)
    least, most = (min, max) if known else (tf.minimum, tf.maximum)
    tile_size = most(least(tile_size or most(_TILE_ELEMENTS // width, 1), count), 1)
    # XLA cannot show what `tf.debugging.enable_check_numerics` wants to see.
    if (known and count <= tile_size) or internals.has_op_callbacks():
        return function(*rows, *carry)
    tiles = count // tile_size

    def tile(first: tf.Tensor, size: Any) -> list[tf.Tensor]:
        return [
            tf.ensure_shape(
                tf.slice(x, [first] + [0] * (x.shape.rank - 1), [size, *x.shape[1:]]),
                [size if known else None, *x.shape[1:]],
            )
            for x in rows
        ]

    def step(i: tf.Tensor, arrays: Any, carry: Any) -> tuple[Any, ...]:
        results, carry = function(*tile(i * tile_size, tile_size), *carry)
        return i + 1, tuple(a.write(i, x) for a, x in zip(arrays, results, strict=True)), carry

    # XLA fuses what is done with the logits, and so halves the time on a CPU. (The losses stop
    # gradients at its inputs: a function that tapes watch would also keep what they might need.)
    @tf.function(jit_compile=True, autograph=False)
    def walk(*carry: tf.Tensor) -> Any:
        # Process the remainder first, outside of the loop; its outputs give the loop's shapes.
        results, carry = function(*tile(tiles * tile_size, count - tiles * tile_size), *carry)
        size = tile_size if known else None
        arrays = tuple(
            tf.TensorArray(x.dtype, tiles, element_shape=[size, *x.shape[1:]]) for x in results
        )
        _, arrays, carry = tf.while_loop(
            lambda i, *_: i < tiles, step, (0, arrays, carry), parallel_iterations=1
        )
        joined = (
            tf.concat([tf.reshape(a.stack(), [tiles * tile_size, *x.shape[1:]]), x], axis=0)
            for a, x in zip(arrays, results, strict=True)
        )
        return tuple(joined), carry

    if known:
        return walk(*carry)
    # XLA compiles when it runs: not for a small batch whose size only the step knows.
    whole = lambda: function(*rows, *carry)  # noqa: E731
    return tf.cond(count <= tile_size, whole, lambda: walk(*carry))


def _length(x: tf.Tensor) -> int | tf.Tensor:
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]

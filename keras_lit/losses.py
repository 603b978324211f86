"""The contrastive losses of the global batch: exact on any number of replicas, linear in memory.

Replica r holds the image rows I_r and the text rows T_r of a global batch of B pairs. It gathers
all rows once, walks over the logits of its images and all texts, a tile of rows at a time, and so
learns its rows' log-sum-exps and its part of the columns'. Once those vectors are gathered too, the
gradient of the *global* loss with respect to I_r and T_r is complete here:

    dL/dT_r = s / (2B) * [(softmax over texts + softmax over images)^T I - 2 I_r],  I_r likewise,

so nothing is communicated in the backward pass, and the sum over replicas that the optimizer takes
of the weights' gradients is exactly the gradient of one device. Logits exist only a tile of rows at
a time and are computed again for the gradient rather than kept.

Pairs of one group are positives of each other. The sum of an image's logits with its group's texts
is its logit with the sum of those texts, so that in the formulas the mean of the group's rows (for
the sigmoid loss their sum) takes the place of I_r and T_r: positives cost one sum by group and no
further logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_lit import checks, distribution, internals

__all__ = ["sigmoid_contrastive_loss", "softmax_contrastive_loss"]

# Logits that exist at one time when `tile_size` is None: 64 MB in float32.
_TILE_ELEMENTS = 2**24
# From so many logits on, those of the softmax loss are faster under XLA even in one tile.
_COMPILED_ELEMENTS = 2**20
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
        batch to which their own text (image), or another one of their group, is nearest, and none
        outside of it as near, again to be summed over replicas.

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
    image, text = _checked(image_embeddings, text_embeddings, tile_size, groups)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text, scale = map(tf.stop_gradient, (images, texts, _scale(log_temperature)))
        batch = _gather(image, text, mask, local, groups, accuracies)

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

        never = tf.fill([batch.rows], _NEVER)
        (own, row_max, row_rival, row_lse), (column_max, column_sum, column_rival) = _walk(
            one_tile,
            (image, batch.index, batch.own_group, batch.own_bias),
            (never, tf.zeros([batch.rows]), never),
            tile_size,
            batch.rows,
            _COMPILED_ELEMENTS,
        )
        # Each replica saw all columns, but only its own rows of them.
        column_lse = column_max + tf.math.log(column_sum)
        column_max, column_rival, column_lse = batch.across([column_max, column_rival, column_lse])
        column_lse = tf.reduce_logsumexp(column_lse, axis=0)
        row_lse_of_all = batch.gather(row_lse)
        own_column_lse = tf.gather(column_lse, batch.index)
        group_images, group_texts = batch.group_means(batch.images), batch.group_means(batch.texts)
        own = batch.of_group(own, scale, image, text, group_texts)
        loss = batch.mean(0.5 * (row_lse + own_column_lse) - own)
        hits = batch.hits(scale, row_max, row_rival, column_max, column_rival)

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

                (product,), _ = _walk(
                    one_tile, (rows, lse), (), tile_size, batch.rows, _COMPILED_ELEMENTS
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
    groups: tf.Tensor | None = None,
) -> Any:
    """SigLIP's loss of the global batch: every image with every text is a yes-or-no question.

    The binary cross-entropy of "these two belong together", summed over the texts and averaged over
    the images, with logits exp(log_temperature) * cosine + bias. With `groups` the answer is yes
    for each image with each text of its group.

    Args:
        image_embeddings: as for `softmax_contrastive_loss`, like all that is not named here.
        text_embeddings: likewise.
        log_temperature: scalar; SigLIP begins with ln 10.
        bias: scalar, learned; SigLIP begins with -10, as nearly all pairs are negatives.
        tile_size: likewise.
        mask: likewise.
        local: likewise.
        accuracies: likewise.
        groups: likewise.

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
    image, text = _checked(image_embeddings, text_embeddings, tile_size, groups)

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        image, text, bias = map(tf.stop_gradient, (images, texts, bias))
        scale = tf.stop_gradient(_scale(log_temperature))
        batch = _gather(image, text, mask, local, groups, accuracies)

        def one_tile(
            rows: tf.Tensor,
            index: tf.Tensor,
            group: tf.Tensor,
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
            losses = tf.reduce_sum(tf.math.softplus(of_row), axis=1)
            results = own, row_max, row_rival, losses
            return results, (tf.maximum(column_max, largest), tf.maximum(column_rival, rival))

        never = tf.fill([batch.rows], _NEVER)
        (own, row_max, row_rival, losses), (column_max, column_rival) = _walk(
            one_tile,
            (image, batch.index, batch.own_group, batch.own_bias),
            (never, never),
            tile_size,
            batch.rows,
        )
        column_max, column_rival = batch.across([column_max, column_rival])
        group_images, group_texts = batch.group_means(batch.images), batch.group_means(batch.texts)
        own = batch.of_group(own, scale, image, text, group_texts)
        loss = batch.mean(losses - batch.group_sizes * own)
        hits = batch.hits(scale, row_max, row_rival, column_max, column_rival)

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
                product -= batch.group_sizes[:, tf.newaxis] * partners
                return scale * factor[:, tf.newaxis] * product, factor * (sums - batch.group_sizes)

            image_gradient, _ = of(image, group_texts, batch.texts)
            text_gradient, of_logits = of(text, group_images, batch.images)
            of_log_temperature = tf.reduce_sum(text * text_gradient)
            return image_gradient, text_gradient, of_log_temperature, tf.reduce_sum(of_logits)

        return (loss, *hits), gradient

    return _result(accuracies, *compute(image, text, _float32(log_temperature), _float32(bias)))


class _Batch(NamedTuple):
    """The global batch, as one replica sees it; "own" is of this replica's rows."""

    images: tf.Tensor  # [rows, dim], those of all replicas
    texts: tf.Tensor
    rows: int | tf.Tensor
    index: tf.Tensor  # where this replica's own rows are
    group: tf.Tensor  # [rows] int32, equal for positives
    own_group: tf.Tensor
    group_sizes: tf.Tensor  # [own rows] float32, how many of the group count, at least 1
    repeated: tf.Tensor | bool  # whether a group has two rows
    weights: tf.Tensor  # [rows] float32, 1 or, for masked rows, 0
    own_weights: tf.Tensor
    bias: tf.Tensor  # [rows] float32, 0 or, for masked columns, _NEVER
    own_bias: tf.Tensor
    pairs: tf.Tensor  # what the sum over replicas and rows is divided by
    local: bool
    masked: bool
    grouped: bool
    accuracies: bool

    def gather(self, x: tf.Tensor) -> tf.Tensor:
        return x if self.local else distribution.all_gather(x)

    def across(self, vectors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Vectors [rows] -> each [replicas, rows], in one collective."""
        return tf.unstack(self.gather(tf.stack(vectors)[tf.newaxis]), num=len(vectors), axis=1)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self.own_weights * values) / self.pairs

    def counted(self, logits: tf.Tensor, own_bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A tile's logits as those of rows, without masked columns, and those of columns."""
        if not self.masked:
            return logits, logits
        return logits + self.bias, logits + own_bias[:, tf.newaxis]

    def rivals(
        self, of_row: tf.Tensor, of_column: tf.Tensor, group: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The largest logit of each row of a tile, and of each column, but of a pair's group."""
        if not self.accuracies:
            return tf.zeros(tf.shape(group)), tf.zeros([self.rows])
        same = self.group == group[:, tf.newaxis]
        of_row, of_column = (tf.where(same, _NEVER, x) for x in (of_row, of_column))
        return tf.reduce_max(of_row, axis=1), tf.reduce_max(of_column, axis=0)

    def hits(
        self,
        scale: tf.Tensor,
        row_max: tf.Tensor,
        row_rival: tf.Tensor,
        column_max: tf.Tensor,
        column_rival: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The share of rows, and of columns, whose largest logit is of their group: ties lose."""
        column_max, column_rival = (
            tf.gather(tf.reduce_max(x, axis=0), self.index) for x in (column_max, column_rival)
        )
        ways = (row_max, row_rival), (column_max, column_rival)
        of_rows, of_columns = (tf.cast(x - EPSILON * scale > y, tf.float32) for x, y in ways)
        return self.mean(of_rows), self.mean(of_columns)

    def group_means(self, rows: tf.Tensor) -> tf.Tensor:
        """[rows, dim] -> [own rows, dim]: of the group of each."""
        own = tf.gather(rows, self.index)

        def means() -> tf.Tensor:
            counted = self.weights[:, tf.newaxis] * rows if self.masked else rows
            sums = tf.math.unsorted_segment_sum(counted, self.group, self.rows)
            return tf.gather(sums, self.own_group) / self.group_sizes[:, tf.newaxis]

        return tf.cond(self.repeated, means, lambda: own) if self.grouped else own

    def of_group(
        self,
        own: tf.Tensor,
        scale: tf.Tensor,
        image: tf.Tensor,
        text: tf.Tensor,
        group_texts: tf.Tensor,
    ) -> tf.Tensor:
        """The mean of an image's logits with its group's texts, given that with its `own`.

        As a difference, which is exactly 0 for a pair that is alone.
        """
        if not self.grouped:
            return own
        return own + scale * tf.reduce_sum(image * (group_texts - text), axis=1)


def _gather(
    image: tf.Tensor,
    text: tf.Tensor,
    mask: tf.Tensor | None,
    local: bool,
    groups: tf.Tensor | None,
    accuracies: bool,
) -> _Batch:
    gather = tf.identity if local else distribution.all_gather
    images, texts = gather(image), gather(text)
    count, rows = _length(image), _length(images)
    index = tf.range(count)
    if not local:
        index += distribution.replica_id() * count
    own_weights = tf.ones([count]) if mask is None else _float32(mask)
    weights = tf.ones([rows]) if mask is None else gather(own_weights)
    pairs = tf.maximum(tf.reduce_sum(weights), 1.0)
    if local:
        pairs *= distribution.replica_count()
    bias, own_bias = ((1.0 - w) * _NEVER for w in (weights, own_weights))
    group, own_group, sizes, repeated = tf.range(rows), index, tf.ones([count]), False
    if groups is not None:
        group = _numbered(gather(tf.cast(groups, tf.int64)))
        own_group = tf.gather(group, index)
        sizes = tf.gather(tf.math.unsorted_segment_sum(weights, group, rows), own_group)
        sizes = tf.maximum(sizes, 1.0)
        repeated = tf.reduce_max(group) < tf.cast(rows, tf.int32) - 1
    return _Batch(
        *(images, texts, rows, index, group, own_group, sizes, repeated),
        *(weights, own_weights, bias, own_bias, pairs),
        *(local, mask is not None, groups is not None, accuracies),
    )


def _numbered(ids: tf.Tensor) -> tf.Tensor:
    """Equal ids -> equal numbers from 0: [rows] int64 -> int32, which tiles compare faster."""
    order = tf.argsort(ids)
    ordered = tf.gather(ids, order)
    is_new = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    numbers = tf.concat([[0], tf.cumsum(is_new)], axis=0)
    return tf.scatter_nd(order[:, tf.newaxis], numbers, tf.shape(ids))


def _checked(
    image: Any, text: Any, tile_size: int | None, groups: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    image, text = _float32(image), _float32(text)
    checks.check_rank(image, 2, "image_embeddings", "[batch, dim]")
    checks.check_same_shape(image, text, "image_embeddings", "text_embeddings")
    if tile_size is not None:
        checks.check_count(tile_size, "tile_size")
    if groups is not None:
        groups = tf.convert_to_tensor(groups)
        if not groups.dtype.is_integer or not groups.shape.is_compatible_with(image.shape[:1]):
            raise ValueError(
                f"`groups` should be [batch] integers, one for each of {image.shape[0]} pairs. "
                f"Received: {groups.dtype.name} of shape {groups.shape}. Of strings take "
                "`tf.strings.to_hash_bucket_fast(groups, 2**63 - 1)`."
            )
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
    compiled_from: int = _TILE_ELEMENTS + 1,
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    """`function(*rows, *carry)` -> (results by row, carry), a tile of rows after the other.

    `width` is how many logits a row has. What one tile holds is computed whole, with no loop,
    unless it holds `compiled_from` logits.
    """
    count = _length(rows[0])
    known = isinstance(count, int) and isinstance(width, int)
    least, most = (min, max) if known else (tf.minimum, tf.maximum)
    tile_size = most(least(tile_size or most(_TILE_ELEMENTS // width, 1), count), 1)
    # XLA cannot show what `tf.debugging.enable_check_numerics` wants to see.
    is_whole = known and count <= tile_size
    if (is_whole and count * width < compiled_from) or internals.has_op_callbacks():
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

"""The pairs of all replicas, as one of them sees them: rows, groups, masks, accuracies."""

from typing import NamedTuple

import tensorflow as tf

from keras_lit import distribution
from keras_lit.losses.arguments import float32
from keras_lit.losses.tiles import length

# What a masked logit becomes; unlike an infinity it leaves no NaN behind in a difference.
NEVER = -1e30
# Cosines that differ by less are equal: float32 sums in another order differ by as much.
EPSILON = 1e-6


class GlobalBatch(NamedTuple):
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
    bias: tf.Tensor  # [rows] float32, 0 or, for masked columns, NEVER
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
        of_row, of_column = (tf.where(same, NEVER, x) for x in (of_row, of_column))
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

    def shared(self, x: tf.Tensor, group: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """A tile [tile, rows] with what is of a row's own group divided by the group's size."""
        if not self.grouped:
            return x

        def divided() -> tf.Tensor:
            return tf.where(self.group == group[:, tf.newaxis], x / sizes[:, tf.newaxis], x)

        return tf.cond(self.repeated, divided, lambda: x)

    def of_group(
        self,
        own: tf.Tensor,
        scale: tf.Tensor,
        image: tf.Tensor,
        text: tf.Tensor,
        group_images: tf.Tensor,
    ) -> tf.Tensor:
        """The mean of a text's logits with its group's images, given that with its `own`.

        As a difference, which is exactly 0 for a pair that is alone. Summed over a group it is that
        of images with texts, whose means nobody needs where the image tower is locked.
        """
        if not self.grouped:
            return own
        return own + scale * tf.reduce_sum(text * (group_images - image), axis=1)


def gather(
    image: tf.Tensor,
    text: tf.Tensor,
    mask: tf.Tensor | None,
    local: bool,
    groups: tf.Tensor | None,
    accuracies: bool,
) -> GlobalBatch:
    """Gathers the rows of all replicas, with `local` those of this one alone."""
    of_all = tf.identity if local else distribution.all_gather
    images, texts = of_all(image), of_all(text)
    count, rows = length(image), length(images)
    index = tf.range(count)
    if not local:
        index += distribution.replica_id() * count
    own_weights = tf.ones([count]) if mask is None else float32(mask)
    weights = tf.ones([rows]) if mask is None else of_all(own_weights)
    pairs = tf.maximum(tf.reduce_sum(weights), 1.0)
    if local:
        pairs *= distribution.replica_count()
    bias, own_bias = ((1.0 - w) * NEVER for w in (weights, own_weights))
    group, own_group, sizes, repeated = tf.range(rows), index, tf.ones([count]), False
    if groups is not None:
        group = _numbered(of_all(tf.cast(groups, tf.int64)))
        own_group = tf.gather(group, index)
        sizes = tf.gather(tf.math.unsorted_segment_sum(weights, group, rows), own_group)
        sizes = tf.maximum(sizes, 1.0)
        repeated = tf.reduce_max(group) < tf.cast(rows, tf.int32) - 1
    return GlobalBatch(
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

"""The only place that gathers across replicas."""

import tensorflow as tf


def replica_count() -> int:
    """The number of replicas that share a global batch; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_id() -> tf.Tensor | int:
    """This replica's place among them, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if replica_count() == 1 or context is None else context.replica_id_in_sync_group


def all_gather(rows: tf.Tensor) -> tf.Tensor:
    """Joins the rows of all replicas, in the order of their ids: [b, ...] -> [replicas * b, ...].

    Not differentiable by design: the losses know the whole gradient of their own rows, so that no
    collective is needed in the backward pass. Call it at the top level of a step, never inside a
    loop or a condition.
    """
    if replica_count() == 1:
        return rows
    gathered = tf.distribute.get_replica_context().all_gather(rows, axis=0)
    count = None if rows.shape[0] is None else rows.shape[0] * replica_count()
    return tf.ensure_shape(gathered, [count, *rows.shape[1:]])

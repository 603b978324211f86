"""The only place that knows of replicas, workers and batches that these do not divide."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def replica_count() -> int:
    """The number of replicas that share a global batch; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def on_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas are TPU cores, which want equal shapes in each step."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def on_cpus() -> bool:
    """Whether TensorFlow sees CPUs alone; a TPU may be of another machine."""
    devices = {x.device_type for x in tf.config.list_physical_devices()}
    return devices == {"CPU"} and not on_tpu(tf.distribute.get_strategy())


def on_cpu_replicas(strategy: tf.distribute.Strategy) -> bool:
    """Whether several of a strategy's replicas are CPU devices of this process."""
    if strategy.num_replicas_in_sync == 1:  # The default strategy does not tell its device.
        return False
    devices = strategy.extended.worker_devices
    return len(devices) > 1 and "device:CPU" in devices[0]


def replica_id() -> tf.Tensor | int:
    """This replica's place among them, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if replica_count() == 1 or context is None else context.replica_id_in_sync_group


def all_gather(rows: tf.Tensor) -> tf.Tensor:
    """Joins the rows of all replicas, in the order of their ids: [b, ...] -> [replicas * b, ...].

    Not differentiable by design: the losses know the whole gradient of their own rows, so that no
    collective is needed in the backward pass. Call it at the top level of a step, never inside a
    loop or a condition.

    Raises:
        tf.errors.InvalidArgumentError: replicas hold different numbers of rows.
    """
    replicas = replica_count()
    if replicas == 1:
        return rows
    gathered = tf.distribute.get_replica_context().all_gather(rows, axis=0)
    expected = replicas * tf.shape(rows)[0]
    message = (
        "All replicas should hold the same number of pairs. Batch the dataset with a multiple of "
        f"the {replicas} replicas and `drop_remainder=True`. Received (expected, found):"
    )
    equal = tf.shape(gathered)[0] == expected
    assertion = tf.debugging.Assert(equal, [message, expected, tf.shape(gathered)[0]])
    with tf.control_dependencies([assertion] if assertion is not None else []):
        gathered = tf.identity(gathered)
    count = None if rows.shape[0] is None else rows.shape[0] * replicas
    return tf.ensure_shape(gathered, [count, *rows.shape[1:]])


def sum_over_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums scalars over all replicas, in one collective; every replica gets the same sums."""
    if replica_count() == 1:
        return values
    return tf.unstack(tf.reduce_sum(all_gather(tf.stack(values)[tf.newaxis]), axis=0))


def logs(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Scalars as Keras 3.15 wants them from a step: over several workers it averages axis 0."""
    if has_workers():
        return {name: tf.reshape(value, [1]) for name, value in values.items()}
    return values


def of_one_replica(variable: tf.Variable) -> tf.Variable:
    """What a variable is on the first replica here; one that is not distributed is itself."""
    strategy = getattr(variable, "distribute_strategy", None)
    return variable if strategy is None else strategy.experimental_local_results(variable)[0]


def on_replicas(function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> np.ndarray:
    """`function(rows)` for inference, of which each replica of this process computes a part.

    Several workers compute all rows each, without talking to each other.
    """
    replicas = 1 if has_workers() else replica_count()
    if replicas == 1:
        return function(rows).numpy()
    size = -(-len(rows) // replicas)
    filled = tf.concat([rows, tf.repeat(rows[:1], size * replicas - len(rows), axis=0)], axis=0)
    strategy = tf.distribute.get_strategy()
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: filled[context.replica_id_in_sync_group * size :][:size]
    )
    results = strategy.experimental_local_results(strategy.run(function, (shares,)))
    return np.concatenate([result.numpy() for result in results])[: len(rows)]


def of_workers(number: int) -> list[int]:
    """Each worker's number (once for each of its replicas), on all workers."""
    if not has_workers():
        return [number]
    strategy = tf.distribute.get_strategy()
    gathered = strategy.run(tf.function(lambda: all_gather(tf.constant([number], tf.int64))))
    return strategy.experimental_local_results(gathered)[0].numpy().tolist()


def arrays_of_workers(array: np.ndarray) -> list[np.ndarray]:
    """Each worker's array [n, ...], whose n may differ, on all workers."""
    if not has_workers():
        return [array]
    strategy = tf.distribute.get_strategy()
    counts = of_workers(len(array))
    padding = [(0, max(counts) - len(array)), *[(0, 0)] * (array.ndim - 1)]
    padded = tf.constant(np.pad(array, padding))
    gathered = strategy.run(tf.function(lambda: all_gather(tf.identity(padded))))
    rows = np.split(strategy.experimental_local_results(gathered)[0].numpy(), len(counts))
    each = len(strategy.extended.worker_devices)  # Replicas of a worker.
    return [part[:count] for part, count in zip(rows, counts, strict=True)][::each]


def in_turns(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """This worker's batches of a dataset that all workers read; a part stays as it is."""
    if not has_workers() or is_part(dataset):
        return dataset
    strategy = tf.distribute.get_strategy()
    workers = replica_count() // len(strategy.extended.worker_devices)
    return dataset.shard(workers, strategy.cluster_resolver.task_id)


def agreed(number: int) -> int:
    """The first worker's number, on all workers: for seeds that they should share."""
    return of_workers(number)[0]


def has_workers() -> bool:
    """Whether several processes train together."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def is_chief() -> bool:
    """Whether this process is the one that writes for all workers: the first, or the only one."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    return resolver is None or resolver.task_id in (0, None)


def is_part(dataset: tf.data.Dataset) -> bool:
    """Whether this worker's dataset is its part of the data: its auto-shard policy is OFF."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return has_workers() and policy == tf.data.experimental.AutoShardPolicy.OFF


def share_out(
    batches: tf.data.Dataset, whole_batches: bool
) -> tuple[tf.data.Dataset, Callable[..., tf.data.Dataset]]:
    """Makes batches that the replicas divide, and a function that cuts out a worker's own rows.

    A batch that the replicas do not divide is filled up with its first row; the "mask" is False
    for such rows. All workers read the same batches, unless each has its part (`is_part`), of which
    it adds an equal share to each step; then an epoch has as many steps as the worker with the
    fewest rows can fill. With `whole_batches` only the last batch may be uneven.

    Returns the batches, and a function from (batches, a `tf.distribute.InputContext`) to a dataset
    of the consecutive rows of each replica of that worker, one replica after the other.
    """
    replicas, part = replica_count(), is_part(batches)
    batches = batches.enumerate().map(
        lambda index, batch: _filled_up(batch, replicas, (index == 0) & whole_batches)
    )
    if part:
        batches = _own_rows(batches, replicas)

    def rows_of_worker(
        batches: tf.data.Dataset, context: tf.distribute.InputContext
    ) -> tf.data.Dataset:
        here = replicas // context.num_input_pipelines

        def rows_by_replica(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            def split(x: tf.Tensor) -> tf.Tensor:
                size = _rows(x) // (here if part else replicas)
                first = 0 if part else context.input_pipeline_id * here * size
                return tf.reshape(x[first : first + here * size], [here, size, *x.shape[1:]])

            return {name: split(x) for name, x in batch.items()}

        return batches.map(rows_by_replica, tf.data.AUTOTUNE).unbatch()

    return batches, rows_of_worker


def _filled_up(
    batch: dict[str, tf.Tensor], replicas: int, refuse: tf.Tensor
) -> dict[str, tf.Tensor]:
    rows = next(iter(batch.values()))
    size = tf.shape(rows)[0]
    message = (
        f"The global batch should be a multiple of the {replicas} replicas. Batch the pairs with "
        "such a number. Received a batch of:"
    )
    even = tf.debugging.Assert(~refuse | (size % replicas == 0), [message, size])
    if rows.shape[0] is not None and rows.shape[0] % replicas == 0:
        return batch
    with tf.control_dependencies([even]):
        index = tf.range(-(-size // replicas) * replicas)
    filled = {name: tf.gather(x, tf.where(index < size, index, 0)) for name, x in batch.items()}
    return {**filled, "mask": index < size}


def _own_rows(batches: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Cuts a part's batches, as large as a global one, into what this worker adds to each step."""
    workers = replicas // len(tf.distribute.get_strategy().extended.worker_devices)

    def cut(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [workers, _rows(x) // workers, *x.shape[1:]])

    steps = min(of_workers(int(batches.cardinality()) * workers))
    rows = batches.map(lambda batch: {name: cut(x) for name, x in batch.items()}).unbatch()
    if steps < 0:
        return rows
    return rows.take(steps).apply(tf.data.experimental.assert_cardinality(steps))


def _rows(x: tf.Tensor) -> Any:
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]

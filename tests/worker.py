"""One worker of test_distribution: python -m tests.worker WORKERS DIRECTORY, with TF_CONFIG set."""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

if __name__ == "__main__":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from tests.test_distribution import OPTIMIZERS, part, train

    workers, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    assert strategy.num_replicas_in_sync == workers
    index = strategy.cluster_resolver.task_id
    runs = {name: (name, None) for name in OPTIMIZERS} | {"part": ("sgd", part(workers, index))}
    for name, (optimizer, pairs) in runs.items():
        *logs, weights = train(strategy, optimizer, pairs=pairs)
        np.savez(directory / f"{name}-{index}.npz", **weights)
        (directory / f"{name}-{index}.json").write_text(json.dumps(logs, default=float))

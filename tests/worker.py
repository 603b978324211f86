"""The workers of test_distribution: python -m tests.worker DIRECTORY JOB..., with TF_CONFIG set.

A job is an optimizer to train with, "part" (each worker has a part of the pairs), "callbacks",
"align" or "example" (examples/train_multiworker.py on DIRECTORY/photos, with small towers).
"""

import contextlib
import functools
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

import keras_lit

ROOT = pathlib.Path(__file__).parent.parent


@contextlib.contextmanager
def started(workers, directory, jobs):
    """Workers on this machine, which have ended well after the block."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    command = [sys.executable, "-m", "tests.worker", str(directory), *jobs]
    processes = []
    for i in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        log = (directory / f"{i}.log").open("w")
        processes.append(
            subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        )
    try:
        yield
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * workers, (directory / "0.log").read_text()[-3000:]


def train_job(strategy, job, directory):
    """History, evaluation and weights, as test_distribution reads them."""
    from tests.test_distribution import part, train

    index = strategy.cluster_resolver.task_id
    pairs = part(strategy.num_replicas_in_sync, index) if job == "part" else None
    optimizer = "sgd" if job == "part" else job
    *logs, weights = train(strategy, optimizer, pairs=pairs, evaluated=job == "sgd")
    np.savez(directory / f"{job}-{index}.npz", **weights)
    (directory / f"{job}-{index}.json").write_text(json.dumps(logs, default=float))


def callbacks_job(strategy, directory):
    """The history of a fit with the callbacks that evaluate."""
    from tests.callbacks.test_evaluation import all_three
    from tests.small import make_model, make_pairs

    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.0))
    pairs = make_pairs(24).batch(8)
    history = model.fit(pairs, epochs=1, verbose=0, callbacks=all_three()).history
    path = directory / f"callbacks-{strategy.cluster_resolver.task_id}.json"
    path.write_text(json.dumps(history, default=float))


def align_job(strategy, directory):
    """Similarities after `align`: of the pairs that all read, and of a part for each."""
    from tests.test_distribution import aligned, part

    index = strategy.cluster_resolver.task_id
    of_part = part(strategy.num_replicas_in_sync, index)
    found = [aligned(strategy), aligned(strategy, of_part)]
    np.savez(directory / f"align-{index}.npz", *found)


def example_job(strategy, directory):
    """As on a cluster, without --workers; a process can have one such strategy only."""
    from tests import reader

    script = ROOT / "examples" / "train_multiworker.py"
    paths = ["--dataset", directory / "photos", "--output", directory / "example"]
    arguments = [script, *paths, "--epochs", 1, "--batch-size", 32]
    small = {"Ti": (16, 1, 32, 2)}
    with (
        mock.patch.object(keras_lit.demo, "efficientnet_lite0", lambda _: reader.image_tower()),
        mock.patch.dict(keras_lit.backbones.text_transformer.SIZES, small),
        mock.patch.object(sys, "argv", [*map(str, arguments)]),
    ):
        example = runpy.run_path(str(script))
        example["train"](strategy, example["parse_arguments"]())


OTHERS = {"callbacks": callbacks_job, "align": align_job, "example": example_job}

if __name__ == "__main__":
    ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)  # See conftest.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    directory, *jobs = sys.argv[1:]
    assert strategy.num_replicas_in_sync == len(
        json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    )
    for job in jobs:
        if job in OTHERS:
            OTHERS[job](strategy, pathlib.Path(directory))
        else:
            train_job(strategy, job, pathlib.Path(directory))

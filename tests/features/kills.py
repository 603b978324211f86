"""Kills a job again and again: python -m tests.features.kills JOB DIRECTORY KILLS SEED.

The job ("precompute" or "train") runs in a forked process, which is killed (-9) after a random time,
KILLS times, and then runs to its end. It prints how far the job had come at each kill.
"""

import os
import pathlib
import random
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_lit
from tests.features import small


def precompute(directory):
    """As much work for a shard as the other kinds of files take."""
    small.precompute(directory, pairs=small.make_pairs(60), shards=15)


def train(directory):
    """With everything that has a state: shuffle, dropout, momentum, random crops."""
    keras.utils.set_random_seed(3)
    cache = directory.parent / "cache"
    tokenizer = keras_lit.tokenizers.train_wordpiece(["caption number 0123456789"], 60)
    text = keras_lit.TextTower(
        keras_lit.backbones.TextTransformer(60, 8, 16, 1, 32, 4, dropout=0.2), tokenizer, 8
    )
    model = keras_lit.LiT(keras_lit.features.image_tower(cache, projection_dim=8), text)
    model.compile(keras.optimizers.Adam(1e-2))
    resume = keras_lit.callbacks.ExactResume(directory / "resume", save_freq=3)
    pairs = keras_lit.features.load(cache, shuffle=True, seed=4).batch(4)
    model.fit(pairs, epochs=12, verbose=0, callbacks=[resume])
    np.savez(directory / "weights.npz", *model.get_weights())


def progress(directory):
    return len(list(directory.rglob("*"))), sum(
        p.stat().st_mtime_ns for p in directory.rglob("*.npz")
    )


def run_child(job, directory):
    pid = os.fork()
    if pid == 0:
        JOBS[job](directory)
        os._exit(0)
    return pid


JOBS = {"precompute": precompute, "train": train}

if __name__ == "__main__":
    job, directory, kills = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(int(sys.argv[4]))
    assert tf.executing_eagerly()
    killed = 0
    while killed < kills:
        before = progress(directory)
        pid = run_child(job, directory)
        # Most kills come soon after the first new file; some come earlier.
        until = time.time() + chance.uniform(0, 3)
        while (
            chance.random() < 0.999 and progress(directory) == before and time.time() < until + 60
        ):
            if os.waitpid(pid, os.WNOHANG)[0]:
                pid = 0
                break
            time.sleep(0.005)
        if not pid:
            break
        time.sleep(chance.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed += 1
        print(f"kill {killed}: {len(list(directory.rglob('*')))} files", flush=True)
    if killed == kills:
        _, status = os.waitpid(run_child(job, directory), 0)
        assert status == 0
    print(f"survived {killed} kills")

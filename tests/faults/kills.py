"""Kills jobs again and again: python -m tests.faults.kills DIRECTORY SEED JOB=KILLS...

Each job ("precompute", "train", "prepare" or "index") runs in a forked process, in the folder of DIRECTORY that has
its name and its data; the process is killed (-9) after a random time, KILLS times, and then runs to its end ("killed-0"
and so on, when it came there before). Once before that it runs undisturbed ("killed-whole").
"""

import contextlib
import gc
import os
import pathlib
import random
import runpy
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tests.conftest  # isort: skip  # noqa: F401  # Each process makes its graphs anew.
import keras
import numpy as np
import tensorflow_datasets  # noqa: F401  # Else each process imports it.

import keras_lit
from keras_lit.search import store, updating, writing
from tests import small

store.STEP = updating.STEP = writing.STEP = 8  # So that a few pictures leave holes to be closed.
EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"


def precompute(directory):
    """As much work for a shard as the other kinds of files take."""
    small.precompute(directory, pairs=small.encoded_pairs(60), shards=15)


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
    model.fit(pairs, epochs=4, verbose=0, callbacks=[resume])
    np.savez(directory / "weights.npz", *model.get_weights())


def prepare(directory):
    """Photos to shards of four pairs."""
    arguments = f"--source {directory.parent / 'photos'} --rules none --max-distance -1"
    output = ["--images-per-shard", "4", "--output", str(directory / "prepared")]
    sys.argv = ["prepare_data.py", *arguments.split(), *output]
    runpy.run_path(str(EXAMPLES / "prepare_data.py"), run_name="__main__")


def index(directory):
    """Pictures that are indexed, then others: most are removed, so that the files are written anew."""
    built = directory / "built"
    before, after = (directory.parent / name for name in ("before", "after"))
    options = {"batch_size": 4, "verbose": 0}
    if not built.exists():
        keras_lit.search.Index.build(small.make_model(), before, directory / "index", **options)
        built.touch()
    keras_lit.search.Index(directory / "index", small.make_model()).update(after, **options)


def check_index(directory, known):
    """It can be read at once, and holds what is whole; a build loses none of the ids of `known`."""
    if not (directory / "index" / "index.sqlite").exists():
        return known
    try:
        found = store.Store(directory / "index")
    except FileNotFoundError:  # Killed before the first picture.
        return known
    with found.reading() as (database, snapshot):
        ids = {number for (number,) in database.execute("SELECT id FROM pictures")}
        rows = snapshot.arrays["vectors"][: len(snapshot.alive)][snapshot.alive]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert known <= ids or (directory / "built").exists()
    return ids


def progress(directory):
    """Changes with each file, and each transaction of an index; files may go while it looks."""
    names, changed = 0, []
    for folder, folders, files in os.walk(directory):  # Passes over a folder that has gone.
        names += len(folders) + len(files)
        for name in files:
            if name.endswith((".npz", "-wal")) or name.startswith("vectors-"):
                with contextlib.suppress(FileNotFoundError):
                    changed.append(os.stat(os.path.join(folder, name)).st_mtime_ns)
    return names, sum(changed)


def run_child(job, directory):
    pid = os.fork()
    if pid == 0:
        JOBS[job](directory)
        os._exit(0)
    return pid


JOBS = {"precompute": precompute, "train": train, "prepare": prepare, "index": index}


def kill_once(job, directory):
    """Whether the job was killed; else it has come to its end."""
    before = progress(directory)
    pid = run_child(job, directory)
    # Most kills come soon after a new file, some before one.
    early = time.time() + chance.uniform(0, 3) if chance.random() < 0.2 else float("inf")
    while progress(directory) == before and time.time() < early:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0
            return False
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.1 if job == "prepare" else 0.3))  # It writes that fast.
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    # What `prepare` writes comes into its place whole; killed after that, it has come to its end.
    return status != 0 and not (directory / "prepared").exists()


def put_away(directory, index):
    """The result of a job that has come to its end."""
    directory.rename(directory.with_name(f"{directory.name}-{index}"))


def kill_often(job, directory, kills):
    """The job is killed so many times, and comes to its end before, between and after that."""
    directory.mkdir(parents=True)
    assert os.waitpid(run_child(job, directory), 0)[1] == 0
    put_away(directory, "whole")
    killed = finished = 0
    known = set()
    while killed < kills:
        directory.mkdir(parents=True, exist_ok=True)
        if kill_once(job, directory):
            killed += 1
            if job == "index":
                known = check_index(directory, known)
            print(f"{job}, kill {killed}: {len(list(directory.rglob('*')))} files", flush=True)
        else:
            put_away(directory, finished)
            known, finished = set(), finished + 1
    directory.mkdir(parents=True, exist_ok=True)
    assert os.waitpid(run_child(job, directory), 0)[1] == 0
    put_away(directory, finished)
    print(f"{job} survived {killed} kills; finished {finished + 1} times", flush=True)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # What was imported is looked through, and so copied, by no process.
    chance = random.Random(int(sys.argv[2]))
    for argument in sys.argv[3:]:
        job, kills = argument.split("=")
        kill_often(job, pathlib.Path(sys.argv[1]) / job / "killed", int(kills))

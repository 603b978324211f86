"""Versions appear whole or not at all, also when a process is killed or a server polls."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from keras_lit.export import prune, save
from keras_lit.export.publishing import publish, versions

TESTS = pathlib.Path(__file__).parent.parent


def one_file(path):
    path.mkdir()
    (path / "file").write_text("whole")


def test_the_next_free_version(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "tmp-99").mkdir()
    assert publish(tmp_path, None, one_file) == tmp_path / "8"
    assert publish(tmp_path, 12, one_file) == tmp_path / "12"
    assert publish(tmp_path, None, one_file).name == "13"
    for taken in (8, 12):
        with pytest.raises(ValueError, match=f"does not hold yet. Received: {taken}"):
            publish(tmp_path, taken, one_file)
    with pytest.raises(ValueError, match="`version` should be at most 9223372036854775807"):
        publish(tmp_path, 2**63, one_file)
    (tmp_path / str(10**20)).mkdir()  # Which TF Serving passes over.
    assert publish(tmp_path, None, one_file).name == "14"
    (tmp_path / "14").rename(tmp_path / "old")
    for wrong in (0, -3, 2.5):
        with pytest.raises(ValueError, match="`version` should be a positive whole number"):
            publish(tmp_path, wrong, one_file)
    (tmp_path / "0014").mkdir()  # TF Serving reads it as 14.
    with pytest.raises(ValueError, match="Received: 14"):
        publish(tmp_path, 14, one_file)


def test_another_process_takes_the_name_meanwhile(tmp_path):
    def slowly(path):
        one_file(path)
        publish(tmp_path, 1, one_file)

    assert publish(tmp_path, None, slowly).name == "2"
    with pytest.raises(ValueError, match="Received: 3"):
        publish(tmp_path, 3, lambda path: (one_file(path), publish(tmp_path, 3, one_file)))


def test_a_failure_leaves_nothing(tmp_path):
    def fail(path):
        one_file(path)
        assert versions(tmp_path) == []
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, None, fail)
    assert list(tmp_path.iterdir()) == []


def test_prune(tmp_path):
    for version in (1, 2, 9, 10):
        publish(tmp_path, version, one_file)
    assert prune(tmp_path, keep=3) == [1]
    assert prune(tmp_path) == [2]
    assert prune(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "9"]
    with pytest.raises(ValueError, match="`keep` should be a positive number"):
        prune(tmp_path, keep=0)


@pytest.mark.slow
def test_a_server_that_polls_never_fails(saved, tmp_path):
    """Ten versions appear while a loader loads the newest again and again; then nine go."""
    first = save(saved.model, tmp_path, towers="text")
    loaded, failures, stop = [], [], threading.Event()

    def poll():
        while not stop.is_set():
            version = versions(tmp_path)[-1]
            try:
                served = tf.saved_model.load(str(tmp_path / str(version)))
                served.signatures["encode_text"](text=tf.constant(["a red dog"]))
                loaded.append(version)
            except Exception as error:
                failures.append((version, error))

    poller = threading.Thread(target=poll)
    poller.start()
    for _ in range(9):
        publish(tmp_path, None, lambda path: shutil.copytree(first, path))
        time.sleep(0.3)
    while not failures and (not loaded or loaded[-1] != 10):
        time.sleep(0.05)
    assert prune(tmp_path, keep=1) == list(range(1, 10))
    count = len(loaded)
    while not failures and len(loaded) < count + 3:
        time.sleep(0.05)
    stop.set()
    poller.join()
    assert not failures and len(set(loaded)) > 2 and versions(tmp_path) == [10]


SAVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from small import make_model
import keras_lit
parent = os.getpid()
for directory in sys.argv[2:]:
    if (child := os.fork()) == 0:  # What was imported is there.
        model = make_model()
        while os.getppid() == parent:
            keras_lit.export.save(model, directory, towers="text")
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_kill_9_leaves_no_half_version(saved, tmp_path):
    moments = {"start": "tmp-*", "middle": "tmp-*/version/variables/*"}
    directories = {name: tmp_path / name for name in moments}
    command = [sys.executable, "-c", SAVER, TESTS, *directories.values()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        for name, directory in directories.items():
            child = int(process.stdout.readline())
            while not list(directory.glob(moments[name])):
                os.kill(child, 0)  # It runs.
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
    for directory in directories.values():
        assert versions(directory) == [] and list(directory.glob("tmp-*"))
        assert save(saved.model, directory, towers="text").name == "1"

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
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="`version` should be a positive number"):
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
import sys
sys.path.insert(0, sys.argv[1])
from small import make_model
import keras_lit
model = make_model()
print("ready", flush=True)
while True:
    keras_lit.export.save(model, sys.argv[2], towers="text")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tmp-*", "tmp-*/version/variables/*"])
def test_kill_9_leaves_no_half_version(moment, saved, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(TESTS), str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        while not list(tmp_path.glob(moment)):
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert versions(tmp_path) == [] and list(tmp_path.glob("tmp-*"))
    assert save(saved.model, tmp_path, towers="text").name == "1"

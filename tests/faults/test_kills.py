"""Killed (-9) at random moments, again and again: nothing is lost and nothing is done twice.

KERAS_LIT_KILLS=50 python -m pytest -m slow tests/faults/test_kills.py    # 28 in all by default
"""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from tests import small
from tests.small import files, precompute

ROOT = pathlib.Path(__file__).parent.parent.parent
# A start of the cheapest takes seconds. Two more kills are in tests/export/test_publishing.py.
KILLS = {"precompute": 9, "train": 5, "prepare": 7, "index": 7}
if "KERAS_LIT_KILLS" in os.environ:
    KILLS = dict.fromkeys(KILLS, int(os.environ["KERAS_LIT_KILLS"]))

pytestmark = pytest.mark.slow


def run(job, directory, kills):
    """What an undisturbed run wrote, and what those that were killed and began again did."""
    command = [sys.executable, "-m", "tests.faults.kills", job, directory, str(kills), "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert f"survived {kills} kills" in child.stdout, child.stdout + child.stderr[-2000:]
    print(child.stdout)
    killed = sorted(directory.parent.glob(f"{directory.name}-[0-9]*"))
    assert killed
    return directory.with_name(f"{directory.name}-whole"), killed


def test_precompute(tmp_path):
    whole, killed = run("precompute", tmp_path / "killed", KILLS["precompute"])
    for directory in killed:
        assert files(directory) == files(whole)


def test_prepare(tmp_path, photos):
    whole, killed = run("prepare", tmp_path / "killed", KILLS["prepare"])
    assert len(files(whole)) == 21
    for directory in killed:
        assert files(directory) == files(whole)


def test_train(tmp_path):
    precompute(tmp_path / "cache", pairs=small.encoded_pairs(60))
    whole, killed = run("train", tmp_path / "killed", KILLS["train"])
    expected = np.load(whole / "weights.npz")
    assert len(expected.files) > 10
    for directory in killed:
        found = np.load(directory / "weights.npz")
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def test_index(tmp_path):
    """What is in the database, and its vectors, are those of an undisturbed run."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    contents = [x["image"] for x in small.encoded_pairs(48).as_numpy_iterator()]
    for i, content in enumerate(contents[:40]):
        (before / f"{i:02}.png").write_bytes(content)
    after.mkdir()
    for i in range(32, 40):
        shutil.copy(before / f"{i}.png", after / f"{i + i % 2}{'n' * (i % 2)}.png")
    for i, content in enumerate([*contents[40:], contents[39]]):
        (after / f"new{i}.png").write_bytes(content)
    whole, killed = run("index", tmp_path / "killed", KILLS["index"])

    def rows(directory):
        with contextlib.closing(sqlite3.connect(directory / "index" / "index.sqlite")) as database:
            query = "SELECT name, hash, row FROM pictures ORDER BY name"
            names, hashes, numbers = zip(*database.execute(query).fetchall(), strict=True)
        (file,) = (directory / "index").glob("vectors-*")
        return names, hashes, np.fromfile(file, "float32").reshape(-1, 16)[list(numbers)]

    names, hashes, vectors = rows(whole)
    assert names == tuple(sorted(path.name for path in after.iterdir()))
    for directory in killed:
        assert rows(directory)[:2] == (names, hashes)
        np.testing.assert_array_equal(rows(directory)[2], vectors)

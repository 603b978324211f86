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
KILLS = {"precompute": 10, "train": 4, "prepare": 7, "index": 7}
if "KERAS_LIT_KILLS" in os.environ:
    KILLS = dict.fromkeys(KILLS, int(os.environ["KERAS_LIT_KILLS"]))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for each job, with what it reads."""
    folder = tmp_path_factory.mktemp("jobs")
    for job in KILLS:
        (folder / job).mkdir()
    precompute(folder / "train" / "cache", pairs=small.encoded_pairs(60))
    write_table(folder / "prepare" / "photos")
    write_pictures(folder / "index" / "before", folder / "index" / "after")
    return folder


def write_table(photos):
    """Eighty pictures and their captions."""
    photos.mkdir()
    rows = ["image,caption"]
    for i, pair in enumerate(small.encoded_pairs(80).as_numpy_iterator()):
        (photos / f"{i}.png").write_bytes(pair["image"])
        rows.append(f"{i}.png,{pair['text'].decode()}")
    (photos / "captions.csv").write_text("\n".join(rows))


def write_pictures(before, after):
    """Forty, of which eight are left, four of them by another name; and nine others."""
    before.mkdir()
    contents = [x["image"] for x in small.encoded_pairs(48).as_numpy_iterator()]
    for i, content in enumerate(contents[:40]):
        (before / f"{i:02}.png").write_bytes(content)
    after.mkdir()
    for i in range(32, 40):
        shutil.copy(before / f"{i}.png", after / f"{i + i % 2}{'n' * (i % 2)}.png")
    for i, content in enumerate([*contents[40:], contents[39]]):
        (after / f"new{i}.png").write_bytes(content)


@pytest.fixture(scope="module")
def printed(folder):
    """What all jobs print: one process, which has imported all, runs them, one after the other."""
    jobs = [f"{job}={kills}" for job, kills in KILLS.items()]
    command = [sys.executable, "-m", "tests.faults.kills", folder, "1", *jobs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    print(child.stdout)
    return child.stdout + child.stderr[-2000:]


@pytest.fixture
def run(folder, printed):
    """What an undisturbed run wrote, and what those that were killed and began again did."""

    def run(job):
        assert f"{job} survived {KILLS[job]} kills" in printed, printed
        killed = sorted((folder / job).glob("killed-[0-9]*"))
        assert killed
        return folder / job / "killed-whole", killed

    return run


def test_precompute(run):
    whole, killed = run("precompute")
    for directory in killed:
        assert files(directory) == files(whole)


def test_prepare(run):
    whole, killed = run("prepare")
    assert len(files(whole)) == 21
    for directory in killed:
        assert files(directory) == files(whole)


def test_train(run):
    whole, killed = run("train")
    expected = np.load(whole / "weights.npz")
    assert len(expected.files) > 10
    for directory in killed:
        found = np.load(directory / "weights.npz")
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def test_index(run, folder):
    """What is in the database, and its vectors, are those of an undisturbed run."""
    whole, killed = run("index")

    def rows(directory):
        with contextlib.closing(sqlite3.connect(directory / "index" / "index.sqlite")) as database:
            query = "SELECT name, hash, row FROM pictures ORDER BY name"
            names, hashes, numbers = zip(*database.execute(query).fetchall(), strict=True)
        (file,) = (directory / "index").glob("vectors-*")
        return names, hashes, np.fromfile(file, "float32").reshape(-1, 16)[list(numbers)]

    names, hashes, vectors = rows(whole)
    assert names == tuple(sorted(x.name for x in (folder / "index" / "after").iterdir()))
    for directory in killed:
        assert rows(directory)[:2] == (names, hashes)
        np.testing.assert_array_equal(rows(directory)[2], vectors)

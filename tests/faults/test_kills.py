"""Killed (-9) at random moments, again and again: nothing is lost and nothing is done twice.

KERAS_LIT_KILLS=50 python -m pytest -m slow tests/faults/test_kills.py    # 28 in all by default
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import small
from tests.small import files, precompute

ROOT = pathlib.Path(__file__).parent.parent.parent
# A start of the cheapest takes seconds. Two more kills are in tests/export/test_publishing.py.
KILLS = {"precompute": 9, "train": 5, "prepare": 14}
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

"""Versions for a server: killed or starved at any moment, those that are there are whole."""

import random
import shutil

import pytest

from keras_lit.export import prune, save
from keras_lit.export.publishing import publish, versions
from tests.faults import faults
from tests.faults.faults import NUMBERS
from tests.small import files, make_model

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """run(fault): publishes an artifact of a few files."""
    artifact = tmp_path / "artifact"
    for name in ("saved_model.pb", "variables/variables.index", "assets/vocabulary.txt"):
        (artifact / name).parent.mkdir(parents=True, exist_ok=True)
        (artifact / name).write_bytes(name.encode() * 1000)
    directory = tmp_path / "models"

    def run(fault=None):
        publish(directory, None, lambda path: shutil.copytree(artifact, path))

    run.directory, run.whole = directory, files(artifact)
    return run


def check(run):
    for version in versions(run.directory):
        assert files(run.directory / str(version)) == run.whole


def test_killed(run):
    chance = random.Random(0)
    total = faults.count(run.directory, run)
    assert total >= 8
    for _ in range(NUMBERS["publishing killed"]):
        before = versions(run.directory)
        assert faults.killed(run.directory, chance.randint(1, total), run)
        assert versions(run.directory)[: len(before)] == before
        check(run)
    run()
    check(run)


def test_starved(run):
    chance = random.Random(1)
    for number in range(NUMBERS["publishing starved"]):
        if number % 2:
            assert faults.limited(chance.randrange(13_000), run) is not None
        else:
            assert faults.full(run.directory, chance.randint(1, 9), run) is not None
    assert not run.directory.exists() or not list(run.directory.iterdir())
    run()
    assert versions(run.directory) == [1]
    check(run)


def test_pruning_killed(run):
    chance = random.Random(2)
    run()
    for _ in range(NUMBERS["pruning killed"]):
        run(), run()
        newest = versions(run.directory)[-1]
        assert faults.killed(
            run.directory, chance.randint(1, 6), lambda fault: prune(run.directory, keep=1)
        )
        assert versions(run.directory)[-1] == newest
        check(run)
    prune(run.directory, keep=1)
    assert versions(run.directory) == [newest]


def test_export_starved(tmp_path):
    """TensorFlow writes the files of an artifact itself."""
    chance = random.Random(3)
    model = make_model()
    for _ in range(NUMBERS["export starved"]):
        error = faults.limited(
            chance.randrange(5_000), lambda: save(model, tmp_path, towers="text")
        )
        assert str(tmp_path) in str(error)
        assert list(tmp_path.iterdir()) == []
    assert save(model, tmp_path, towers="text").name == "1"

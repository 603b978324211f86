"""Precomputed features: killed, starved or damaged, they end whole or with a named error."""

import random
import shutil

import pytest
import tensorflow as tf

import keras_lit
from keras_lit.features import feature_rows, tfrecords
from tests import small
from tests.faults import faults
from tests.faults.faults import NUMBERS
from tests.small import files

pytestmark = pytest.mark.slow

SHARDS = 5


@pytest.fixture(scope="module")
def run():
    """precompute(directory), with a point at each row; images are decoded and encoded once."""
    tower, pairs = small.make_tower(), small.encoded_pairs()
    encode, prepare = feature_rows.encoder(tower, small.BATCH), feature_rows.prepare
    serialize, batches = tfrecords.serialize, []

    def prepared(dataset, tower, plan, start):
        if not batches:
            batches.extend(prepare(pairs, tower, plan, 0))
        stop = min(int(dataset.cardinality()), small.COUNT)
        return batches[start // small.BATCH : -(-stop // small.BATCH)]

    def run(directory, fault=None):
        def rows(features, found):
            for item in serialize(features, found):
                if fault is not None:
                    fault.point()
                yield item

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tfrecords, "serialize", rows)
            patch.setattr(feature_rows, "prepare", prepared)
            patch.setattr(feature_rows, "encoder", lambda *_: encode)
            small.precompute(directory, tower, pairs, shards=SHARDS)

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    small.precompute(directory, shards=SHARDS)
    return directory


def read(directory):
    return [
        {name: value.tobytes() if name != "text" else value for name, value in row.items()}
        for row in keras_lit.features.load(directory).as_numpy_iterator()
    ]


def test_killed(run, whole, tmp_path):
    chance = random.Random(0)
    total = faults.count(tmp_path, lambda fault: run(tmp_path / "count", fault))
    assert total > 22 + 3 * SHARDS
    injected, number = 0, 0
    while injected < NUMBERS["precompute killed"]:
        directory = tmp_path / str(number)
        at = chance.randint(1, total)
        if faults.killed(tmp_path, at, lambda fault, to=directory: run(to, fault)):
            injected += 1
        else:
            assert files(directory) == files(whole)
            number += 1
    run(directory)
    assert files(directory) == files(whole)
    assert number > 3


def test_starved(run, whole, tmp_path):
    chance = random.Random(1)
    largest = max(path.stat().st_size for path in whole.iterdir())
    injected = number = 0
    while injected < NUMBERS["precompute starved"]:
        directory = tmp_path / str(number)
        if injected % 2:
            error = faults.limited(chance.randrange(largest), lambda to=directory: run(to))
        else:
            at = chance.randint(1, 40)
            error = faults.full(tmp_path, at, lambda fault, to=directory: run(to, fault))
        if error is not None:
            injected += 1
            assert str(directory) in str(error)
        if error is None or injected == NUMBERS["precompute starved"]:
            run(directory)
            assert files(directory) == files(whole)
            number += 1


def test_damaged_before_the_end(run, whole, tmp_path):
    """Found at once, or by whoever reads; or written again."""
    chance = random.Random(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_lit.features.tfrecords, "finish", lambda *args: None)
        run(tmp_path / "unfinished")
    outcomes = []
    for number in range(NUMBERS["unfinished features damaged"]):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "unfinished", directory)
        what = faults.damage(directory, chance)
        try:
            run(directory)
        except ValueError as error:
            assert str(directory) in str(error), what
            outcomes.append("refused")
            continue
        if files(directory) == files(whole):
            outcomes.append("mended")
            continue
        with pytest.raises(ValueError, match="another checksum"):
            keras_lit.features.verify(directory)
        with pytest.raises(tf.errors.DataLossError):
            read(directory)
        outcomes.append("found when read")
    assert set(outcomes) == {"refused", "mended", "found when read"}


def test_damaged(whole, tmp_path):
    """Whoever reads gets the same rows or an error."""
    chance = random.Random(3)
    expected = read(whole)
    refused = 0
    for number in range(NUMBERS["features damaged"]):
        directory = tmp_path / str(number)
        shutil.copytree(whole, directory)
        what = faults.damage(directory, chance)
        try:
            assert read(directory) == expected, what
        except (ValueError, OSError, tf.errors.OpError) as error:
            refused += 1
            assert str(directory) in str(error) or "corrupted" in str(error), what
            with pytest.raises((ValueError, FileNotFoundError)):
                keras_lit.features.verify(directory)
    assert refused > NUMBERS["features damaged"] / 2

"""Training with `ExactResume`: killed, starved or damaged, the same weights or a named error."""

import random
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests import small
from tests.faults import faults
from tests.faults.faults import NUMBERS

pytestmark = pytest.mark.slow


class Points(keras.callbacks.Callback):
    """A point at the end of each batch, after whatever was saved then."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def on_train_batch_end(self, batch, logs=None):
        self.fault.point()


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(directory) -> the weights; each time as in a new process, but traced once."""
    cache = tmp_path_factory.mktemp("cache")
    small.precompute(cache)
    keras.utils.set_random_seed(3)
    text = keras_lit.TextTower(
        keras_lit.backbones.TextTransformer(60, 8, 16, 1, 32, 4, 0.2), None, 8
    )
    model = keras_lit.LiT(keras_lit.features.image_tower(cache, projection_dim=8), text)
    model.compile(keras.optimizers.Adam(1e-2))
    state = lambda: [*model.variables, *model.optimizer.variables]  # noqa: E731
    initial = [np.array(variable) for variable in state()]

    def train(directory, fault=None):
        for variable, value in zip(state(), initial, strict=True):
            variable.assign(value)
        model._initial_epoch, model.stop_training = None, False
        pairs = keras_lit.features.load(cache, shuffle=True, seed=4)
        pairs = pairs.map(lambda pair: {**pair, "text": _tokens(pair["text"])}).batch(4)
        callbacks = [keras_lit.callbacks.ExactResume(directory, save_freq=2)]
        if fault is not None:
            callbacks.append(Points(fault))
        model.fit(pairs, epochs=3, verbose=0, callbacks=callbacks)
        return [np.array(variable) for variable in state()]

    return train


def _tokens(text):
    """Some token ids for a caption."""
    return tf.stack([tf.strings.to_hash_bucket_fast(text + str(i), 60) for i in range(8)])


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed(train, whole, tmp_path):
    chance = random.Random(0)
    total = faults.count(tmp_path, lambda fault: train(tmp_path / "count", fault))
    assert total > 18 + 3 * 9
    injected = number = 0
    while injected < NUMBERS["training killed"]:
        directory = tmp_path / str(number)
        at = chance.randint(1, total * 2 // 3)
        if faults.killed(tmp_path, at, lambda fault, to=directory: train(to, fault)):
            injected += 1
        else:
            same(train(directory), whole)
            number += 1
    same(train(tmp_path / str(number)), whole)
    assert number > 3


def test_starved(train, whole, tmp_path):
    chance = random.Random(1)
    injected = number = 0
    while injected < NUMBERS["training starved"]:
        directory = tmp_path / str(number)
        if injected % 2:
            error = faults.limited(chance.randrange(10_000), lambda to=directory: train(to))
        else:
            at = chance.randint(1, 40)
            error = faults.full(tmp_path, at, lambda fault, to=directory: train(to, fault))
        if error is not None:
            injected += 1
            assert f"Could not write '{directory}" in str(error)
            assert not list(directory.glob("*.tmp"))
        if error is None or injected == NUMBERS["training starved"]:
            same(train(directory), whole)
            number += 1


def test_damaged(train, whole, tmp_path):
    """Half-way, and then a bit flips, the end is lost, or the file."""
    chance = random.Random(2)
    assert faults.killed(tmp_path, 40, lambda fault: train(tmp_path / "killed", fault))
    refused = 0
    for number in range(NUMBERS["checkpoint damaged"]):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "killed", directory)
        what = faults.damage(directory, chance, "checkpoint.npz")
        try:
            same(train(directory), whole)
        except ValueError as error:
            refused += 1
            assert f"{directory}/checkpoint.npz' is damaged" in str(error), (what, error)
    assert refused > NUMBERS["checkpoint damaged"] / 3

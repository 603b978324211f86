"""Caches of tokens: what is stored, how much room it takes, which tower it stands for."""

import shutil
import types

import numpy as np
import pytest

import keras_lit
from keras_lit.features import rooms
from tests import small


@pytest.fixture(scope="module")
def tower():
    return small.make_tower(pooling="tokens")


@pytest.fixture(scope="module")
def cache(tower, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    small.precompute(directory, tower)
    return directory


def test_tokens_come_back(tower, cache):
    found = next(iter(keras_lit.features.load(cache).batch(small.COUNT)))["image_features"]
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, small.expected_features(tower), atol=2e-3)
    assert found.shape == (small.COUNT, 9, small.DIM)


def test_the_tower_that_stands_for_it(tower, cache):
    stand_in = keras_lit.features.image_tower(cache, projection_dim=4, blocks=1)
    assert (stand_in.grid, stand_in.prefix_tokens, stand_in.feature_shape) == ((3, 3), 0, (9, 6))
    assert stand_in.head.pooling == "mean" and stand_in.embedding_dim == 4
    again = type(stand_in).from_config(stand_in.get_config())
    assert again.feature_shape == (9, 6) and again.head.blocks == 1


def test_room_is_bounded(tower, cache, tmp_path):
    # 9 tokens of 6 numbers of 2 bytes, of 22 pictures.
    plan = keras_lit.features.manifest(cache)["plan"]
    rooms.check(tmp_path, plan, 22, 2_376)
    assert rooms.in_words(plan).startswith("108 bytes of image features a picture (float16)")
    with pytest.raises(ValueError, match="more than `max_bytes`=2,375: 108 bytes of .* a picture"):
        small.precompute(tmp_path, tower, max_bytes=2_375)
    assert not [*tmp_path.glob("*tfrecord*")]


def test_a_disk_that_is_too_small(monkeypatch, tmp_path):
    plan = {"dim": 6, "views": 2, "dtype": "float32", "pairs": 10}
    assert rooms.bytes_each(plan) == 48
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=100))
    rooms.check(tmp_path, plan, 2, None)  # The others are there already.
    with pytest.raises(ValueError, match="not fit into .* 100 bytes are free: 48 bytes"):
        rooms.check(tmp_path, plan, 3, None)

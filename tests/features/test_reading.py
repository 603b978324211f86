"""How a cache is read, and how damage is found."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.training import batches
from tests import small
from tests.small import encoded_pairs, make_model, precompute

CAPTIONS = [["one", "two", "three"], ["four"], ["five", "six"]] * 7 + [["seven"]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    precompute(directory, pairs=encoded_pairs(id=np.arange(22)))
    return directory


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A cache of pictures with one to three captions."""
    directory = tmp_path_factory.mktemp("several")
    text = tf.ragged.constant(CAPTIONS)
    pairs = tf.data.Dataset.zip(encoded_pairs(), tf.data.Dataset.from_tensor_slices(text))
    ids = tf.data.Dataset.range(22)
    pairs = tf.data.Dataset.zip(pairs, ids).map(
        lambda pair, id: {**pair[0], "text": tf.convert_to_tensor(pair[1]), "id": id}
    )
    precompute(directory, pairs=pairs)
    return directory


def ids(dataset):
    return [int(row["id"]) for row in dataset]


@pytest.mark.slow
def test_order_and_length(cache):
    pairs = keras_lit.features.load(cache)
    assert pairs.cardinality() == 22 and ids(pairs) == list(range(22))


def test_shuffle(cache):
    """All pairs once, anew in each epoch, the same again for the same seed, across the files."""
    first, second = (keras_lit.features.load(cache, shuffle=True, seed=3) for _ in range(2))
    epochs = [ids(first) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(22)) and epochs[0] != epochs[1]
    assert [ids(second) for _ in range(2)] == epochs
    assert ids(keras_lit.features.load(cache, shuffle=True, seed=4)) != epochs[0]
    assert ids(keras_lit.features.load(cache, shuffle=1, seed=3)) != list(range(22))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [list("abacb") * 4 + ["d", "a"], [2**40, -7] * 11])
def test_groups_are_kept(groups, tmp_path):
    """Of strings and of integers, for `fit`."""
    precompute(tmp_path, pairs=encoded_pairs(group=groups))
    pairs = keras_lit.features.load(tmp_path)
    found = [row["group"] for row in pairs.as_numpy_iterator()]
    assert found == [x.encode() if isinstance(x, str) else x for x in groups]
    tower, text_tower = keras_lit.features.image_tower(tmp_path), make_model().text_tower
    ids = next(iter(batches.for_step(pairs.batch(22), tower, text_tower)))["group"].numpy()
    same = np.array(groups)[:, None] == np.array(groups)
    np.testing.assert_array_equal(ids[:, None] == ids, same)


def test_verify(cache, tmp_path):
    for path in cache.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert keras_lit.features.verify(tmp_path)["pairs"] == 22
    paths = sorted(tmp_path.glob("features-*"))
    content = bytearray(paths[0].read_bytes())
    content[100] ^= 1
    paths[0].write_bytes(content)
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    paths[2].unlink()
    with pytest.raises(ValueError) as error:
        keras_lit.features.verify(tmp_path)
    assert "00000-of-00003 has another checksum" in str(error.value)
    assert "00001-of-00003 has " in str(error.value) and "bytes, not" in str(error.value)
    assert "00002-of-00003 is missing" in str(error.value)
    with pytest.raises(FileNotFoundError, match="00001-of-00003.*missing or has been cut off"):
        keras_lit.features.load(tmp_path)


@pytest.mark.slow
def test_several_captions(several):
    def load(**options):
        return [
            row["text"].decode()
            for row in keras_lit.features.load(several, **options).as_numpy_iterator()
        ]

    assert load(captions="first") == [texts[0] for texts in CAPTIONS]
    assert load(captions="all") == [text for texts in CAPTIONS for text in texts]
    drawn = [load(seed=i) for i in range(4)]
    assert all(text in texts for row in drawn for text, texts in zip(row, CAPTIONS, strict=True))
    assert {row[i] for row in drawn for i in range(0, 21, 3)} == {"one", "two", "three"}
    assert load(seed=1) == drawn[1]
    pairs = keras_lit.features.load(several, seed=1)
    first, second = ([row["text"] for row in pairs.as_numpy_iterator()] for _ in range(2))
    assert first != second


def test_all_captions_are_shuffled_apart(several):
    """Neighbours of one image would be negatives of each other in a batch."""
    pairs = keras_lit.features.load(several, captions="all", shuffle=True, seed=0)
    rows = list(pairs.as_numpy_iterator())
    assert sorted(row["text"].decode() for row in rows) == sorted(itertools.chain(*CAPTIONS))
    assert sum(a["id"] != b["id"] for a, b in itertools.pairwise(rows)) >= len(CAPTIONS)


def test_all_captions_keep_their_image(several):
    pairs = list(keras_lit.features.load(several, captions="all").as_numpy_iterator())
    one = list(keras_lit.features.load(several, captions="first").as_numpy_iterator())
    owners = [i for i, texts in enumerate(CAPTIONS) for _ in texts]
    np.testing.assert_array_equal(
        [pair["image_features"] for pair in pairs], [one[i]["image_features"] for i in owners]
    )
    assert [pair["id"] for pair in pairs] == [one[i]["id"] for i in owners]


def test_wrong_arguments(cache):
    with pytest.raises(ValueError, match="`captions` should be one of"):
        keras_lit.features.load(cache, captions="some")
    with pytest.raises(ValueError, match="`view` should be one of 0. Received: 1"):
        keras_lit.features.load(cache, view=1)
    with pytest.raises(FileNotFoundError, match="Splits there: none.*precompute"):
        keras_lit.features.load(cache / "elsewhere")
    assert small.COUNT == 22

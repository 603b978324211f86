"""Independent jobs, joined, give what one job writes."""

import shutil

import pytest
import tensorflow as tf

import keras_lit
from tests.small import encoded_pairs, files, make_tower, precompute


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """Two jobs, each with a disk of its own."""
    directory = tmp_path_factory.mktemp("disks")
    for i in range(2):
        assert precompute(directory / f"{i}", shard_index=i, num_shards=2) is None
    return directory


@pytest.mark.slow
def test_jobs_on_one_disk(tmp_path, whole):
    """Four jobs for three shards, in any order: the first job has none, each other one."""
    for i in (3, 1, 0, 2):
        precompute(tmp_path, shard_index=i, num_shards=4)
        if i == 0:
            with pytest.raises(ValueError, match="1 of 3 shards .*missing: 1. Run the jobs"):
                keras_lit.features.merge(tmp_path)
    assert keras_lit.features.merge(tmp_path) == keras_lit.features.manifest(whole)
    assert files(tmp_path) == files(whole)


@pytest.mark.slow
def test_jobs_on_two_disks(tmp_path, whole, disks):
    before = files(disks)
    parts = [disks / "0", disks / "1"]
    keras_lit.features.merge(tmp_path / "joined", parts=parts)
    assert files(tmp_path / "joined") == files(whole)
    assert files(disks) == before
    assert keras_lit.features.merge(tmp_path / "joined", parts=parts)["pairs"] == 22


def test_a_shard_that_has_changed(tmp_path, disks):
    shutil.copytree(disks, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "0").glob("features-*"))
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    parts = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(ValueError, match=f"changed since they were written: {path.name}. Delete"):
        keras_lit.features.merge(tmp_path / "joined", parts=parts)


@pytest.mark.slow
def test_jobs_with_different_towers(tmp_path, disks):
    precompute(tmp_path / "1", make_tower(seed=2), shard_index=1, num_shards=2)
    with pytest.raises(ValueError, match="another tower.*tower.weights"):
        keras_lit.features.merge(tmp_path / "joined", parts=[disks / "0", tmp_path / "1"])


def test_a_record_of_another_plan(tmp_path, disks):
    """As two jobs that begin at the same moment could leave it."""
    shutil.copytree(disks / "0", tmp_path, dirs_exist_ok=True)
    plan = tmp_path / ".precompute-train" / "plan.json"
    keras_lit.files.write_json(plan, {**keras_lit.files.read_json(plan, ""), "seed": 5})
    with pytest.raises(ValueError, match="Shard 0 .* was written by a job with another tower"):
        keras_lit.features.merge(tmp_path)


def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="No job has written split 'train'"):
        keras_lit.features.merge(tmp_path)
    with pytest.raises(FileNotFoundError, match="No job has written split 'test' to '.*part'"):
        keras_lit.features.merge(tmp_path, "test", parts=[tmp_path / "part"])
    with pytest.raises(ValueError, match="`shard_index` should be one of 0, 1. Received: 2"):
        precompute(tmp_path, shard_index=2, num_shards=2)


def shuffled():
    """Of unknown length, so that whoever begins has to count."""
    return encoded_pairs().shuffle(22, seed=3).filter(lambda pair: True)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_jobs_over_a_seeded_shuffle_lose_nothing(order, tmp_path):
    tower = make_tower()  # Sets the global seed, of which the shuffle's depends too.
    for i in order:
        precompute(tmp_path, tower, pairs=shuffled(), shard_index=i, num_shards=2)
    keras_lit.features.merge(tmp_path)
    found = [row["text"] for row in keras_lit.features.load(tmp_path).as_numpy_iterator()]
    assert sorted(found) == sorted(row["text"] for row in encoded_pairs().as_numpy_iterator())


@pytest.mark.slow
def test_shards_of_other_orders_are_not_joined(tmp_path):
    """The second job's shuffle has another seed, and its shards come before the first job's."""
    precompute(tmp_path, pairs=encoded_pairs(), shard_index=1, num_shards=2)
    order = [0, *range(21, 0, -1)]
    rows = list(encoded_pairs().as_numpy_iterator())
    other = {name: [rows[i][name] for i in order] for name in rows[0]}
    precompute(
        tmp_path, pairs=tf.data.Dataset.from_tensor_slices(other), shard_index=0, num_shards=2
    )
    with pytest.raises(
        ValueError, match="written from different orders of the dataset.*Delete both"
    ):
        keras_lit.features.merge(tmp_path)

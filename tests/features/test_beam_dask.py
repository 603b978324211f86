"""Beam's own DaskRunner on a `distributed` scheduler with two worker processes, one of them killed."""

import functools
import os
import signal

import apache_beam as beam
import keras
import pytest
from apache_beam.runners.dask.dask_runner import DaskOptions, DaskRunner

import keras_lit
import keras_lit.features.beam
from tests.features.test_beam import OPTIONS, numbered
from tests.small import encoded_pairs, files, make_tower


@pytest.fixture(scope="module")
def pipeline():
    """A function that makes a pipeline on the two workers, as a program elsewhere would."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        given = DaskOptions(dask_client_address=cluster.scheduler_address)
        yield lambda: beam.Pipeline(DaskRunner(), options=given)


def dies_once(path, shard):
    """Kills its process, the first time that it is called in any."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return shard
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_is_killed_after_its_first_shard(tmp_path, whole, pipeline):
    path, directory, dead = tmp_path / "tower.keras", tmp_path / "beam", tmp_path / "dead"
    make_tower().save(path)
    make = functools.partial(keras.saving.load_model, path)
    pairs = encoded_pairs()
    transform = keras_lit.features.beam.Precompute(make, pairs, directory, **OPTIONS)
    with pipeline() as running:
        shards = running | beam.Create(numbered(pairs)) | transform
        _ = shards | beam.Map(functools.partial(dies_once, str(dead)))
    assert dead.exists()
    keras_lit.features.merge(directory)
    assert files(directory) == files(whole)

"""The Beam transform writes what `precompute` writes."""

import functools

import apache_beam as beam
import keras
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import keras_lit
from keras_lit.features import beam as features_beam
from keras_lit.features import precomputing
from tests import small
from tests.small import encoded_pairs, files, make_tower, precompute

OPTIONS = {"batch_size": small.BATCH, "shards": small.SHARDS}


def numbered(pairs):
    """Out of order, as a runner may hand them over."""
    found = list(enumerate(pairs.as_numpy_iterator()))
    return found[::2] + found[1::2]


def run(directory, pairs, rows=None, mode="multi_threading", **options):
    path = directory.parent / "tower.keras"
    make_tower().save(path)
    make = functools.partial(keras.saving.load_model, path)
    transform = features_beam.Precompute(make, pairs, directory, **OPTIONS, **options)
    arguments = PipelineOptions(direct_num_workers=2, direct_running_mode=mode)
    with beam.Pipeline(FnApiRunner(), arguments) as pipeline:
        _ = pipeline | beam.Create(rows or numbered(pairs)) | transform
    return keras_lit.features.merge(directory)


@pytest.mark.slow
def test_same_bytes_in_processes(tmp_path, whole):
    run(tmp_path / "beam", encoded_pairs(), mode="multi_processing")
    assert files(tmp_path / "beam") == files(whole)


@pytest.mark.slow
def test_same_bytes_with_text(tmp_path):
    captions = [f"caption number {i}" for i in range(22)]
    backbone = keras_lit.backbones.TextTransformer(60, 8, 8, 1, 16, 2)
    tokenizer = keras_lit.tokenizers.train_wordpiece(captions, 60)
    tower, path = keras_lit.TextTower(backbone, tokenizer, 8), tmp_path / "text_tower.keras"
    tower.save(path)
    precompute(tmp_path / "whole", text_tower=tower)
    make = functools.partial(keras.saving.load_model, path)
    run(tmp_path / "beam", encoded_pairs(), make_text_tower=make)
    assert files(tmp_path / "beam") == files(tmp_path / "whole")


@pytest.mark.slow
def test_same_bytes_in_threads_but_for_bad_images(tmp_path):
    pairs = encoded_pairs(bad=(3, 21))
    precompute(tmp_path / "whole", pairs=pairs, skip_bad_images=True)
    manifest = run(tmp_path / "beam", pairs, skip_bad_images=True)
    assert [bad["index"] for bad in manifest["skipped"]] == [3, 21]
    assert files(tmp_path / "beam") == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_pair_that_is_missing(tmp_path):
    with pytest.raises(Exception, match="should hold 22 pairs.*fewer"):
        run(tmp_path / "beam", encoded_pairs(), rows=numbered(encoded_pairs())[1:])


@pytest.mark.slow
def test_finished_shards_are_kept(tmp_path, whole):
    directory = tmp_path / "features"
    precompute(directory, shard_index=1, num_shards=3)
    (kept,) = directory.glob("features-*")
    time = kept.stat().st_mtime_ns
    run(directory, encoded_pairs())
    assert kept.stat().st_mtime_ns == time
    assert files(directory) == files(whole)
    run(directory, encoded_pairs())
    assert kept.stat().st_mtime_ns == time


def test_shard_of_is_the_inverse_of_bounds():
    for pairs, batch_size, shards in ((22, 4, 3), (7, 2, 4), (1000, 8, 16), (5, 5, 1)):
        plan = {"pairs": pairs, "batch_size": batch_size, "shards": shards}
        for shard in range(shards):
            for number in range(*precomputing.bounds(plan, shard)):
                assert precomputing.shard_of(plan, number) == shard

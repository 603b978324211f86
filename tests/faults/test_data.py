"""Preparing and reading data, vocabularies, statistics: whole, or named as not."""

import importlib.util
import pathlib
import random
import shutil
import struct
import sys

import numpy as np
import pytest

import keras_lit
from keras_lit.data import statistics
from keras_lit.data.shards import read_shards
from tests.data.test_shards import ALL, png, write_records, write_tar
from tests.faults import faults
from tests.faults.faults import NUMBERS
from tests.small import files

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture
def prepare(photos, tmp_path, monkeypatch):
    """prepare(fault): photos -> tmp_path/out/prepared."""
    spec = importlib.util.spec_from_file_location("prepare_data", EXAMPLES / "prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = tmp_path / "out" / "prepared"
    arguments = f"--source {photos} --rules none --max-distance -1 --images-per-shard 10"
    monkeypatch.setattr(sys, "argv", ["x", *arguments.split(), "--output", str(output)])

    def run(fault=None):
        module.main()

    run.output = output
    return run


def test_preparing(prepare):
    chance = random.Random(0)
    parent = prepare.output.parent
    total = faults.count(parent, prepare)
    whole = files(prepare.output)
    assert len(whole) == 9 and total > 10
    for number in range(NUMBERS["preparing killed"] + NUMBERS["preparing starved"]):
        shutil.rmtree(prepare.output, ignore_errors=True)
        if number < NUMBERS["preparing killed"]:
            assert faults.killed(parent, chance.randint(1, total), prepare)
        else:
            assert faults.limited(chance.randrange(10_000), prepare) is not None
        assert not prepare.output.exists()
    prepare()
    assert files(parent) == {f"prepared/{name}": content for name, content in whole.items()}


@pytest.mark.parametrize("kind", ["tars", "TFRecords"])
def test_shards_damaged(kind, tmp_path):
    """What is lost is named: a shard that was cut, or a bit of a tar's header or any of a record."""
    chance = random.Random(0)
    rows = [(f"{i:02}", png(i), text) for i, text in enumerate(ALL[:10])]
    if kind == "tars":
        shard = write_tar(
            tmp_path / "a.tar",
            [
                (f"{n}.{e}", c)
                for n, image, text in rows
                for e, c in (("png", image), ("txt", text))
            ],
        )
    else:
        table = [{"image": [image], "text": [text.encode()]} for _, image, text in rows]
        shard = write_records(tmp_path / "a.tfrecord", table)
    content = shard.read_bytes()
    for _ in range(NUMBERS[f"{kind} damaged"]):
        damaged = bytearray(content)
        place = chance.randrange(len(content) - 10_000 * (kind == "tars"))
        if chance.random() < 0.5:
            # Where a record ends a TFRecord may end: nothing tells that there were more.
            del damaged[place + (kind == "TFRecords" and place in ends(content)) :]
        else:
            # A pair of a tar takes four blocks of 512 bytes: header, picture, header, text.
            place = place if kind != "tars" else place // 1024 * 1024 + chance.randrange(200)
            damaged[place] ^= 1 << chance.randrange(8)
        shard.write_bytes(damaged)
        skipped = set()
        rows = read_shards([str(shard)], skipped=skipped).as_numpy_iterator()
        found = [row["text"][0].decode() for row in rows]
        assert found == ALL[: len(found)]
        assert len(found) == 10 or any(str(shard) in message for message in skipped), place


def ends(content):
    """Where the records of a TFRecord end: each has 12 bytes before it and 4 after it."""
    found = [0]
    while found[-1] < len(content):
        found.append(found[-1] + 16 + struct.unpack_from("<Q", content, found[-1])[0])
    return found


def test_saved_files(tmp_path):
    """The old file or the new one."""
    chance = random.Random(0)
    old, new = (keras_lit.tokenizers.train_wordpiece([text], 40) for text in ("a b c", "d e f"))
    counters = [statistics.KeyCounter(5) for _ in range(3)]
    corpora = [statistics.CorpusStatistics(*counters, pairs=pairs) for pairs in (1, 2)]
    savers = [
        (
            tmp_path / "vocabulary.txt",
            [lambda p, t=t: keras_lit.tokenizers.save(t, p) for t in (old, new)],
        ),
        (tmp_path / "corpus.npz", [lambda p, c=c: c.save(p) for c in corpora]),
    ]
    for path, (save_old, save_new) in savers:
        save_new(path)
        expected = content(path)
        save_old(path)
        before = content(path)
        assert before != expected
        for number in range(NUMBERS["saved files killed"] // 2):
            if number % 2:
                assert faults.limited(chance.randrange(20), lambda p=path, s=save_new: s(p))
            else:
                at = chance.randint(1, 3)
                assert faults.killed(tmp_path, at, lambda _, p=path, s=save_new: s(p))
            assert content(path) == before
        save_new(path)
        assert content(path) == expected


def content(path):
    if path.suffix == ".txt":
        return path.read_text()
    with np.load(path) as file:
        return {name: file[name].tolist() for name in file.files}

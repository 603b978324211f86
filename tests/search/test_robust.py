"""Full disks, places where nobody may write, odd folders and metadata; what is in memory."""

import errno
import gc
import hashlib
import json
import os
import pathlib
import shutil
import sqlite3
import types
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.search import Index, filters, updating


@pytest.fixture
def stubs(monkeypatch):
    """Any content decodes, and what it is encoded to comes from its size; how many were encoded."""
    seen = []

    def decode(self, contents):
        sizes = tf.cast(tf.strings.length(contents), tf.float32)
        return sizes, tf.ones_like(sizes, tf.bool)

    def encode(tower, sizes, batch_size):
        seen.append(len(sizes))
        rows = np.random.default_rng(len(seen)).normal(size=[len(sizes), 16]).astype("float32")
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(ImagePreprocessor, "with_valid", decode)
    monkeypatch.setattr(updating, "encode", encode)
    return seen


def pictures(count, first=0):
    return [{"image": b"content %d" % i, "name": f"{i}.jpg"} for i in range(first, count)]


class Content(bytes):
    """Counts how many there are at a time."""

    alive = most = 0

    def __new__(cls, *args):
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, *args)

    def __del__(self):
        Content.alive -= 1


def test_a_hundred_more_than_ten_thousand(model, tmp_path, stubs):
    """Are a hundred to encode; a few batches are in memory at a time."""

    def stream(count):
        for row in pictures(count):
            yield {**row, "image": Content(row["image"])}

    index = Index.build(model, stream(10_000), tmp_path, batch_size=500, verbose=0)
    assert sum(stubs) == len(index) == 10_000
    assert Content.most <= (updating._AHEAD + 2) * 500
    assert index.update(stream(10_100), batch_size=500, verbose=0).encoded == 100
    assert sum(stubs) == len(index) == 10_100
    assert len(index.search(np.ones(16), k=10**9)) == 10_100


def test_a_full_disk_loses_nothing(model, tmp_path, stubs, monkeypatch):
    sync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(file)

    monkeypatch.setattr(os, "fsync", full)
    options = {"batch_size": 4, "verbose": 0}
    with pytest.raises(OSError, match="No space left on device: .*vectors-0"):
        Index.build(model, pictures(20), tmp_path, **options)
    index = Index(tmp_path, model)
    assert len(index) == 8
    pages = index._store.database.execute("PRAGMA page_count").fetchone()[0]
    index._store.database.execute(f"PRAGMA max_page_count = {pages}")
    many = [{**x, "text": "word " * 1000} for x in pictures(20)]
    with pytest.raises(OSError, match="disk is full. What was complete before is still there"):
        index.update(many, **options)
    index = Index.build(model, pictures(20), tmp_path, **options)
    assert len(index) == 20 and sum(stubs[-3:]) == 12
    assert sorted(index.contents()[1]) == sorted(x["name"] for x in pictures(20))


def test_a_place_where_nobody_may_write(model, tmp_path, stubs, monkeypatch):
    Index.build(model, pictures(20), tmp_path, verbose=0)
    before = sorted(x.name for x in tmp_path.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    index = Index(tmp_path, model)
    assert len(index.search(np.ones(16), k=30)) == 20
    assert sorted(x.name for x in tmp_path.iterdir()) == before
    with pytest.raises(OSError, match="cannot be read or written: .*readonly"):
        index.update(pictures(21), verbose=0)
    with pytest.raises(OSError, match="readonly"):
        Index.build(model, pictures(21), tmp_path, verbose=0)


def test_who_may_not_write_sees_what_others_do(model, tmp_path, stubs, monkeypatch):
    """No other connection is open, so there is nothing but the file to read."""
    Index.build(model, pictures(5), tmp_path, verbose=0)
    gc.collect()  # Its connections.
    assert not (tmp_path / "index.sqlite-wal").exists()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    reader = Index(tmp_path)
    assert len(reader) == len(reader.search(np.ones(16), k=30)) == 5
    monkeypatch.setattr(os, "access", allowed)
    writer = Index(tmp_path, model)
    writer.update(pictures(9)[2:], verbose=0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    names = {x.name for x in reader.search(np.ones(16), k=30)}
    assert names == {x["name"] for x in pictures(9)[2:]}


@pytest.mark.parametrize("what", ["search", "update", "thread"])
@pytest.mark.parametrize("anew", [True, False])
def test_an_index_that_was_deleted_or_replaced_is_said(anew, what, model, tmp_path, stubs):
    """Vectors of one came into the other."""
    directory = tmp_path / "index"
    old = Index.build(model, pictures(4), directory, verbose=0)
    shutil.rmtree(directory)
    if anew:
        new = Index.build(model, pictures(9)[5:], directory, verbose=0)
        before = new.contents()
    calls = {
        "search": lambda: old.search(np.ones(16)),
        "update": lambda: old.update(pictures(6), verbose=0),
        "thread": lambda: ThreadPoolExecutor(1).submit(len, old).result(),
    }
    with pytest.raises(FileNotFoundError, match="deleted, moved or replaced since it was opened"):
        calls[what]()
    if anew:
        for found, expected in zip(Index(directory).contents(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_picture_that_cannot_be_read_today_is_tried_again(model, tmp_path, stubs, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in pictures(3):
        (folder / f"{row['name']}.png").write_bytes(row["image"])
    index = Index.build(model, folder, tmp_path / "index", verbose=0)
    changed, new = folder / "0.jpg.png", folder / "new.png"
    before = index.search(np.ones(16), where={"name": changed.name})
    changed.write_bytes(pictures(5)[3]["image"])
    new.write_bytes(pictures(5)[4]["image"])
    read = pathlib.Path.read_bytes

    def fails(path):
        if path in (changed, new):
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", fails)
    with pytest.warns(UserWarning, match="2 pictures are not in the index.*cannot be read"):
        assert index.update(verbose=0).refused == 2
    assert len(index) == 3 and set(index.refused) == {changed.name, new.name}
    assert index.search(np.ones(16), where={"name": changed.name}) == before
    monkeypatch.setattr(pathlib.Path, "read_bytes", read)
    changes = index.update(verbose=0)
    assert (changes.added, changes.changed, changes.refused) == (1, 1, 0)
    assert len(index) == 4 and index.refused == {}


def test_an_approximate_index_finds_as_many_as_there_are(model, tmp_path, stubs):
    """Though the lists that are likely hold fewer."""
    pytest.importorskip("faiss")
    index = Index.build(model, pictures(1500), tmp_path, approximate=True, verbose=0)
    for k, expected in ((3, 3), (1400, 1400), (2000, 1500)):
        names = [x.name for x in index.search(np.ones(16), k=k)]
        assert len(set(names)) == expected
    truth = [x.name for x in index.search(np.ones(16), k=2000, exact=True)]
    assert names == truth
    queries = np.random.default_rng(0).normal(size=[20, 16]).astype("float32")
    assert 0 < index.recall(queries, k=10) < 1


def test_another_programs_files(model, tmp_path, stubs):
    """Stay as they are."""
    others = {name: b"mine" for name in ("vectors-2.txt", "lists-2024.csv", "codes-1b", "vectors")}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "codes-3").mkdir()
    Index.build(model, pictures(3), tmp_path, verbose=0)
    assert all((tmp_path / name).read_bytes() == content for name, content in others.items())
    assert (tmp_path / "codes-3").is_dir()
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE settings (key, wert)")
    database.close()
    os.replace(tmp_path / "other", tmp_path / "index.sqlite")
    with pytest.raises(OSError, match="cannot be read or written: no such column"):
        Index(tmp_path, model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM settings WHERE name = 'dim'", "its setting 'dim' is missing"),
        ("UPDATE settings SET value = '-5' WHERE name = 'rows'", "setting 'rows' is -5"),
        ("UPDATE settings SET value = '[]' WHERE name = 'tower'", "setting 'tower' is \\[\\]"),
        ("UPDATE settings SET value = 'x'", "a setting is no JSON"),
        ("UPDATE pictures SET row = 1000 WHERE id = 1", "a picture has no vector"),
        ("UPDATE pictures SET row = 'x' WHERE id = 1", "the row of a picture"),
        ("UPDATE pictures SET metadata = '{'", "the metadata of '.*jpg'"),
        ("UPDATE pictures SET metadata = x'ff'", "the metadata of '.*jpg'"),
    ],
)
def test_a_damaged_database_is_named(model, tmp_path, stubs, change, said):
    index = Index.build(model, pictures(3), tmp_path, verbose=0)
    index._store.database.execute(change)
    with pytest.raises(ValueError, match=f"index.sqlite' is damaged .*{said}.*Build the index"):
        Index(tmp_path, model).search(np.ones(16))


def test_a_damaged_table_is_named(model, tmp_path, stubs):
    index = Index.build(model, pictures(3), tmp_path, verbose=0)
    index._store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for file in tmp_path.glob("index.sqlite-*"):
        file.unlink()
    content = (tmp_path / "index.sqlite").read_bytes()
    damaged = content.replace(b"CREATE TABLE refused", b"CREATE \xff\xfeBLE refused")
    assert damaged != content
    (tmp_path / "index.sqlite").write_bytes(damaged)
    with pytest.raises(ValueError, match="index.sqlite' is damaged or not an index"):
        Index(tmp_path, model)


def test_vectors_that_are_none(model, tmp_path, stubs):
    """NaN on the disk is no score; vectors from elsewhere are checked as they come."""
    rows = pictures(3)
    Index.build(model, rows, tmp_path / "a", verbose=0)
    np.full([1024, 16], np.nan, "float32").tofile(tmp_path / "a" / "vectors-0")
    with pytest.raises(ValueError, match="the vector of '.*jpg' is not finite"):
        Index(tmp_path / "a", model).search(np.ones(16))
    digest = hashlib.sha256(rows[0]["image"]).digest()
    for bad in (np.full(16, np.nan), np.ones(16)):
        with pytest.raises(ValueError, match="should be of unit length. Received: .*'0.jpg'"):
            Index.build(model, rows, tmp_path / "b", vectors={digest: bad}, verbose=0)


def test_places_where_no_index_can_be(model, tmp_path, stubs):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below", "x" * 300, "a\0b"):
        with pytest.raises(OSError, match="There can be no index in '.*': "):
            Index.build(model, pictures(1), tmp_path / name, verbose=0)
        with pytest.raises(FileNotFoundError, match="There is no "):
            Index(tmp_path / name, model)
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            Index.build(model, tmp_path / name, tmp_path / "index", verbose=0)
    assert not (tmp_path / "index").exists()
    for directory in (None, b"index", model):
        with pytest.raises(TypeError, match="`directory` should be a str or a pathlib.Path"):
            Index(directory, model)


def test_odd_folders(model, tmp_path, stubs):
    folder = tmp_path / "ünï 猫\n"
    (folder / "folder.png").mkdir(parents=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(folder / "nothing")
    names = ["ü.png", "u\u0308.png", "a'b\"c.PNG", "%s;--.jpg", "new\nline.png", "folder.png/x.png"]
    for i, name in enumerate(names):
        (folder / name).write_bytes(b"%d" % i)
    (folder / "link.png").symlink_to(folder / "ü.png")
    index = Index.build(model, folder, tmp_path / "index", verbose=0)
    assert sorted(index.contents()[1]) == sorted([*names, "link.png"])
    for name in names:
        pattern = name.replace("*", "[*]")
        found = [x.name for x in index.search(np.ones(16), where={"name": pattern})]
        same = [
            x
            for x in names
            if unicodedata.normalize("NFC", x) == unicodedata.normalize("NFC", name)
        ]
        assert sorted(found) == sorted(same)  # Two of them are "ü.png" to a reader.


def test_accents_are_found_however_they_are_written(model, tmp_path, stubs):
    rows = pictures(2)
    written = [unicodedata.normalize(form, f"é{i}.jpg") for i, form in enumerate(("NFC", "NFD"))]
    rows = [{**row, "name": name} for row, name in zip(rows, written, strict=True)]
    index = Index.build(model, rows, tmp_path, verbose=0)
    for form in ("NFC", "NFD"):
        where = {"name": unicodedata.normalize(form, "é*")}
        assert {x.name for x in index.search(np.ones(16), where=where)} == set(written)


def test_odd_metadata(model, tmp_path, stubs):
    rows = pictures(4)
    rows[0] |= {"value": float("nan"), "list": [1.5, float("inf")], 5: "five"}
    rows[1] |= {"value": 2.5, "text": b"\xff\xfe", "list": np.array([7, 8])}
    rows[1]["long"] = np.longdouble(0.5)  # Whose `item` is a long double again.
    rows[2] |= {"value": True, "big": 2**70, "nothing": None, "object": object()}
    rows[3]["name"] = tmp_path / "path.jpg"
    index = Index.build(model, rows, tmp_path / "index", verbose=0)

    def found(**where):
        return [x.name for x in index.search(np.ones(16), where=where)]

    assert found(value=2.5) == found(text=b"\xff\xfe") == found(list=[8, 9]) == ["1.jpg"]
    assert found(value=1) == found(value=tf.constant(1)) == found(name=tf.constant("2.*"))
    assert found(value=1) == ["2.jpg"] and found(long=np.float64(0.5)) == ["1.jpg"]
    assert found(**{"5": "five"}) == found(list=1.5) == ["0.jpg"]
    assert found(name=tmp_path / "path.jpg") == found(name=["no", str(tmp_path / "path.jpg")])
    assert found(name=str(tmp_path / "path.jpg")) == [str(tmp_path / "path.jpg")]
    assert found(value="2.5") == found(value=[]) == []
    for bad in (float("nan"), [1, object()], {"$lt": 5}, None, [1, None]):
        with pytest.raises(ValueError, match="compare 'value' with strings or finite numbers"):
            index.search(np.ones(16), where={"value": bad})
    with pytest.raises(TypeError, match="`where` should be a dict.*Received: 'name'"):
        index.search(np.ones(16), where="name")
    with pytest.raises(ValueError, match="`where` asks what SQLite cannot compare: .*too complex"):
        index.search(np.ones(16), where={"name": "*a" * 100_000})
    for bad, said in [({"name": "\ud800"}, "no file has"), ({10**400: 1}, "SQLite cannot compare")]:
        with pytest.raises(ValueError, match=said):
            index.search(np.ones(16), where=bad)
    with pytest.raises(TypeError, match="`where` should be a dict.*Received: <tf.Tensor"):
        index.search(np.ones(16), where=tf.constant(1))
    for name in ("", 5, None, ["a"]):
        with pytest.raises(ValueError, match='"name" should be a string that is not empty'):
            index.update([{"image": b"x", "name": name}], verbose=0)
    assert len(index) == 4


def test_an_interrupted_update_goes_on(model, tmp_path, stubs):
    """A source that fails in the middle loses what was not whole, and no more."""

    def failing():
        yield from pictures(10)
        raise RuntimeError("the network")

    with pytest.raises(RuntimeError, match="the network"):
        Index.build(model, failing(), tmp_path, batch_size=4, verbose=0)
    assert len(Index(tmp_path)) in (0, 4, 8)
    assert len(Index.build(model, pictures(10), tmp_path, batch_size=4, verbose=0)) == 10


def test_any_number_is_found_by_where():
    """SQLite's JSON writes 15 digits of a float, which may be another."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE pictures (row INTEGER, name TEXT, metadata TEXT)")
    values = [float(np.float32(0.1)), 0.1 + 0.2, 2**63, True, [1.5, 0.1 + 0.2], "a"]
    rows = [(i, "", json.dumps({"x": value})) for i, value in enumerate(values)]
    database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", rows)
    snapshot = types.SimpleNamespace(alive=np.ones(len(values), bool))
    for i, wanted in enumerate([values[0], 0.1 + 0.2, 2**63, True, 1.5, "a"]):
        found = np.flatnonzero(filters.allowed(database, snapshot, {"x": wanted}))
        assert list(found) == ([1, 4] if i == 1 else [i])

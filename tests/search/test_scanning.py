"""The best of all vectors, as NumPy finds them in float64."""

import numpy as np
import pytest

from keras_lit.search import approximate, scanning, store, writing
from keras_lit.search.store import Picture, Store

DIM = 24


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype("float32")


def made(directory, vectors, dtype):
    """An index of these vectors, named by their numbers."""
    settings = {"dim": DIM, "dtype": dtype, "folder": None, "tower": {}, "approximate": None}
    found = Store.create(directory, settings)
    pictures = [Picture(str(i), bytes([i % 256]), None, "{}") for i in range(len(vectors))]
    with writing.writing(found) as writer:
        half = len(vectors) // 2
        writer.append(pictures[:half], vectors[:half])
        writer.append(pictures[half:], vectors[half:])
    return found


def expected(vectors, queries, k, allowed):
    scores = queries.astype("float64") @ vectors.T.astype("float64")
    scores[:, ~allowed] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("count", [1, 1023, 1025, 2500])
def test_the_best_are_found(tmp_path, dtype, count, monkeypatch):
    """In whole tiles, whole steps and what is left of a step."""
    monkeypatch.setattr(scanning, "SIZES", (2 * store.STEP, store.STEP))
    rng = np.random.default_rng(count)
    vectors, queries = unit(rng.normal(size=[count, DIM])), unit(rng.normal(size=[3, DIM]))
    allowed = rng.random(count) < 0.8
    allowed[0] = True
    with made(tmp_path, vectors, dtype).reading() as (_, snapshot):
        scanner = scanning.Scanner(snapshot)
        for some in (queries, queries[:1]):
            rows, scores = scanner.search(some, 7, allowed)
            truth, cosines = expected(vectors, some, min(7, allowed.sum()), allowed)
            np.testing.assert_array_equal(rows, truth)
            np.testing.assert_allclose(scores, cosines, atol=1e-6)


def test_of_equals_the_first_comes_first(tmp_path):
    vectors = unit(np.ones([40, DIM]) * np.where(np.arange(40) % 2, 1, -1)[:, None])
    with made(tmp_path, vectors, "float32").reading() as (_, snapshot):
        rows, scores = scanning.Scanner(snapshot).search(vectors[1:2], 40, snapshot.alive)
    np.testing.assert_array_equal(rows[0], [*range(1, 40, 2), *range(0, 40, 2)])
    np.testing.assert_allclose(scores[0], [1] * 20 + [-1] * 20, rtol=1e-6)


def test_more_queries_than_are_scanned_at_a_time(tmp_path):
    rng = np.random.default_rng(1)
    count = 2 * scanning.QUERIES + 1
    vectors, queries = unit(rng.normal(size=[300, DIM])), unit(rng.normal(size=[count, DIM]))
    with made(tmp_path, vectors, "int8").reading() as (_, snapshot):
        rows, _ = scanning.Scanner(snapshot).search(queries, 5, snapshot.alive)
    np.testing.assert_array_equal(rows, expected(vectors, queries, 5, np.ones(300, bool))[0])


def test_codes_are_half_a_step_away_at_most():
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=[50, DIM]))
    found = writing.quantized(vectors, "int8")
    assert found["codes"].dtype == np.int8
    away = np.abs(found["codes"] * found["scales"].astype("float64") - vectors)
    assert (away <= np.abs(vectors).max(axis=1, keepdims=True) / 127 * 0.5001).all()
    assert np.abs(found["codes"].astype(int)).max() == 127


def test_nothing_is_copied(tmp_path):
    """What is scanned is the memory of the file's mapping."""
    vectors = unit(np.random.default_rng(3).normal(size=[10, DIM]))
    with made(tmp_path, vectors, "float16").reading() as (_, snapshot):
        tile = scanning.Scanner(snapshot)._tiles[0][1]
    snapshot.arrays["codes"][0] = 7  # Copy on write: the file stays as it is.
    assert tile[0, 0].numpy() == 7
    half = vectors[0].astype("float16")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "codes-0", "float16", DIM), half)
    with made(tmp_path / "float32", vectors, "float32").reading() as (_, snapshot):
        scanner = scanning.Scanner(snapshot)
    snapshot.arrays["vectors"][0] = 7
    assert scanner.vectors[0, 0] == 7
    assert scanner.search(unit(np.ones([1, DIM])), 1, snapshot.alive)[1][0, 0] > 1
    stored = np.fromfile(tmp_path / "float32" / "vectors-0", "float32", DIM)
    np.testing.assert_array_equal(stored, vectors[0])


def test_systems_that_do_not_say_which_processors_are_ours(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    vectors = unit(np.random.default_rng(3).normal(size=[10, DIM]))
    with made(tmp_path, vectors, "int8").reading() as (_, snapshot):
        rows, _ = scanning.Scanner(snapshot).search(vectors[4:5], 1, snapshot.alive)
    assert rows.tolist() == [[4]]


def test_lists_and_what_came_since(tmp_path, monkeypatch):
    """With all lists looked at, an approximate search finds the best, of those that are alive."""
    monkeypatch.setattr(approximate, "_PART", 1.0)
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng.normal(size=[700, DIM])), unit(rng.normal(size=[3, DIM]))
    found = made(tmp_path, vectors[:500], "int8")
    with writing.writing(found) as writer:
        writer.make_lists(verbose=False)
        writer.append([Picture("new", b"", None, "{}")] * 1, vectors[500:501])
        writer.append([Picture(f"n{i}", b"", None, "{}") for i in range(199)], vectors[501:])
        writer.change(("DELETE FROM pictures WHERE row = ?", [(i,) for i in range(0, 700, 3)]))
    with found.reading() as (_, snapshot):
        path, rows = snapshot.lists
        assert rows == 500
        lists = approximate.Lists(path)
        scanner = scanning.Scanner(snapshot)
        best, scores = scanner.search(queries, 9, snapshot.alive, (lists, rows))
    allowed = np.arange(700) % 3 > 0
    truth, cosines = expected(vectors, queries, 9, allowed)
    np.testing.assert_array_equal(best, truth)
    np.testing.assert_allclose(scores, cosines, atol=1e-6)
    assert (truth < 500).any() and (truth >= 500).any()

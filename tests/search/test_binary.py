"""One bit a number: weighted Hamming distances as a loop counts them, and the vectors decide."""

import numpy as np
import pytest

from keras_lit.search import binary, scanning
from tests.search.test_scanning import DIM, expected, made, unit


def rotation(dim):
    """The Q of QR by Cholesky's way; that of a positive diagonal is the only one."""
    matrix = np.random.RandomState(dim).normal(size=[dim, dim])
    return matrix @ np.linalg.inv(np.linalg.cholesky(matrix.T @ matrix).T)


@pytest.mark.parametrize("dim", [5, 64, 70])
def test_distances(dim):
    rng = np.random.default_rng(dim)
    vectors, queries = unit(rng.normal(size=[9, dim])), unit(rng.normal(size=[3, dim]))
    found = binary.closeness(binary.codes(vectors), binary.planes(queries))
    turned = [x @ rotation(dim) for x in (vectors, queries)]
    for i, query in enumerate(turned[1]):
        weights = np.round(15 * np.abs(query) / np.abs(query).max())
        for j, vector in enumerate(turned[0]):
            assert found[i, j] == -sum(weights[(query > 0) != (vector > 0)])


def test_codes_are_a_32nd_of_the_vectors():
    vectors = np.ones([3, 128], "float32")
    assert binary.codes(vectors).nbytes * 32 == vectors.nbytes
    assert binary.codes(np.ones([3, 65], "float32")).shape == (3, 2)  # Filled up.


@pytest.mark.parametrize("queries", [1, scanning.QUERIES + 1])
def test_the_vectors_decide(tmp_path, monkeypatch, queries):
    """What is found has the cosines of the vectors, and is most of the best; `exact`: all of it."""
    monkeypatch.setattr(scanning, "TILE", 1024)
    rng = np.random.default_rng(queries)
    vectors = unit(rng.normal(size=[2500, DIM]))
    asked = unit(vectors[:queries] + 0.1 * rng.normal(size=[queries, DIM]))
    allowed = rng.random(2500) < 0.9
    truth, _ = expected(vectors, asked, 7, allowed)
    with made(tmp_path, vectors, "binary").reading() as (_, snapshot):
        assert set(snapshot.arrays) == {"vectors", "codes"}
        scanner = scanning.Scanner(snapshot)
        rows, scores = scanner.search(asked, 7, allowed)
        exact, _ = scanner.search(asked, 7, allowed, exact=True)
    np.testing.assert_array_equal(exact, truth)
    of_rows = np.einsum("nkd,nd->nk", vectors[rows].astype("float64"), asked)
    np.testing.assert_allclose(scores, of_rows, atol=1e-6)
    assert allowed[rows].all()
    common = np.mean([len({*a} & {*b}) / 7 for a, b in zip(rows, truth, strict=True)])
    assert common > 0.9

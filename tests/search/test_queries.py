"""Hostile queries get an answer or one sentence."""

import itertools
import pathlib

import numpy as np
import PIL.Image
import pytest

from keras_lit.search import Index, Query
from tests import hostile


def test_sums():
    query = -(2 * Query("a") - Query("b") * 0.5) + "c"
    assert query.terms == [(-2.0, "a"), (0.5, "b"), (1.0, "c")]
    assert ("c" - query).terms[0] == (1.0, "c")
    assert repr(Query(np.ones(3)) + "a") == "Query(+1 * embedding +1 * 'a')"
    assert (sum([Query("a"), Query("b")]) / 2).terms == [(0.5, "a"), (0.5, "b")]
    picture = np.zeros([2, 2, 3], "uint8")
    assert [weight for weight, _ in (picture - query).terms] == [1.0, 2.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (" \n", ValueError, "should not be empty"),
        ("\ud800", ValueError, "should be Unicode"),
        (pathlib.Path("/nowhere/x.png"), ValueError, "cannot be read: .*No such file"),
        (pathlib.Path("a\0b"), ValueError, "cannot be read: embedded null byte"),
        (np.zeros([4, 4, 3]), TypeError, "A query should be.*Received: float64 \\[4, 4, 3\\]"),
        (np.zeros([4]), ValueError, "finite and not zero"),
        (np.array([1.0, np.nan]), ValueError, "finite and not zero"),
        (None, TypeError, "Received: None"),
        (7, TypeError, "Received: 7"),
        (["a"], TypeError, "Received: <U1"),
    ],
)
def test_wrong_content(content, error, message):
    with pytest.raises(error, match=message):
        Query(content)


def test_a_pil_picture_is_what_it_shows(model, folder):
    """Its palette and how it was held, too."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, [9, 7, 3], "uint8")
    path = folder / "0.png"
    PIL.Image.fromarray(pixels).quantize(8).save(path, exif=exif)
    index = Index.build(model, folder, folder.parent / "index", verbose=0)
    assert index.search(PIL.Image.open(path), k=1)[0].name == "0.png"
    np.testing.assert_allclose(index.search(PIL.Image.open(path), k=1)[0].score, 1, atol=1e-6)
    rows = [{"image": PIL.Image.open(path)}]
    other = Index.build(model, rows, folder.parent / "other", verbose=0)
    np.testing.assert_allclose(other.search(path)[0].score, 1, atol=1e-6)


def test_wrong_queries(model, folder):
    index = Index.build(model, folder, folder.parent / "index", verbose=0)
    with pytest.raises(ValueError, match="width of the index, \\[16\\]. Received shape: \\[3\\]"):
        index.search(np.ones(3))
    with pytest.raises(ValueError, match="does not decode. .*Received: 13 bytes"):
        index.search(b"not a picture")
    with pytest.raises(ValueError, match="its terms cancel. Received: Query\\(.1 \\* 'a dog' -1"):
        index.search(Query("a dog") - "a dog")
    with pytest.raises(ValueError, match="`weight` should be a finite number"):
        Query("a dog", float("nan"))
    with pytest.raises(ValueError, match="`weight` should be a finite number. Received: Query"):
        Query("a dog") * Query("a cat")
    with pytest.raises(ValueError, match="divided by a number other than 0. Received: 0"):
        Query("a dog") / 0
    path = next(folder.glob("*.png"))
    with pytest.warns(UserWarning, match="is a file, and was searched for as a sentence.*Path"):
        index.search(str(path))
    with pytest.raises(ValueError, match="`k` should be a positive whole number"):
        index.search("a dog", k=0)
    with pytest.raises(TypeError, match="should be a list of queries"):
        index.search_many("a dog")
    with pytest.raises(TypeError, match="should be a list of queries"):
        index.search_many(np.array("a dog"))
    assert index.search_many([]) == []
    with pytest.raises(ValueError, match="There should be a query"):
        index.recall([])
    assert (
        repr(index) == f"<Index of 12 pictures in {str(folder.parent / 'index')!r}, float32 [16]>"
    )


@pytest.mark.slow
def test_a_thousand_hostile_queries(model, folder):
    index = Index.build(model, folder, folder.parent / "index", verbose=0)
    rng = np.random.default_rng(0)
    texts = ["", "\0", "'; DROP TABLE pictures; --", "a" * 100_000, "\u202e", "🦜" * 500, "%s{}"]
    texts += ["".join(map(chr, rng.integers(1, 0x10FFFF, 20))) for _ in range(293)]
    pictures = [contents for _, contents in itertools.islice(hostile.images(), 300)]
    files = []
    for i, contents in enumerate(pictures):
        files.append(folder.parent / f"query{i}")
        files[-1].write_bytes(contents)
    arrays = [rng.normal(size=rng.integers(0, 4, rng.integers(0, 4))) for _ in range(100)]
    answered = 0
    for query in [*texts, *pictures, *files, *arrays]:
        try:
            hits = index.search(query, where={"name": query} if isinstance(query, str) else None)
        except (ValueError, TypeError) as error:
            assert 20 < len(str(error)) < 1000, error
            continue
        answered += 1
        assert all(np.isfinite(hit.score) for hit in hits)
    assert answered > 100
    assert len(index) == 12
    for file in files[:150]:
        file.rename(folder / f"{file.name}.png")
    with pytest.warns(UserWarning, match="pictures are not in the index"):
        index.update(verbose=0)
    found = {*index.contents()[1], *index.refused}
    assert found == {str(x.relative_to(folder)) for x in folder.rglob("*.png")}
    assert all(20 < len(reason) < 300 for reason in index.refused.values())

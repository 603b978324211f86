"""Pictures are found, by sentences, pictures and sums; what changed is encoded, and nothing else."""

import os
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.search import Changes, Index, Query, approximate, updating
from keras_lit.search.writing import writing
from tests import small


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures each update has encoded, as the tower sees them."""
    seen, encode = [], updating.encode

    def count(tower, images, batch_size):
        seen.append(len(images))
        return encode(tower, images, batch_size)

    monkeypatch.setattr(updating, "encode", count)
    return seen


def build(model, folder, **options):
    return Index.build(model, folder, folder.parent / "index", verbose=0, batch_size=5, **options)


def names(index):
    return {hit.name: hit.id for hit in index.search(np.ones(16), k=1000)}


def cosines(vectors, folder, embedding):
    """{name: cosine} of all files, by NumPy."""
    contents = {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*.png")}
    return {name: vectors[content] @ embedding for name, content in contents.items()}


def assert_found(hits, expected):
    """The best, each once, with their scores; of equals any."""
    scores = [hit.score for hit in hits]
    best = sorted(expected.values(), reverse=True)[: len(hits)]
    assert len({hit.name for hit in hits}) == len(hits)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    np.testing.assert_allclose(scores, [expected[hit.name] for hit in hits], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_sentences_and_pictures(model, vectors, folder, dtype):
    index = build(model, folder, dtype=dtype)
    assert len(index) == 12
    text = vectors["a red dog"]
    hits = index.search("a red dog", k=5)
    assert_found(hits, cosines(vectors, folder, text))
    assert hits[0].path.read_bytes() == (folder / hits[0].name).read_bytes()
    picture = folder / "deep" / "3.png"
    image = vectors[picture.read_bytes()]
    pixels = tf.io.decode_image(picture.read_bytes()).numpy()
    for query in (picture, picture.read_bytes(), pixels, image):
        assert_found(index.search(query), cosines(vectors, folder, image))
    total = 2 * text + image - 0.5 * vectors["the moon"]
    expected = cosines(vectors, folder, total / np.linalg.norm(total))
    query = 2 * Query("a red dog") + picture - 0.5 * Query("the moon")
    assert_found(index.search(query), expected)
    first, second = index.search_many(["a red dog", query], k=3)
    assert [x.name for x in first] == [x.name for x in hits[:3]]
    assert_found(second, expected)


def test_the_first_numbers_of_each_embedding(model, vectors, folder):
    """Pictures, sentences and sums, all cut before they are of unit length."""
    index = build(model, folder, dim=6, dtype="int8")
    short = {key: x[:6] / np.linalg.norm(x[:6]) for key, x in vectors.items()}
    picture = folder / "deep" / "3.png"
    image, text = short[picture.read_bytes()], short["a red dog"]
    assert_found(index.search("a red dog"), cosines(short, folder, text))
    total = (image - 0.5 * text) / np.linalg.norm(image - 0.5 * text)
    hits = index.search(Query(picture) - 0.5 * Query("a red dog"))
    assert_found(hits, cosines(short, folder, total))
    assert index.dim == 6 and index.contents()[2].shape == (12, 6)


def test_an_index_is_opened_again_with_another_text_tower(model, vectors, folder):
    build(model, folder)
    other = small.make_model()
    other.text_tower.set_weights([-w for w in other.text_tower.get_weights()])
    index = Index(folder.parent / "index", other)
    assert_found(index.search("a dog"), cosines(vectors, folder, other.encode_text(["a dog"])[0]))
    with pytest.raises(ValueError, match="without a model takes embeddings only"):
        Index(folder.parent / "index").search("a dog")


def test_another_model_is_refused(model, folder):
    build(model, folder)
    other = small.make_model()
    other.image_tower.head.bias.assign_add(other.image_tower.head.bias + 1)
    with pytest.raises(ValueError, match="another image tower.*Differences: head"):
        Index(folder.parent / "index", other)
    with pytest.raises(ValueError, match="another image tower.*Nothing was changed"):
        build(other, folder)
    with pytest.raises(
        ValueError, match="holds an index of `dtype`='float32'. Received `dtype`: 'int8'"
    ):
        build(model, folder, dtype="int8")
    with pytest.raises(ValueError, match="holds an index of `dim`=16. Received `dim`: 8"):
        build(model, folder, dim=8)
    with pytest.raises(ValueError, match="`dim` should be at most 16"):
        build(model, folder, dim=17)


@pytest.mark.parametrize("change", ["fit", "weights"])
def test_a_model_that_has_trained_since_is_refused(folder, change):
    """Rows of two towers would lie in one index, which opens as that of the first."""
    model = small.make_model("LU")  # Its image head trains.
    index = build(model, folder)
    before = index.contents()[1]
    if change == "fit":
        model.compile("sgd")
        model.fit(small.make_pairs(8).batch(8), verbose=0)
    else:
        model.image_tower.head.bias.assign_add(model.image_tower.head.bias + 1)
    for query in ("a red dog", folder / "0.png"):
        with pytest.raises(ValueError, match="another image tower"):
            index.search(query)
    shutil.copy(folder / "0.png", folder / "more.png")
    (folder / "other.png").write_bytes(tf.io.encode_png(np.zeros([9, 9, 3], "uint8")).numpy())
    with pytest.raises(ValueError, match="another image tower.*Nothing was changed"):
        index.update(verbose=0)
    assert index.contents()[1] == before


def test_an_update_encodes_what_is_new(model, vectors, folder, encoded):
    index = build(model, folder)
    assert encoded == [5, 5, 2]
    before = names(index)
    assert index.update(verbose=0) == Changes()
    assert encoded == [5, 5, 2]
    os.rename(folder / "0.png", folder / "deep" / "zero.png")  # Renamed.
    shutil.copy(folder / "2.png", folder / "copy.png")  # A copy, whose content is known.
    (folder / "4.png").unlink()  # Gone.
    os.utime(folder / "6.png", (1, 1))  # Another time, the same content.
    new = [x["image"] for x in small.encoded_pairs(15).skip(12).as_numpy_iterator()]
    (folder / "8.png").write_bytes(new[0])  # Changed.
    (folder / "new.png").write_bytes(new[1])
    changes = index.update(verbose=0)
    assert changes == Changes(added=2, changed=1, renamed=1, removed=1, encoded=2, refused=0)
    assert encoded == [5, 5, 2, 2]
    after = names(index)
    assert after["deep/zero.png"] == before["0.png"]
    assert after["8.png"] == before["8.png"]
    assert set(after) == {str(x.relative_to(folder)) for x in folder.rglob("*.png")}
    embedding = vectors["a cat"]
    assert_found(index.search("a cat", k=100), cosines(vectors, folder, embedding))
    assert index.update(verbose=0) == Changes()


def test_contents_that_change_places(model, folder, encoded):
    """Two files swap names; one is moved onto another."""
    index = build(model, folder)
    one, two = folder / "0.png", folder / "2.png"
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    os.replace(folder / "4.png", folder / "6.png")
    kept = names(index)["4.png"]
    assert index.update(verbose=0) == Changes(changed=2, renamed=1, removed=0)
    assert len(encoded) == 3
    assert names(index)["6.png"] == kept
    for path in (one, two, folder / "6.png"):
        assert index.search(path, k=1)[0].name == str(path.relative_to(folder))
    assert len(index) == 11


def test_holes_are_closed(model, vectors, folder, monkeypatch):
    monkeypatch.setattr(updating, "STEP", 3)
    index = build(model, folder, dtype="int8")
    reader = Index(folder.parent / "index", model)
    ids = names(reader)
    for i in range(8):
        next(folder.rglob(f"{i}.png")).unlink()
    assert index.update(verbose=0).removed == 8
    assert sorted(x.name for x in (folder.parent / "index").glob("*-[0-9]*")) == [
        *("codes-1", "scales-1", "vectors-1")
    ]
    for opened in (index, reader):
        assert names(opened) == {
            name: ids[name] for name in ("8.png", "deep/9.png", "10.png", "deep/11.png")
        }
        embedding = vectors["a cat"]
        assert_found(opened.search("a cat"), cosines(vectors, folder, embedding))


def test_what_does_not_decode_is_named(model, folder, encoded):
    (folder / "bad.png").write_bytes(b"\x89PNG, but not really")
    with pytest.warns(UserWarning, match=r"1 pictures are not in the index.*'bad.png': It is cut"):
        index = build(model, folder)
    assert index.refused == {"bad.png": "It is cut off or damaged."}
    assert len(index) == 12
    with pytest.warns(UserWarning, match="1 pictures"):
        assert index.update(verbose=0) == Changes(refused=1)
    assert encoded == [5, 5, 3]  # It is not tried again.
    (folder / "0.png").write_bytes(b"damaged since")
    shutil.copy(folder / "2.png", folder / "bad.png")
    with pytest.warns(UserWarning, match="'0.png'"):
        index.update(verbose=0)
    assert set(index.refused) == {"0.png"}
    assert "0.png" not in names(index)
    assert "bad.png" in names(index)
    (folder / "0.png").unlink()
    index.update(verbose=0)
    assert index.refused == {}


def test_pictures_of_other_kinds_are_said(model, folder):
    for name in ("a.heic", "b.TIFF", ".c.heic", "notes.txt"):
        (folder / name).write_bytes(b"something")
    with pytest.warns(UserWarning, match="2 pictures in .* not read, and left out: a.heic, b.TIFF"):
        assert len(build(model, folder)) == 12


def test_names_that_are_no_utf8(model, folder):
    name = os.fsdecode(b"\xff\xfe.png")
    os.rename(folder / "0.png", folder / name)
    index = build(model, folder)
    assert index.search(folder / name, k=1)[0].name == name
    assert index.update(verbose=0) == Changes()


def test_pairs(model, vectors, tmp_path, encoded):
    labels = {"label": [i % 3 for i in range(12)], "tags": [["a", f"t{i}"] for i in range(12)]}
    pairs = small.encoded_pairs(12, name=[f"p{i}" for i in range(12)], **labels)
    index = Index.build(model, pairs, tmp_path, batch_size=8, verbose=0)
    images = np.stack([vectors[x["image"]] for x in pairs.as_numpy_iterator()])
    hits = index.search("a dog", k=12, where={"label": 1})
    scores = images @ vectors["a dog"]
    assert [x.name for x in hits] == [f"p{i}" for i in np.argsort(-scores) if i % 3 == 1]
    assert hits[0].metadata["label"] == 1
    assert hits[0].metadata["text"].startswith("caption number")
    assert hits[0].path is None

    def found(where):
        return {x.name for x in index.search("a dog", k=12, where=where)}

    assert found({"label": [0, 2], "tags": ["t3", "t4", "t5"]}) == {"p3", "p5"}
    assert found({"label": range(3), "name": "p1*"}) == {"p1", "p10", "p11"}
    assert found({"text": "caption number 7"}) == {"p7"}
    assert found({"label": "1"}) == found({"name": []}) == set()
    assert found({"name": ["p1", "p?"], "label": 1}) == {"p1", "p4", "p7"}
    with pytest.warns(UserWarning, match="No picture of the index has 'no'.*'label', 'name', 't"):
        assert found({"no": 1, "label": 1}) == set()
    more = small.encoded_pairs(14).skip(10).enumerate(10)
    more = more.map(lambda i, x: {"image": x["image"], "name": tf.strings.as_string(i)})
    assert index.update(more, remove_missing=False, verbose=0).encoded == 2
    assert len(index) == 16
    with pytest.raises(ValueError, match="needs a `source`"):
        index.update()
    pixels = [{"image": x, "name": f"p{i}"} for i, x in enumerate(small.make_pixels(3))]
    changes = index.update(pixels, verbose=0)
    assert changes.encoded + changes.changed + changes.added <= 6
    assert set(names(index)) == {"p0", "p1", "p2"}
    np.testing.assert_allclose(index.search(pixels[1]["image"], k=1)[0].score, 1, atol=1e-6)


def test_vectors_are_of_unit_length_and_those_of_the_model(model, vectors, folder):
    index = build(model, folder)
    rows = np.fromfile(folder.parent / "index" / "vectors-0", "float32").reshape(-1, 16)[:12]
    images = np.stack([vectors[x.read_bytes()] for x in sorted(folder.rglob("*.png"))])
    np.testing.assert_allclose(rows, images, atol=1e-6)
    del index


def test_one_writes_and_others_read(model, folder, monkeypatch):
    """Adds, renames, removes and closes the holes; a picture has its score, under either name."""
    index = build(model, folder)
    scores = {hit.id: hit.score for hit in index.search(np.ones(16), k=100)}
    with writing(index._store), pytest.raises(RuntimeError, match="Another process is writing"):
        index.update(verbose=0)
    reader, wrong, done = Index(folder.parent / "index", model), [], threading.Event()

    def read():
        while not done.is_set():
            hits = reader.search(np.ones(16), k=100)
            found = [hit.score for hit in hits]
            same = [abs(scores.get(hit.id, hit.score) - hit.score) < 1e-6 for hit in hits]
            once = len({hit.name for hit in hits}) == len(hits)
            ordered = found == sorted(found, reverse=True)
            if not (len(hits) in range(12, 43) and ordered and all(same) and once):
                wrong.append(hits)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i, pair in enumerate(small.encoded_pairs(42).skip(12).as_numpy_iterator()):
        (folder / f"new{i}.png").write_bytes(pair["image"])
    index.update(batch_size=2, verbose=0)
    full = len(reader)
    monkeypatch.setattr(updating, "STEP", 1)
    for i in range(24):
        (folder / f"new{i}.png").unlink()
    (folder / "new25.png").rename(folder / "renamed.png")
    changes = index.update(verbose=0)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert full == 42 and len(reader) == 18
    assert (changes.removed, changes.renamed, changes.encoded) == (24, 1, 0)
    assert (folder.parent / "index" / "vectors-1").exists()  # The holes are closed.


def test_wrong_sources(model, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        Index.build(model, tmp_path / "nowhere", tmp_path / "a", verbose=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="should hold pictures.*Received none"):
        Index.build(model, tmp_path / "empty", tmp_path / "b", verbose=0)
    with pytest.raises(FileNotFoundError, match="no index.*Index.build"):
        Index(tmp_path / "c", model)
    for rows in ([{"name": "x"}], [b"picture"]):
        with pytest.raises(ValueError, match=r"Pictures should be dicts.*x\.read_bytes\(\)"):
            Index.build(model, rows, tmp_path / "d", verbose=0)
    for rows in (5, model, np.array(1), tf.constant("photos")):
        with pytest.raises(TypeError, match="Pictures should be a folder .*Received: "):
            Index.build(model, rows, tmp_path / "d", verbose=0)
    rows = [{"image": x, "name": "1.jpg"} for x in small.make_pixels(2)]
    with pytest.raises(ValueError, match="a name of its own. Received two named '1.jpg'"):
        Index.build(model, rows, tmp_path / "f", verbose=0)
    with pytest.raises(TypeError, match="`model` should be a `LiT`. Received: "):
        Index.build(folder, model, tmp_path / "g")
    with pytest.raises(ValueError, match="uint8 pixels.*Received: float64"):
        Index.build(model, [{"image": np.zeros([8, 8, 3])}], tmp_path / "e", verbose=0)
    index = build(model, folder)
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="Nothing was changed"):
        index.update()
    assert len(index) == 12
    index.update(tmp_path / "moved", verbose=0)
    assert index.search("a dog")[0].path.exists()
    (tmp_path / "other").mkdir()
    shutil.copy(next((tmp_path / "moved").glob("*.png")), tmp_path / "other")
    with pytest.warns(UserWarning, match="held pictures of '.*moved'; 11 that are not in '.*other"):
        Index.build(model, tmp_path / "other", folder.parent / "index", verbose=0)


def test_damage_is_named(model, vectors, folder):
    build(model, folder)
    directory = folder.parent / "index"
    vectors = (directory / "vectors-0").read_bytes()
    (directory / "vectors-0").write_bytes(vectors[:100])
    with pytest.raises(ValueError, match="vectors-0' is damaged.*Build the index anew"):
        Index(directory, model).search("a dog")
    for extra in directory.glob("index.sqlite-*"):
        extra.unlink()
    (directory / "index.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(ValueError, match="damaged or not an index"):
        Index(directory, model)


def test_approximate(model, vectors, folder, monkeypatch):
    monkeypatch.setattr(approximate, "_POINTS", 1)
    index = build(model, folder, approximate=True, dtype="int8")
    directory = folder.parent / "index"
    assert [x.name for x in directory.glob("lists*")] == ["lists-12-0"]
    expected = cosines(vectors, folder, vectors["a dog"])
    assert_found(index.search("a dog", k=3, exact=True), expected)
    assert_found(index.search("a dog", k=3, where={"name": "*"}), expected)
    # One list of twelve is looked at, and then all, for it holds fewer pictures.
    assert_found(index.search("a dog", k=12), expected)
    monkeypatch.setattr(approximate, "_PART", 1.0)
    assert index.recall(["a dog", "a cat"]) == 1
    assert_found(index.search("a dog", k=3), expected)
    for i, pair in enumerate(small.encoded_pairs(16).skip(12).as_numpy_iterator()):
        (folder / f"new{i}.png").write_bytes(pair["image"])
    index.update(verbose=0)
    assert_found(index.search("a dog", k=16), cosines(vectors, folder, vectors["a dog"]))
    (lists,) = directory.glob("lists*")
    assert lists.name == "lists-16-0"
    lists.unlink()  # The open index has it mapped.
    lists.write_bytes(b"junk")
    with pytest.raises(ValueError, match="lists-16-0' is damaged. Delete that file"):
        Index(directory, model).search("a dog")
    lists.unlink()
    assert len(Index(directory, model).search("a dog", k=16)) == 16
    monkeypatch.setattr(approximate, "available", lambda: False)
    assert len(Index(directory, model).search("a dog", k=16)) == 16
    with pytest.raises(ImportError, match=r"needs faiss: `pip install keras_lit\[data\]`"):
        build(model, folder, approximate=True, dtype="int8")

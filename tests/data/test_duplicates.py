import io
import os

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.data import duplicates, filters
from keras_lit.data.duplicates import match_embeddings, match_hashes, perceptual_hashes

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("faiss")
pytest.importorskip("imagehash")


def found(matches):
    return set(zip(matches.queries.tolist(), matches.references.tolist(), strict=True))


def bits_apart(first, second):
    return np.unpackbits(first[:, None] ^ second[None], axis=-1).sum(-1)


def hashes_with_near_ones(count):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, [count, 32]).astype("uint8")
    flipped = np.unpackbits(hashes[: count // 2], axis=1)
    for i, row in enumerate(flipped):
        row[rng.choice(256, i % 60, replace=False)] ^= 1
    return np.concatenate([hashes, np.packbits(flipped, axis=1)])


@pytest.mark.parametrize("distance", [0, 7, 32, 42])
def test_hashes_match_as_all_pairs_do(distance):
    hashes = hashes_with_near_ones(120)
    queries, references = hashes[60:], hashes[:120]
    expected = {(q, r) for q, r in np.argwhere(bits_apart(queries, references) <= distance)}
    matches = match_hashes(queries, references, distance)
    assert found(matches) == expected and len(expected) > 60
    apart = bits_apart(queries, references)[matches.queries, matches.references]
    np.testing.assert_allclose(matches.scores, 1 - apart / 256, rtol=1e-6)
    within = {
        (max(p), min(p))
        for p in np.argwhere(bits_apart(hashes, hashes) <= distance)
        if p[0] != p[1]
    }
    assert found(match_hashes(hashes, max_distance=distance)) == within


def test_hashes_that_differ_in_every_piece():
    """Three pieces of 24 bits, and one bit of each."""
    hash_ = np.random.default_rng(0).integers(0, 256, [1, 32]).astype("uint8")
    other = hash_.copy()
    other[0, [0, 3, 6]] ^= 1
    assert found(match_hashes(hash_, other, max_distance=4)) == {(0, 0)}


def test_equal_hashes_do_not_multiply():
    hashes = np.zeros([2000, 8], "uint8")
    matches = match_hashes(hashes, max_distance=4)
    assert found(matches) == {(i, 0) for i in range(1, 2000)}
    assert found(match_hashes(hashes[:2], hashes, 4)) == {(0, 0), (1, 0)}
    assert matches.repeats(2000).tolist() == list(range(1, 2000))


@pytest.mark.parametrize("exact_below", [5000, 10])
def test_embeddings_match_as_all_pairs_do(exact_below, monkeypatch):
    monkeypatch.setattr(duplicates, "_EXACT_BELOW", exact_below)
    rng = np.random.default_rng(0)
    references = rng.normal(size=[400, 16])
    noise = rng.normal(size=[200, 16]) * np.linspace(0, 0.6, 200)[:, None]
    queries = 3 * (references[:200] + noise)
    cosines = (
        keras_lit.towers.encoding.unit_length(queries).numpy()
        @ keras_lit.towers.encoding.unit_length(references).numpy().T
    )
    expected = {(q, r) for q, r in np.argwhere(cosines >= 0.9)}
    matches = match_embeddings(queries, references)
    assert found(matches) == expected and 100 < len(expected) < 200
    np.testing.assert_allclose(
        matches.scores, cosines[matches.queries, matches.references], rtol=1e-5
    )
    both = np.concatenate([references, queries])
    cosines = (
        keras_lit.towers.encoding.unit_length(both).numpy()
        @ keras_lit.towers.encoding.unit_length(both).numpy().T
    )
    within = {(q, r) for q, r in np.argwhere(cosines >= 0.9) if q > r}
    assert found(match_embeddings(both, neighbours=50)) == within


def test_an_image_is_none_of_its_neighbours():
    rows = np.eye(4)
    twins = rows + 0.1 * rows[::-1]
    matches = match_embeddings(np.concatenate([rows, twins]), neighbours=1)
    assert found(matches) == {(4, 0), (5, 1), (6, 2), (7, 3)}


def test_half_precision_misses_none_at_the_threshold():
    rng = np.random.default_rng(0)
    references = rng.normal(size=[30, 16]).astype("float32")
    queries = references + 0.3 * rng.normal(size=[30, 16]).astype("float32")
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, references)]
    for i, cosine in enumerate((units[0] * units[1]).sum(axis=1)):
        assert (i, i) in found(match_embeddings(queries, references, cosine - 1e-6))


def test_whitening_tells_similar_embeddings_apart():
    rng = np.random.default_rng(0)
    embeddings = 10 + 5 * rng.normal(size=[300, 1]) + 0.1 * rng.normal(size=[300, 12])
    copies = embeddings[:20] + 0.01 * rng.normal(size=[20, 12])
    assert len(match_embeddings(copies, embeddings, 0.9, neighbours=300).queries) > 5000
    matches = match_embeddings(copies, embeddings, 0.9, whiten=0.001)
    assert found(matches) >= {(i, i) for i in range(20)} and len(matches.queries) < 40


def test_matches_unite_report_and_remove():
    first = duplicates.Matches(np.array([1, 2]), np.array([0, 0]), np.float32([0.9, 0.95]))
    second = duplicates.Matches(np.array([2, 4]), np.array([0, 3]), np.float32([0.5, 0.6]))
    both = first | second
    assert found(both) == {(1, 0), (2, 0), (4, 3)}
    names = ["a", "b", "c", "d", "e"]
    assert both.report(names) == [
        {"query": "c", "reference": "a", "score": 0.95},
        {"query": "b", "reference": "a", "score": 0.9},
        {"query": "e", "reference": "d", "score": 0.6},
    ]
    groups = both.groups(6).tolist()
    assert groups[0] == groups[1] == groups[2] and groups[3] == groups[4]
    assert len(set(groups)) == 3 and both.repeats(6).tolist() == [1, 2, 4]
    pairs = tf.data.Dataset.from_tensor_slices({"text": names, "name": names})
    rule = duplicates.not_named(names[row] for row in both.repeats(5))
    left = [pair["name"] for pair in filters.apply(pairs, [rule]).as_numpy_iterator()]
    assert left == [b"a", b"d"]


def test_names_to_drop_may_be_in_any_encoding():
    names = [b"caf\xe9", "caf\u00e9".encode(), b"tea"]
    rule = duplicates.not_named([os.fsdecode(names[0])])
    assert [bool(rule.keep({"name": tf.constant(name)})) for name in names] == [False, True, True]


def test_hashes_of_bytes_pixels_and_pairs():
    pixels = np.random.default_rng(0).integers(0, 256, [6, 6, 3]).astype("uint8")
    pixels = np.kron(pixels, np.ones([8, 8, 1], "uint8"))
    png = tf.io.encode_png(pixels).numpy()
    expected = perceptual_hashes([pixels])
    np.testing.assert_array_equal(perceptual_hashes([png]), expected)
    pairs = tf.data.Dataset.from_tensors({"image": png, "text": "noise"})
    np.testing.assert_array_equal(perceptual_hashes(pairs), expected)
    mirrored = perceptual_hashes([pixels[:, ::-1]], mirrored=True)
    np.testing.assert_array_equal(mirrored, expected)
    assert bits_apart(perceptual_hashes([pixels[:, ::-1]]), expected) > 60
    assert perceptual_hashes([]).shape == (0, 32)


def test_bad_input():
    hashes, embeddings = np.zeros([2, 32], "uint8"), np.ones([2, 4])
    with pytest.raises(ValueError, match="multiple of 4. Received: 6"):
        perceptual_hashes([], 6)
    with pytest.raises(ValueError, match="from 0 to 42, a sixth of the 256 bits. Received: 43"):
        match_hashes(hashes, max_distance=43)
    with pytest.raises(ValueError, match="uint8 hashes. Received: float64"):
        match_hashes(embeddings)
    with pytest.raises(ValueError, match=r"same width.*\(2, 4\) and \(2, 3\)"):
        match_embeddings(embeddings, embeddings[:, :3])
    with pytest.raises(ValueError, match="finite. Received NaN"):
        match_embeddings(embeddings * np.nan)


def as_jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


def cropped(image):
    """5% of each side is cut off, half of that at either end."""
    x, y = round(image.width * 0.025), round(image.height * 0.025)
    return image.crop((x, y, image.width - x, image.height - y))


PLANTED = {
    "jpeg": as_jpeg,
    "half": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    "crop": cropped,
    "grey": lambda image: image.convert("L"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.slow
def test_planted_copies_of_stamps_are_found(stamps):
    """500 altered copies of stamps, and 300 other stamps, against 450 stamps."""
    pixels = [
        Image.fromarray(keras_lit.preprocessing.decoding.to_rgb(tf.constant(image)).numpy())
        for split in ("train", "test")
        for image in stamps.as_dataset(split=split).map(lambda x: x["image"]).as_numpy_iterator()
    ]
    order = np.random.default_rng(7).permutation(len(pixels))
    references = [pixels[i] for i in order[:450]]
    queries = [change(image) for change in PLANTED.values() for image in references[:100]]
    queries += [pixels[i] for i in order[450:750]]
    references, queries = ([np.array(x.convert("RGB")) for x in y] for y in (references, queries))

    tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)

    def embed(images):
        batches = (images[i : i + 10] for i in range(0, len(images), 10))
        rows = (tf.stack([tower.preprocessor(image) for image in batch]) for batch in batches)
        return np.concatenate([tower.predict_on_batch(batch) for batch in rows])

    hashed = match_hashes(perceptual_hashes(queries), perceptual_hashes(references), 40)
    embedded = match_embeddings(embed(queries), embed(references), 0.7, whiten=1.0)
    for name, matches in {
        "hash": hashed,
        "embedding": embedded,
        "either": hashed | embedded,
    }.items():
        rows = np.unique(matches.queries)
        recall = {
            kind: np.isin(rows, np.arange(100 * i, 100 * (i + 1))).mean() * len(rows) / 100
            for i, kind in enumerate(PLANTED)
        }
        precision = np.mean(rows < 500)
        print(
            f"{name:9} precision {precision:.3f}, recall",
            {k: round(float(v), 2) for k, v in recall.items()},
        )
    assert precision >= 0.95 and min(recall[kind] for kind in ("jpeg", "half", "crop")) >= 0.95


def test_no_names_drop_nothing():
    pairs = tf.data.Dataset.from_tensor_slices({"text": ["a dog", "a cat"], "name": ["a", "b"]})
    assert len(list(filters.apply(pairs, [duplicates.not_named([])]))) == 2


def test_a_copy_that_exif_turns_is_found():
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, [6, 8, 3]).astype("uint8"))
    picture, tag = picture.resize((64, 48), Image.Resampling.BICUBIC), Image.Exif()
    tag[0x112] = 6
    files = [io.BytesIO(), io.BytesIO()]
    picture.save(files[0], "PNG")
    picture.transpose(Image.Transpose.ROTATE_90).save(files[1], "PNG", exif=tag)
    first, turned = perceptual_hashes([file.getvalue() for file in files])
    np.testing.assert_array_equal(turned, first)

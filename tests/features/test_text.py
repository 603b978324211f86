"""Text features beside those of images: written, read, trained on, and only their own tower's."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit
from keras_lit import alignment
from keras_lit.evaluation import ImagesAndTexts
from keras_lit.features import feature_rows
from tests import small
from tests.small import encoded_pairs, files, make_tower, mirrored, precompute

CAPTIONS = [f"caption number {i}" for i in range(small.COUNT)]
SEVERAL = [["caption", "caption 2", "number"], ["number 4"], ["caption 5", "number 6"]] * 7
SEVERAL += [["number 7"]]


@functools.cache
def tokenizer():
    return keras_lit.tokenizers.train_wordpiece([*CAPTIONS, "tokens"], 60)


@functools.cache
def backbone(seed):
    keras.utils.set_random_seed(seed)
    return keras_lit.backbones.TextTransformer(60, 8, 16, 1, 32, 4, dropout=0.1)


def text_tower(seed=3, **options):
    """Its features do not know of the dropout."""
    return keras_lit.TextTower(backbone(seed), tokenizer(), 8, **options)


def expected(captions):
    """One caption at a time, eagerly."""
    tower = text_tower()
    return np.concatenate([tower.features(tower.preprocessor([x])).numpy() for x in captions])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    precompute(directory, text_tower=text_tower(), dtype="float32")
    return directory


def several_pairs():
    text = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(SEVERAL))
    pairs = tf.data.Dataset.zip(encoded_pairs(), text, tf.data.Dataset.range(22))
    return pairs.map(lambda pair, x, i: {**pair, "text": tf.convert_to_tensor(x), "group": i // 2})


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    directory = tmp_path_factory.mktemp("several")
    precompute(directory, text_tower=text_tower(), pairs=several_pairs(), dtype="float32")
    return directory


def rows(directory, **options):
    return list(keras_lit.features.load(directory, **options).as_numpy_iterator())


@pytest.mark.slow
def test_they_are_those_of_the_tower(cache):
    found = rows(cache)
    assert [row["text"].decode() for row in found] == CAPTIONS
    features = [row["text_features"] for row in found]
    np.testing.assert_allclose(features, expected(CAPTIONS), rtol=1e-4, atol=1e-5)
    plan = keras_lit.features.manifest(cache)["plan"]
    tower = keras_lit.fingerprints.fingerprint(text_tower())
    assert plan["text"] == {"dim": 16, "tower": tower}
    assert keras_lit.features.verify(cache)["pairs"] == 22
    data = tfds.builder_from_directory(cache).as_dataset(split="train").as_numpy_iterator()
    np.testing.assert_array_equal([row["text_features"] for row in data], features)


@pytest.mark.slow
def test_several_captions_keep_theirs(several):
    captions = [text for texts in SEVERAL for text in texts]
    known = dict(zip(captions, expected(captions), strict=True))
    counts = {"all": len(captions), "first": 22, "random": 22}
    for choice, count in counts.items():
        found = rows(several, captions=choice, seed=1)
        assert len(found) == count
        for row in found:
            wanted = known[row["text"].decode()]
            np.testing.assert_allclose(row["text_features"], wanted, rtol=1e-4, atol=1e-5)
    assert [row["group"] for row in found] == [i // 2 for i in range(22)], "other columns stay"
    data = tfds.builder_from_directory(several).as_dataset(split="train").as_numpy_iterator()
    assert [row["text_features"].shape for row in data] == [(len(x), 16) for x in SEVERAL]


@pytest.mark.slow
def test_as_many_captions_of_each_image(tmp_path):
    """Batches hold a fixed number of them without a ragged dimension."""
    other = "another one"
    pairs = encoded_pairs().map(lambda pair: {**pair, "text": tf.stack([pair["text"], other])})
    precompute(tmp_path, text_tower=text_tower(), pairs=pairs, dtype="float32")
    found = rows(tmp_path, captions="all")
    captions = [x for text in CAPTIONS for x in (text, other)]
    assert [row["text"].decode() for row in found] == captions
    features = [row["text_features"] for row in found]
    np.testing.assert_allclose(features, expected(captions), rtol=1e-4, atol=1e-5)


def test_captions_of_like_length_go_together():
    """Four at a time of each length: what they are encoded beside changes none, nor their order."""
    words = tokenizer()
    bert = keras_lit.backbones.BertEncoder(words.vocabulary_size(), 1, 2, 8, 16)
    tower = keras_lit.TextTower(bert, words, 12)
    assert tower.ignores_padding
    captions = ["number " * count for count in (5, 1, 3, 1, 2, 1)]
    found = feature_rows.text_encoder(tower, 4)(tf.constant(captions))
    each = [tower.features(tower.preprocessor([caption])).numpy() for caption in captions]
    np.testing.assert_allclose(found, np.concatenate(each), rtol=1e-4, atol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == 4


@pytest.mark.slow
def test_token_ids_are_text_too(tmp_path, cache):
    ids = text_tower().preprocessor(CAPTIONS).numpy()
    pairs = encoded_pairs().enumerate().map(lambda i, pair: {**pair, "text": tf.constant(ids)[i]})
    precompute(tmp_path, text_tower=text_tower(), pairs=pairs, dtype="float32")
    for found, wanted in zip(rows(tmp_path), rows(cache), strict=True):
        np.testing.assert_allclose(found["text_features"], wanted["text_features"], atol=1e-6)


@pytest.mark.slow
def test_interrupted_and_divided_it_writes_the_same(tmp_path, several, monkeypatch):
    write = keras_lit.features.tfrecords.write
    options = {"text_tower": text_tower(), "pairs": several_pairs(), "dtype": "float32"}

    def fail(directory, plan, shard, *args):
        if shard == 1:
            raise KeyboardInterrupt
        write(directory, plan, shard, *args)

    with monkeypatch.context() as patch:
        patch.setattr(keras_lit.features.tfrecords, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            precompute(tmp_path / "again", **options)
    with pytest.raises(FileNotFoundError, match="not finished: 1 shards"):
        keras_lit.features.load(tmp_path / "again")
    with pytest.raises(ValueError, match="text.tower.weights"):
        precompute(tmp_path / "again", **{**options, "text_tower": text_tower(4)})
    precompute(tmp_path / "again", **options)
    for job in range(2):
        precompute(tmp_path / f"job{job}", shard_index=job, num_shards=2, **options)
    parts = [tmp_path / "job0", tmp_path / "job1"]
    keras_lit.features.merge(tmp_path / "joined", parts=parts)
    assert files(tmp_path / "again") == files(tmp_path / "joined") == files(several)


@pytest.mark.slow
def test_what_cannot_be_encoded(tmp_path, cache):
    def texts(pair, text):
        return {**pair, "text": text}

    pairs = encoded_pairs(name=[f"{i}.png" for i in range(22)])
    blank = pairs.enumerate().map(lambda i, pair: texts(pair, tf.where(i == 9, " ", pair["text"])))
    with pytest.raises(ValueError, match=r"Pair 9 \(9.png\) has an empty caption or none"):
        precompute(tmp_path / "a", text_tower=text_tower(), pairs=blank)
    none = several_pairs().enumerate()
    none = none.map(lambda i, pair: texts(pair, pair["text"][: tf.where(i == 5, 0, 3)]))
    with pytest.raises(ValueError, match=r"Pair 5 \(without a name\) has an empty caption or none"):
        precompute(tmp_path / "b", text_tower=text_tower(), pairs=none)
    bare = encoded_pairs().map(lambda pair: {"image": pair["image"]})
    with pytest.raises(ValueError, match=r'There should be a field "text". Received: \[\]'):
        precompute(tmp_path / "c", text_tower=text_tower(), pairs=bare)
    with pytest.raises(ValueError, match="text tower has no backbone"):
        precompute(tmp_path / "d", text_tower=keras_lit.features.text_tower(cache))
    precompute(tmp_path / "e")
    with pytest.raises(ValueError, match="No text features are stored.*`text_tower`"):
        keras_lit.features.text_tower(tmp_path / "e")
    with pytest.raises(ValueError, match="text: expected None, received"):
        precompute(tmp_path / "e", text_tower=text_tower(), split="test")


# Training.


def run(pairs, towers, replicas=1, **compiled):
    with (mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(5)
        image, text = (tower() for tower in towers)
        image.add_head(10)
        text.add_head(10)
        for tower in (image, text):
            kernel = np.linspace(-1, 1, 10 * tower.feature_dim).reshape(-1, 10)
            tower.head.set_weights([kernel, np.arange(10) / 9])
        model = keras_lit.LiT(image, text, "LL")
        model.compile("sgd", **compiled)
        fitted = model.fit(pairs.batch(8, drop_remainder=True), epochs=2, verbose=0)
        evaluated = model.evaluate(pairs.batch(8), verbose=0)
    return model, fitted.history["loss"], evaluated


def stand_ins(directory):
    return [
        functools.partial(make, directory)
        for make in (keras_lit.features.image_tower, keras_lit.features.text_tower)
    ]


@pytest.fixture(scope="module")
def whole():
    """The run that encodes all pictures and captions each time."""
    return run(encoded_pairs(), (make_tower, text_tower))


@pytest.fixture(scope="module")
def trained(cache):
    return run(keras_lit.features.load(cache), stand_ins(cache))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"replicas": 2}, {"micro_batch_size": 3}], ids=["one", "replicas", "micro"]
)
def test_training_is_the_uncached_one(options, cache, whole):
    found = run(keras_lit.features.load(cache), stand_ins(cache), **options)
    np.testing.assert_allclose(found[1], whole[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], whole[2], rtol=1e-5)
    assert len(found[0].trainable_weights) == 5
    for side in ("image", "text"):
        weights = [getattr(x[0], f"{side}_tower").head.get_weights() for x in (found, whole)]
        for weight, wanted in zip(*weights, strict=True):
            np.testing.assert_allclose(weight, wanted, rtol=1e-4, atol=1e-5)


def test_it_encodes_features_and_is_saved(trained, whole, cache, tmp_path):
    model, wanted = trained[0], whole[0].encode_text(CAPTIONS)
    features = np.stack([row["text_features"] for row in rows(cache)])
    pairs = keras_lit.features.load(cache)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for found in (
        *(model.encode_text(x) for x in (features, pairs, pairs.batch(5))),
        model.predict(pairs.batch(8))["text_embeddings"],
        loaded.encode_text(features),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_towers_are_attached_again(trained, whole, tmp_path):
    tower = text_tower()
    model = trained[0].with_text_tower(tower).with_image_tower(make_tower())
    assert model.tuning == "LL" and model.text_tower is tower
    np.testing.assert_allclose(
        model.encode_text(CAPTIONS), whole[0].encode_text(CAPTIONS), atol=1e-5
    )
    keras_lit.export.save(model, tmp_path)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["encode_text"]
    found = served(text=tf.constant(CAPTIONS))["embedding"]
    np.testing.assert_allclose(found, model.encode_text(CAPTIONS), atol=1e-6)
    with pytest.raises(ValueError, match="text tower should be the one.*weights: expected"):
        trained[0].with_text_tower(text_tower(4))
    with pytest.raises(ValueError, match="text tower that is attached should have no head"):
        trained[0].with_text_tower(text_tower(projection_dim=3))


def test_text_is_refused_without_a_backbone(trained, cache, tmp_path):
    model, message = trained[0], "text tower has no backbone.*with_text_tower"
    pairs = keras_lit.features.load(cache)
    strings = pairs.map(lambda row: {k: x for k, x in row.items() if k != "text_features"})
    with pytest.raises(ValueError, match=message):
        model.fit(strings.batch(4))
    with pytest.raises(ValueError, match=message):
        model.encode_text(CAPTIONS)
    whole = model.with_image_tower(make_tower())
    with pytest.raises(ValueError, match=message):
        keras_lit.export.save(whole, tmp_path)
    keras_lit.export.save(whole, tmp_path, towers="image")
    with pytest.raises(ValueError, match='A text tower `from_features`.*"LL"'):
        model.tuning = "LU"
    with pytest.raises(ValueError, match="`text_features` should be floats. Received: int"):
        rows = {"image_features": np.ones([4, 6], "f"), "text_features": np.ones([4, 16], int)}
        model.evaluate(rows)
    with pytest.raises(ValueError, match=r"`text_features` should have shape \[batch, 16\]"):
        model.encode_text(np.ones([4, 15], "float32"))


def test_features_of_another_text_tower_are_refused(cache, tmp_path):
    """Another in its weights or in how it reads."""
    plans = [keras_lit.fingerprints.fingerprint(text_tower(**x)) for x in ({}, {"pooling": "mean"})]
    assert plans[0]["architecture"] != plans[1]["architecture"]
    longer = keras_lit.TextTower(backbone(3), tokenizer(), 7)
    assert plans[0] != keras_lit.fingerprints.fingerprint(longer)
    model = keras_lit.LiT(keras_lit.ImageTower.from_features(6), text_tower(4), "LL")
    model.compile("sgd")
    with pytest.raises(tf.errors.InvalidArgumentError, match="of another text tower"):
        model.fit(keras_lit.features.load(cache).batch(4), verbose=0)


@pytest.mark.slow
def test_a_text_tower_that_trains_reads_the_text(cache):
    """Of the same cache; features alone are refused."""
    model = keras_lit.LiT(keras_lit.ImageTower.from_features(6), text_tower(4), "LU")
    model.compile(keras.optimizers.SGD(0.0))
    pairs = keras_lit.features.load(cache)
    strings = pairs.map(lambda row: {k: row[k] for k in ("image_features", "text")})
    found, wanted = (model.evaluate(x.batch(8), verbose=0) for x in (pairs, strings))
    assert found == wanted
    np.testing.assert_array_equal(model.encode_text(pairs), model.encode_text(CAPTIONS))
    features = pairs.map(lambda row: {k: row[k] for k in ("image_features", "text_features")})
    with pytest.raises(ValueError, match='"text_features" are for a locked text tower.*".L"'):
        model.evaluate(features.batch(8))


def test_retrieval_takes_them(trained, several, cache):
    model, pairs = trained[0], keras_lit.features.load(cache)
    texts = ImagesAndTexts(pairs).embeddings(model)[1]
    np.testing.assert_array_equal(texts, model.encode_text(pairs))
    logs = {}
    callback = keras_lit.callbacks.RetrievalEvaluation(pairs)
    callback.set_model(model)
    callback.on_epoch_end(0, logs)
    assert logs and all(np.isfinite(value) for value in logs.values())


@pytest.mark.slow
def test_heads_in_closed_form_from_a_cache(several):
    """The captions of an image, and of a group, stay in one fold."""
    model = keras_lit.LiT(*(tower() for tower in stand_ins(several)), "LL")
    pairs = keras_lit.features.load(several, captions="all").batch(5)
    options = {"penalties": [0.3], "dim": 4, "folds": 3, "verbose": 0}
    found = model.align(pairs, **options)
    owners = np.repeat(np.arange(22), [len(captions) for captions in SEVERAL])
    texts = expected([text for captions in SEVERAL for text in captions])
    folds = alignment.Folds(small.DIM, 16, 3)
    folds.add(small.expected_features(make_tower())[owners], texts, owners // 2)
    wanted = alignment.choose(folds, penalties=[0.3], dim=4, verbose=0)
    assert found.pairs == wanted.pairs == 43
    assert found.recalls == pytest.approx(wanted.recalls)
    np.testing.assert_allclose(
        found.heads.text.kernel @ found.heads.image.kernel.T,
        wanted.heads.text.kernel @ wanted.heads.image.kernel.T,
        atol=1e-4,
    )


@pytest.mark.slow
def test_the_probe_takes_a_cache(cache):
    """And, beside its text tower, one that reads the text."""
    image_tower, cached = (tower() for tower in stand_ins(cache))
    towers = {"cached": cached, "same": text_tower(), "other": text_tower(4)}
    pairs = keras_lit.features.load(cache).batch(5)
    found = alignment.probe({"image": image_tower}, towers, pairs, folds=2, verbose=0)
    recalls = {row.text_tower: row.alignment.recalls for row in found}
    assert recalls["same"] == pytest.approx(recalls["cached"])
    assert set(recalls) == set(towers)

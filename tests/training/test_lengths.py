"""Padding that no row needs is left out, and nothing else changes."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.search import queries
from keras_lit.towers import lengths
from keras_lit.training import batches, pairs
from tests.small import make_model, make_pairs, mirrored, tokenizer

LENGTH = 32


def made(pooling="first"):
    """A BERT of 32 tokens; captions of `make_pairs` have some 15."""
    like = make_model("LU")
    keras.utils.set_random_seed(1)
    words = tokenizer().vocabulary_size()
    backbone = keras_nlp.models.BertBackbone(words, 1, 2, 8, 16, dropout=0.0)
    tower = keras_lit.TextTower(backbone, tokenizer(), LENGTH, pooling)
    return keras_lit.LiT(like.image_tower, tower, "LU")


def texts(count=10):
    """From a word to whole captions."""
    captions = [pair["text"].numpy().decode() for pair in make_pairs(count)]
    return [" ".join(x.split()[: 1 + i % 7]) for i, x in enumerate(captions)]


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last", "map"])
def test_a_text_has_the_same_embedding_without_its_padding(model, pooling):
    tower = keras_lit.TextTower(model.text_tower.backbone, tokenizer(), LENGTH, pooling)
    assert tower.ignores_padding
    ids = tower.preprocessor(texts())
    found = lengths.trimmed(ids, tower)
    assert ids.shape[1] == LENGTH and found.shape[1] < LENGTH
    np.testing.assert_allclose(tower(found), tower(ids), atol=1e-5)


def test_encode_text_takes_short_texts_together(model, monkeypatch):
    ids = model.text_tower.preprocessor(texts())
    expected = tf.math.l2_normalize(model.text_tower(ids), axis=1)
    widths, encode = [], model.text_tower.inference()

    def counted(inputs):
        widths.append(inputs.shape[1])
        return encode(inputs)

    monkeypatch.setattr(model.text_tower, "inference", lambda *_: counted)
    found = model.encode_text(texts(), batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert widths == sorted(widths) and len({*widths}) > 1 and widths[-1] < LENGTH
    of_sentence = queries.embed(model, texts()[:1], found.shape[1])  # Of an index.
    np.testing.assert_allclose(of_sentence, expected[:1], atol=1e-5)
    assert widths[-1] == 4


def test_what_is_left_out(model):
    tower = model.text_tower
    ids = np.zeros([3, LENGTH], "int32")
    ids[0, :5], ids[1, :2] = 7, 7
    for last, expected in ((5, 8), (8, 8), (9, 12), (31, 32), (32, 32)):
        ids[2] = 0
        ids[2, :last] = 9
        found = lengths.trimmed(tf.constant(ids), tower)
        np.testing.assert_array_equal(found, ids[:, :expected])
    ids[:] = 0
    ids[:, 17] = 7  # Padding before a token counts.
    assert lengths.trimmed(tf.constant(ids), tower).shape == (3, 20)
    # Where padding is read, as the paper's transformer does, all of it stays.
    paper = make_model("LU").text_tower
    assert not paper.ignores_padding
    full = tf.constant([[7, 8] + 8 * [0]])
    assert lengths.trimmed(full, paper) is full


def test_strings_are_sorted_by_length_and_back(model):
    tower, captions = model.text_tower, np.array(texts(), object)
    found, places = batches.by_length(list(captions), tower, 4)
    counts = tower.preprocessor.token_counts(found).numpy()
    assert (np.diff(counts) >= 0).all() and counts[0] < counts[-1]
    np.testing.assert_array_equal(found[places], captions)
    ids = np.ones([10, LENGTH], "int32")
    for given in (texts(4), "a dog", ids, ids.tolist(), {"text": texts()}):
        assert batches.by_length(given, tower, 4)[1] == slice(None)
    assert batches.by_length(texts(), make_model("LU").text_tower, 4)[1] == slice(None)


def test_equal_captions_are_positives_whatever_the_padding():
    rows = np.random.default_rng(0).integers(2, 30, [6, 8])
    rows[:, 5:], rows[4] = 1, rows[2]
    whole = np.pad(rows, [[0, 0], [0, 8]], constant_values=1)
    ids = [pairs.caption_ids(tf.constant(x, tf.int32), 16, 1).numpy() for x in (rows, whole)]
    np.testing.assert_array_equal(*ids)
    assert len({*ids[0]}) == 5


@pytest.mark.slow
def test_steps_are_those_of_padded_rows(model):
    """In micro-batches of 3, and on two replicas; the loss and what it moves."""
    rows = model.preprocess(next(iter(make_pairs(8).batch(8))))  # Without random crops.
    shorter = {**rows, "text": lengths.trimmed(rows["text"], model.text_tower)}
    assert rows["text"].shape[1] == LENGTH > shorter["text"].shape[1]
    other = made()
    for one, size, given in ((model, None, rows), (other, 3, shorter)):
        one.compile(keras_lit.optimizers.Adam(0.01), micro_batch_size=size)
        one.loss_found = float(one.train_step(given)["loss"])
    np.testing.assert_allclose(other.loss_found, model.loss_found, atol=1e-5)
    for x, y in zip(other.weights, model.weights, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5, err_msg=x.path)
    with mirrored(2).scope():
        spread = made()
        spread.compile("sgd")
        found = spread.evaluate({k: x.numpy() for k, x in rows.items()}, batch_size=8, verbose=0)
    np.testing.assert_allclose(found[0], model.loss_found, atol=1e-5)


@pytest.mark.slow
def test_training_takes_texts_of_like_length_together(monkeypatch):
    """Of 22 rows and 8: what is learned is the same, and less is padding."""
    features = np.random.default_rng(0).normal(size=[30, 8]).astype("float32")
    rows = {"image_features": features, "text": texts(30)}
    rows = tf.data.Dataset.from_tensor_slices(rows).batch(22)

    def trained(rows_of_group, micro_batch_size=None, replicas=1):
        """The loss, the weights, and the shapes that the text tower saw."""
        monkeypatch.setattr(lengths, "_ROWS", rows_of_group)
        seen = []
        with mirrored(replicas).scope():
            keras.utils.set_random_seed(2)
            tower = made("mean").text_tower
            images = keras_lit.ImageTower.from_features(8, tower.embedding_dim)
            model = keras_lit.LiT(images, tower, "LU")
            model.compile(keras.optimizers.SGD(0.1), micro_batch_size=micro_batch_size)
        pool = tower._pool

        def noted(inputs, states):
            if inputs.shape[1] is None:
                note = tf.py_function(lambda x: seen.append(x.numpy()), [tf.shape(inputs)], [])
                with tf.control_dependencies([note]):
                    return pool(inputs, tf.identity(states))
            return pool(inputs, states)

        monkeypatch.setattr(tower, "_pool", noted)
        loss = model.fit(rows, verbose=0).history["loss"]
        return [loss, *(x.numpy() for x in model.trainable_variables)], np.array(seen)

    expected, whole = trained(1000)
    for options in ({}, {"micro_batch_size": 8}, {"replicas": 2}):
        found, in_groups = trained(2, **options)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=2e-5)
        assert len(in_groups) > 2 * len(whole)
        padded = np.sum(in_groups[:, 0] * in_groups[:, 1]) / np.sum(in_groups[:, 0])
        assert padded < 0.8 * np.sum(whole[:, 0] * whole[:, 1]) / 30


@pytest.mark.slow
def test_features_of_unknown_width_are_no_token_ids(monkeypatch):
    """They were read as such, without a word: as text of some length."""
    monkeypatch.setattr(lengths, "_ROWS", 2)
    rows = np.random.default_rng(0).normal(size=[8, 8]).astype("float32")

    def loss(width):
        text_tower = made("mean").text_tower
        image_tower = keras_lit.ImageTower.from_features(8, text_tower.embedding_dim)
        model = keras_lit.LiT(image_tower, text_tower, "LL")
        model.compile("sgd")
        spec = {"image_features": tf.TensorSpec([8]), "text_features": tf.TensorSpec([width])}
        pairs = tf.data.Dataset.from_generator(
            lambda: ({"image_features": x, "text_features": x} for x in rows), output_signature=spec
        )
        return model.fit(pairs.batch(8), verbose=0).history["loss"]

    assert loss(None) == loss(8)


def test_groups_are_for_large_batches_and_layers_that_see_one_row(model, monkeypatch):
    tower = model.text_tower
    assert lengths.groups_gain(tower, 256) and not lengths.groups_gain(tower, 255)
    assert not lengths.groups_gain(make_model("LU").text_tower, 256)  # Whose padding counts.
    assert batches.rows_of({"text": []}) == 32 and batches.rows_of({"text": []}, 512) == 512
    assert batches.rows_of((make_pairs(8).batch(4), None)) == 4
    assert batches.rows_of(iter([])) == 0

    class Backbone(keras.Model):
        __module__ = "keras_hub.models"

    x = tower.backbone.input
    for own, expected in (
        (keras.layers.Dense(8), True),
        (keras.layers.BatchNormalization(), False),
        (keras.layers.Dense(8, activity_regularizer="l2"), False),
    ):
        backbone = Backbone(x, own(tower.backbone(x)["sequence_output"]))
        other = keras_lit.TextTower(backbone, tokenizer(), LENGTH, "mean")
        assert other.ignores_padding and lengths.groups_gain(other, 256) == expected
    other.backbone.__class__.__module__ = "mine"
    assert not lengths.groups_gain(other, 256)
    gpu = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: gpu)
    assert not lengths.groups_gain(tower, 256)


def test_a_step_gets_what_is_there(model):
    rows = next(iter(make_pairs(4).batch(4)))
    step = next(iter(batches.for_step(rows, model.image_tower, model.text_tower, 4)))
    longest = int(model.text_tower.preprocessor.token_counts(rows["text"]).numpy().max())
    assert step["text"].shape == (4, -(-longest // 4) * 4) and longest < 28


@pytest.mark.parametrize(("jit_compile", "on_tpu"), [(True, False), (False, True)])
def test_shapes_stay_static_for_xla_and_tpus(model, monkeypatch, jit_compile, on_tpu):
    """Each width would be compiled anew."""
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    monkeypatch.setattr("keras_lit.distribution.on_tpu", lambda strategy: on_tpu)
    (batch,) = model._batches(make_pairs(4).batch(4))[0]
    assert batch["text"].shape == (4, LENGTH)


def test_rows_of_padding_alone_keep_a_place(model):
    """Rows that fill a batch up may be all that a replica has."""
    assert lengths.trimmed(
        tf.fill([2, LENGTH], model.text_tower.pad_token_id), model.text_tower
    ).shape == (2, 4)


def test_captions_differ_by_what_comes_before_the_padding():
    """A SentencePiece vocabulary of ours has 0 for what it does not know, and pads with 2."""
    ids = tf.constant([[3, 13, 2, 2], [3, 13, 0, 2], [3, 13, 0, 0]])
    found = pairs.caption_ids(ids, 4, 2).numpy()
    assert len({*found}) == 3 and pairs.caption_ids(ids[:1, :2], 4, 2).numpy() == found[:1]

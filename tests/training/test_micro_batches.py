"""Micro-batches change the memory, not the gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import losses
from keras_lit.training import micro_batches
from tests.small import make_model, make_pairs, mirrored


def data(model, count):
    return model.preprocess(next(iter(make_pairs(count).batch(count))))


def loss_and_gradients(model, pairs, size):
    with tf.GradientTape() as tape:
        embeddings = micro_batches.embed(model, pairs, size, tape)
        loss, _ = model._contrast(embeddings, None)
    return loss, tape.gradient(loss, model.trainable_weights)


def in_micro_batches(model, pairs, size, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def step(pairs):
        return loss_and_gradients(model, pairs, size)

    return step(pairs)


def whole(model, pairs):
    with tf.GradientTape() as tape:
        embeddings = model(pairs, training=True)
        loss = losses.softmax_contrastive_loss(
            embeddings["image_embeddings"], embeddings["text_embeddings"], model.log_temperature
        )
    return loss, tape.gradient(loss, model.trainable_weights)


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    assert len(actual[1]) == len(expected[1]) > 10
    scale = tf.linalg.global_norm(expected[1])
    for gradient, wanted in zip(actual[1], expected[1], strict=True):
        assert tf.norm(gradient - wanted) <= 1e-6 * scale


@pytest.mark.slow
@pytest.mark.parametrize(("tuning", "sizes"), [("Lu", [5, 12]), ("UU", [4, 5, 40])])
def test_gradients_equal_those_of_the_whole_batch(tuning, sizes):
    model = make_model(tuning)
    pairs = data(model, 12)
    expected = whole(model, pairs)
    for size in sizes:
        assert_equal(in_micro_batches(model, pairs, size), expected)


@pytest.mark.parametrize(("tuning", "times"), [("Lu", 1), ("UU", 2)])
def test_a_locked_tower_encodes_each_image_once(tuning, times, monkeypatch):
    model, counts = make_model(tuning), []
    pairs, features = data(model, 6), model.image_tower.features

    def counting(images, **options):
        counts.append(len(images))
        return features(images, **options)

    monkeypatch.setattr(model.image_tower, "features", counting)
    loss_and_gradients(model, pairs, 3)
    assert counts == [3, 3] * times


@pytest.mark.slow
def test_under_xla():
    model = make_model()
    pairs = data(model, 12)
    assert_equal(in_micro_batches(model, pairs, 5, jit_compile=True), whole(model, pairs))


def one_tape(model, pairs, parts):
    """The loss and its gradients over chunks in their order, from the same state, in one tape."""
    states = [v for v in model.variables if "seed" in v.path or "moving" in v.path]
    before = [np.array(state) for state in states]
    with tf.GradientTape() as tape:
        chunks = [model({k: x[part] for k, x in pairs.items()}, training=True) for part in parts]
        image, text = (
            tf.concat([chunk[f"{side}_embeddings"] for chunk in chunks], 0)
            for side in ("image", "text")
        )
        loss = losses.softmax_contrastive_loss(image, text, model.log_temperature)
    expected = loss, tape.gradient(loss, model.trainable_weights)
    after = [np.array(state) for state in states]
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    return expected, states, before, after


def test_dropout_and_batch_norm_are_replayed_once():
    """Against one tape over the chunks in their order, from the same state."""
    model = make_model("UU", dropout=0.5, batch_norm=True)
    pairs = data(model, 12)
    expected, states, before, after = one_tape(model, pairs, [slice(i, i + 4) for i in (0, 4, 8)])
    assert len(states) >= 4
    assert_equal(in_micro_batches(model, pairs, 4), expected)
    for state, old, new in zip(states, before, after, strict=True):
        assert (old != new).any()
        np.testing.assert_allclose(state, new, rtol=1e-6)


def fit(strategy, **options):
    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1), **options)
    history = model.fit(make_pairs(27).batch(16), epochs=2, verbose=0).history
    return history, [np.array(weight) for weight in model.weights]


@pytest.mark.slow
def test_fit_on_replicas_with_an_uneven_last_batch():
    expected = fit(tf.distribute.get_strategy())
    actual = fit(mirrored(2), micro_batch_size=3)
    for name, values in expected[0].items():
        np.testing.assert_allclose(actual[0][name], values, rtol=1e-5, err_msg=name)
    for weight, wanted in zip(actual[1], expected[1], strict=True):
        scale = max(np.abs(wanted).max(), 1e-2)
        np.testing.assert_allclose(weight, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("size", [None, 3])
def test_a_scaled_loss_trains_the_same(size):
    """The optimizer divides the gradients by what it multiplied the loss with."""
    trained = []
    for optimizer in (
        keras.optimizers.SGD(0.1),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=64.0),
    ):
        model = make_model()
        model.compile(optimizer, micro_batch_size=size)
        before = [np.array(weight) for weight in model.trainable_weights]
        model.train_step(data(model, 6))
        trained.append([np.array(weight) for weight in model.trainable_weights])
    assert max(np.abs(a - b).max() for a, b in zip(before, trained[0], strict=True)) > 1e-3
    for plain, scaled in zip(*trained, strict=True):
        np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_the_setting_is_saved(tmp_path):
    model = make_model()
    model.compile("sgd", micro_batch_size=7)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").micro_batch_size == 7


@pytest.mark.parametrize("size", [0, 2.5])
def test_bad_size(size):
    with pytest.raises(ValueError, match="`micro_batch_size` should be a positive whole number"):
        make_model().compile("sgd", micro_batch_size=size)


def test_image_features_pass():
    model = make_model()
    pairs = data(model, 8)
    features = model.image_tower.features(pairs["image"])
    given = {"image_features": tf.convert_to_tensor(features), "text": pairs["text"]}
    assert_equal(in_micro_batches(model, given, 3), whole(model, pairs))
    assert isinstance(model, keras_lit.LiT)


def test_a_frozen_layer_drops_the_same_twice():
    model = make_model("LU", dropout=0.5)
    model.text_tower.backbone.get_layer("transformer_layer_0").trainable = False
    pairs = data(model, 12)
    expected, *_ = one_tape(model, pairs, [slice(i, i + 4) for i in (0, 4, 8)])
    loss, gradients = in_micro_batches(model, pairs, 4)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    scale = tf.linalg.global_norm(expected[1])
    for gradient, wanted in zip(gradients, expected[1], strict=True):
        assert tf.norm(gradient - wanted) <= 1e-6 * scale


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_nothing_fills_the_last_chunk_up(known):
    """Batch norms see the rows of a chunk that is smaller, and none besides."""
    model = make_model("UU", batch_norm=True)
    pairs = data(model, 9)
    expected, states, _, after = one_tape(model, pairs, [slice(0, 4), slice(4, 8), slice(8, 9)])
    if known:
        found = in_micro_batches(model, pairs, 4)
    else:
        signature = {k: tf.TensorSpec([None, *x.shape[1:]], x.dtype) for k, x in pairs.items()}
        step = tf.function(lambda pairs: loss_and_gradients(model, pairs, 4))
        found = step.get_concrete_function(signature)(pairs)
    assert_equal(found, expected)
    for state, new in zip(states, after, strict=True):
        np.testing.assert_allclose(state, new, rtol=1e-6)


def test_gradients_of_many_chunks_are_summed_in_float32():
    """Weights in bfloat16, as those of a preset that was loaded so."""
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = make_model("LU")
    finally:
        keras.config.set_dtype_policy("float32")
    exact = make_model("LU")
    for weight, other in zip(exact.weights, model.weights, strict=True):
        weight.assign(tf.cast(other, weight.dtype))
    pairs = data(exact, 128)
    _, expected = whole(exact, pairs)
    scale = tf.linalg.global_norm(expected)

    def error(gradients):
        both = zip(gradients, expected, strict=True)
        dense = [(tf.convert_to_tensor(x), tf.convert_to_tensor(y)) for x, y in both]
        return tf.linalg.global_norm([tf.cast(x, "float32") - y for x, y in dense]) / scale

    assert error(in_micro_batches(model, pairs, 1)[1]) < 2 * error(whole(model, pairs)[1])


def test_evaluate_encodes_in_micro_batches(monkeypatch):
    model, counts = make_model("LU"), []
    pairs, features = data(model, 7), model.image_tower.features
    model.compile("sgd")
    expected = model.test_step(pairs)["loss"].numpy()
    model.compile("sgd", micro_batch_size=3)
    model.reset_metrics()
    monkeypatch.setattr(
        model.image_tower, "features", lambda x, **o: counts.append(len(x)) or features(x, **o)
    )
    np.testing.assert_allclose(model.test_step(pairs)["loss"], expected, rtol=1e-6)
    assert counts == [3, 3, 1]


class Unused(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(3,), initializer="ones", name="kernel")

    def call(self, x):
        return x


@pytest.mark.parametrize("size", [None, 3])
def test_a_weight_that_nothing_depends_on_is_not_decayed(size):
    layers = [keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3), Unused()]
    tower = keras_lit.ImageTower(
        keras.Sequential(layers), preprocessor=keras_lit.preprocessing.ImagePreprocessor(8)
    )
    like = make_model("UU")
    text_tower = keras_lit.TextTower(
        like.text_tower.backbone, like.text_tower.preprocessor.tokenizer, 10
    )
    model = keras_lit.LiT(tower, text_tower, "UU")
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=1.0), micro_batch_size=size)
    model.train_step(data(model, 6))
    np.testing.assert_array_equal(layers[-1].kernel, np.ones(3))


def test_synchronized_batch_norms_do_not_go_in_micro_batches_on_replicas():
    with mirrored(2).scope():
        model = make_model()
        model.image_tower.backbone.layers[-1].synchronized = True
        model.compile("sgd")
        with pytest.raises(ValueError, match="cannot meet inside of micro-batches"):
            model.compile("sgd", micro_batch_size=2)

"""Pairs with several texts each: the sum of their contrastive losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small import make_model, mirrored

NO = ""


def pairs(count=16):
    """Three kinds of text: the first is missing once, the second often, the third always of 4."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, [count, 8, 8, 3]).astype("float32")
    words = ["red", "green", "blue", "grey", "dog", "cat", "moon", "banana"]
    texts = [
        [
            NO if i == 9 else f"a {words[i % 8]} and a {words[i // 8 + 2]} one",
            NO if i % 3 else f"{words[(3 * i) % 8]} {words[(i + 1) % 7]} {words[i % 5]}",
            NO if i % 4 == 0 or count == 4 else f"{words[(5 * i + 1) % 8]} one {words[i % 7]}",
        ]
        for i in range(count)
    ]
    return {"image": images, "texts": np.array(texts, dtype=object)}


def softmax_loss(images, texts, temperature):
    """InfoNCE of rows that belong together, in float64, as section 3.1 writes it."""
    logits = temperature * images.astype("float64") @ texts.astype("float64").T
    diagonal = np.diag(logits)
    rows, columns = (np.log(np.exp(logits).sum(axis)) for axis in (1, 0))
    return ((rows - diagonal).mean() + (columns - diagonal).mean()) / 2


@pytest.fixture(scope="module")
def model():
    """Nothing trains it."""
    model = make_model()
    model.compile("sgd")
    return model


@pytest.mark.parametrize("count", [16, 4])
def test_loss_is_the_sum(count, model):
    x = pairs(count)
    result = model.evaluate(x, batch_size=count, return_dict=True, verbose=0)
    images = model.encode_image(x["image"])
    expected = chance = 0
    for texts in x["texts"].T:
        given = [i for i, text in enumerate(texts) if text]
        if given:
            embeddings = model.encode_text([texts[i] for i in given])
            expected += softmax_loss(images[given], embeddings, 10.0)
            chance += np.log(len(given))
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(result["chance_loss"], chance, rtol=1e-6)


def trained(replicas=1, micro_batch_size=None, count=16, **options):
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model(**options)
        model.compile(
            keras.optimizers.SGD(0.5), micro_batch_size=micro_batch_size, jit_compile=False
        )
    data = tf.data.Dataset.from_tensor_slices(pairs(count)).batch(16)
    history = model.fit(data, epochs=1, verbose=0)
    return history.history, [weight.numpy() for weight in model.trainable_weights]


@pytest.mark.slow
def test_same_training_however_it_is_computed():
    """In micro-batches, and on replicas of which one fills up the last batch."""
    alone = trained(count=21)
    for options in ({"micro_batch_size": 3}, {"replicas": 2}):
        other = trained(count=21, **options)
        for name, values in alone[0].items():
            np.testing.assert_allclose(values, other[0][name], rtol=2e-5, err_msg=name)
        for a, b in zip(alone[1], other[1], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_gradient_is_the_sum_of_the_kinds():
    """One SGD step on three kinds moves a weight as far as three steps from the same start."""
    model, x = make_model(), pairs()
    model.compile(keras.optimizers.SGD(0.1))
    state, start = model.get_weights(), [w.numpy() for w in model.trainable_weights]

    def trained_once(x):
        model.set_weights(state)
        model.fit(x, batch_size=16, verbose=0, shuffle=False)
        return [weight.numpy() for weight in model.trainable_weights]

    whole = trained_once(x)
    moves = [np.zeros_like(weight) for weight in start]
    for kind in range(3):
        given = [i for i, row in enumerate(x["texts"]) if row[kind]]
        one = {"image": x["image"][given], "text": x["texts"][given, kind]}
        for move, weight, at in zip(moves, trained_once(one), start, strict=True):
            move += weight - at
    assert any(np.abs(move).max() > 1e-3 for move in moves)
    for weight, at, move in zip(whole, start, moves, strict=True):
        np.testing.assert_allclose(weight - at, move, atol=2e-6)


def test_bad_texts_are_named(model):
    x = pairs()
    with pytest.raises(ValueError, match='"texts" stand for "text".*image.*text.*texts'):
        model.evaluate({**x, "text": x["texts"][:, 0]})
    with pytest.raises(ValueError, match=r"strings \[batch, n\].*string of shape \(None,\)"):
        model.evaluate({**x, "texts": x["texts"][:, 0]})
    with pytest.raises(ValueError, match="batch the pairs.*string of shape"):
        model.fit(tf.data.Dataset.from_tensor_slices(x))
    x["texts"][5] = " "
    with pytest.raises(tf.errors.InvalidArgumentError, match="Captions should not be empty"):
        model.evaluate(x, batch_size=16, verbose=0)

"""Losses and their gradients against the formulas of the papers, in NumPy's float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lit import losses
from tests.small import mirrored

TILES = st.sampled_from([None, 1, 3, 8])
LOG_TEMPERATURES = st.floats(-2.0, 5.0)
ROWS, DIM = 8, 4


@st.composite
def batches(draw):
    """Unit rows of both sides, and which pairs count; at least one does."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.sampled_from([1, 5, ROWS]))
    images, texts = rng.normal(size=[2, rows, DIM])
    if draw(st.booleans()):  # Some texts are their images, some repeat others.
        texts[::2] = images[::2]
        images[-1] = images[0]
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    mask = rng.random(rows) < 0.7
    mask[rng.integers(rows)] = True
    return images, texts, mask if draw(st.booleans()) else None


def log_sum_exp(x, axis):
    largest = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - largest).sum(axis=axis)) + largest.squeeze(axis)


def softmax_loss(images, texts, log_temperature):
    """The loss, and its derivatives by images, texts and log-temperature."""
    scale, n = np.exp(log_temperature), len(images)
    logits = scale * images @ texts.T
    rows, columns = log_sum_exp(logits, 1), log_sum_exp(logits, 0)
    loss = np.mean((rows + columns) / 2 - np.diag(logits))
    by_logits = np.exp(logits - rows[:, None]) + np.exp(logits - columns) - 2 * np.eye(n)
    by_logits /= 2 * n
    return loss, scale * by_logits @ texts, scale * by_logits.T @ images, np.sum(by_logits * logits)


def sigmoid_loss(images, texts, log_temperature, bias):
    """SigLIP's loss, and its derivative by the bias."""
    logits = np.exp(log_temperature) * images @ texts.T + bias
    signed = (2 * np.eye(len(images)) - 1) * logits
    by_bias = np.sum(1 / (1 + np.exp(-logits))) / len(images) - 1
    return np.logaddexp(0, -signed).sum() / len(images), by_bias


def float32(*arrays):
    return [tf.constant(array, tf.float32) for array in arrays]


def close(found, expected, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * max(1.0, scale))


@pytest.mark.slow
@settings(max_examples=15)
@given(batches(), LOG_TEMPERATURES, TILES)
def test_softmax(batch, log_temperature, tile_size):
    images, texts, mask = batch
    kept = np.ones(len(images), bool) if mask is None else mask
    values = float32(images, texts, log_temperature)
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = losses.softmax_contrastive_loss(
            *values, tile_size, None if mask is None else tf.constant(mask)
        )
    expected = softmax_loss(images[kept], texts[kept], log_temperature)
    scale = np.exp(log_temperature)
    close(loss, expected[0], scale)
    of_images, of_texts, of_temperature = tape.gradient(loss, values)
    close(of_images.numpy()[kept], expected[1], scale)
    close(of_texts.numpy()[kept], expected[2], scale)
    close(of_temperature, expected[3], scale)
    assert not of_images.numpy()[~kept].any() and not of_texts.numpy()[~kept].any()


@pytest.mark.slow
@settings(max_examples=15)
@given(batches(), LOG_TEMPERATURES, st.floats(-12.0, 2.0), TILES)
def test_sigmoid(batch, log_temperature, bias, tile_size):
    images, texts, mask = batch
    kept = np.ones(len(images), bool) if mask is None else mask
    values = float32(images, texts, log_temperature, bias)
    with tf.GradientTape() as tape:
        tape.watch(values[3])
        loss = losses.sigmoid_contrastive_loss(
            *values, tile_size, None if mask is None else tf.constant(mask)
        )
    expected = sigmoid_loss(images[kept], texts[kept], log_temperature, bias)
    scale = np.exp(log_temperature)
    close(loss, expected[0], scale)
    close(tape.gradient(loss, values[3]), expected[1], scale)


@given(batches(), LOG_TEMPERATURES, st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(batch, log_temperature, random):
    images, texts, _ = batch
    order = list(range(len(images)))
    random.shuffle(order)
    plain = losses.softmax_contrastive_loss(*float32(images, texts, log_temperature))
    mixed = losses.softmax_contrastive_loss(*float32(images[order], texts[order], log_temperature))
    swapped = losses.softmax_contrastive_loss(*float32(texts, images, log_temperature))
    close(mixed, plain, np.exp(log_temperature))
    close(swapped, plain, np.exp(log_temperature))


@given(batches(), LOG_TEMPERATURES, st.floats(0.25, 4.0))
def test_a_scale_of_the_images_is_one_of_the_temperature(batch, log_temperature, factor):
    images, texts, _ = batch
    plain = losses.softmax_contrastive_loss(*float32(images, texts, log_temperature))
    moved = log_temperature - np.log(factor)
    scaled = losses.softmax_contrastive_loss(*float32(factor * images, texts, moved))
    close(scaled, plain, np.exp(log_temperature))


def on_two_replicas():
    """The loss of 8 pairs, half of them on each replica; traced once."""
    strategy = mirrored(2)

    def share(images, texts, log_temperature):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = [tf.reshape(x, [2, ROWS // 2, DIM])[replica] for x in (images, texts)]
        return losses.softmax_contrastive_loss(*mine, log_temperature)

    @tf.function
    def whole(*values):
        return strategy.reduce("SUM", strategy.run(share, values), axis=None)

    return whole


def test_two_replicas():
    whole = on_two_replicas()

    @given(st.integers(0, 2**32 - 1), LOG_TEMPERATURES)
    def check(seed, log_temperature):
        images, texts = np.random.default_rng(seed).normal(size=[2, ROWS, DIM])
        images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
        found = whole(*float32(images, texts, log_temperature))
        close(found, softmax_loss(images, texts, log_temperature)[0], np.exp(log_temperature))

    check()

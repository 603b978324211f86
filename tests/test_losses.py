import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.losses import sigmoid_contrastive_loss, softmax_contrastive_loss, tiles

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "losses.npz")
LOG_TEMPERATURE = float(GOLDEN["log_temperature"])


def run(tile_size=None, image=GOLDEN["image"], text=GOLDEN["text"]):
    image, text, t = (tf.Variable(x) for x in (image, text, LOG_TEMPERATURE))
    with tf.GradientTape() as tape:
        unit = [x / tf.norm(x, axis=1, keepdims=True) for x in (image, text)]
        loss = softmax_contrastive_loss(*unit, t, tile_size=tile_size)
    return loss, tape.gradient(loss, [image, text, t])


@pytest.mark.parametrize("tile_size", [None, 1, 7, 16, 48, 1000])
def test_value_and_gradients_equal_the_reference(tile_size):
    loss, gradients = run(tile_size)
    np.testing.assert_allclose(loss, GOLDEN["softmax_loss"], rtol=1e-6)
    for gradient, name in zip(gradients, ("image", "text", "log_temperature"), strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"softmax_grad_{name}"], atol=2e-6)


def test_by_default_no_more_logits_exist_than_the_limit(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 7 * 48 + 20)
    matmul, shapes = tf.matmul, []

    def noted(*args, **options):
        product = matmul(*args, **options)
        shapes.append(tuple(product.shape))
        return product

    monkeypatch.setattr(tf, "matmul", noted)
    np.testing.assert_allclose(run()[0], GOLDEN["softmax_loss"], rtol=1e-6)
    assert max(rows for rows, width in shapes if width == 48) == 7


@pytest.mark.parametrize("tile_size", [None, 1, 7, 16, 48, 1000])
def test_sigmoid_value_and_gradients_equal_the_reference(tile_size):
    variables = [tf.Variable(GOLDEN[n]) for n in ("image", "text", "log_temperature", "bias")]
    with tf.GradientTape() as tape:
        image, text, *scalars = variables
        unit = [x / tf.norm(x, axis=1, keepdims=True) for x in (image, text)]
        loss = sigmoid_contrastive_loss(*unit, *scalars, tile_size=tile_size)
    np.testing.assert_allclose(loss, GOLDEN["sigmoid_loss"], rtol=1e-6)
    names = ("image", "text", "log_temperature", "bias")
    for gradient, name in zip(tape.gradient(loss, variables), names, strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"sigmoid_grad_{name}"], rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("rows", [48, None], ids=["static", "dynamic"])
def test_graph_and_xla_agree(jit_compile, rows):
    signature = [tf.TensorSpec([rows, 20])] * 2

    @tf.function(input_signature=signature, jit_compile=jit_compile)
    def compute(image, text):
        with tf.GradientTape() as tape:
            tape.watch(text)
            unit = [x / tf.norm(x, axis=1, keepdims=True) for x in (image, text)]
            loss = softmax_contrastive_loss(*unit, LOG_TEMPERATURE, tile_size=7)
        return loss, tape.gradient(loss, text)

    loss, gradient = compute(GOLDEN["image"], GOLDEN["text"])
    np.testing.assert_allclose(loss, GOLDEN["softmax_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, GOLDEN["softmax_grad_text"], atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 100.0, 1000.0])
def test_any_temperature_against_numpy_in_float64(temperature):
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(9, 4)) for _ in range(2))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = temperature * image @ text.T
    total = 0.0
    for i in range(9):
        for row in (logits[i], logits[:, i]):
            total += 0.5 * (np.log(np.exp(row - row.max()).sum()) + row.max() - logits[i, i])
    loss = softmax_contrastive_loss(
        image.astype("float32"), text.astype("float32"), np.log(temperature), tile_size=2
    )
    np.testing.assert_allclose(loss, total / 9, rtol=1e-5)


def test_equal_embeddings_give_the_chance_level():
    same = tf.ones([5, 4]) / 2.0
    np.testing.assert_allclose(softmax_contrastive_loss(same, same, 3.0), np.log(5), rtol=1e-6)


@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize(
    "contrastive",
    [
        softmax_contrastive_loss,
        lambda i, t, s, n, **o: sigmoid_contrastive_loss(i, t, s, -1, n, **o),
    ],
)
def test_accuracies_count_own_pairs_both_ways(contrastive, tile_size):
    image = np.eye(3, dtype="float32")
    text = np.array([[1, 0, 0], [1, 0, 0], [0, 0.6, 0.8]], "float32")
    # Image 0 has two texts at 1, image 1 is nearest to text 2 (0.6 against 0); text 1 is nearest to
    # image 0. Of equals none is right, or a tower that gives one vector for all would be.
    _, accuracies = contrastive(image, text, 0.0, tile_size, accuracies=True)
    np.testing.assert_allclose(accuracies["image_to_text_accuracy"], 1 / 3)
    np.testing.assert_allclose(accuracies["text_to_image_accuracy"], 2 / 3)


@pytest.mark.parametrize(
    "contrastive",
    [softmax_contrastive_loss, lambda i, t, s, **o: sigmoid_contrastive_loss(i, t, s, -1.0, **o)],
    ids=["softmax", "sigmoid"],
)
def test_a_masked_row_is_nobodys_nearest(contrastive):
    image = np.array([[1, 0], [0, 1], [0.8, 0.6]], "float32")
    text = np.array([[0.8, 0.6], [0.6, 0.8], [1, 0]], "float32")
    # Image 0 is nearest to text 2, and text 0 to image 2.
    mask = tf.constant([True, True, False])
    _, accuracies = contrastive(image, text, 0.0, mask=mask, accuracies=True)
    assert accuracies == {"image_to_text_accuracy": 1.0, "text_to_image_accuracy": 1.0}


def test_bfloat16_embeddings_are_summed_in_float32():
    image = tf.cast(GOLDEN["image"], tf.bfloat16)
    loss = softmax_contrastive_loss(image, image, 0.0)
    wide = softmax_contrastive_loss(tf.cast(image, tf.float32), tf.cast(image, tf.float32), 0.0)
    assert loss.dtype == tf.float32
    assert float(loss) == float(wide)


@pytest.mark.parametrize(
    ("image", "text", "tile_size", "message"),
    [
        ([4, 3], [4, 2], None, "should have the same shape"),
        ([4, 3], [3, 3], None, "should have the same shape"),
        ([4, 3, 2], [4, 3, 2], None, r"`image_embeddings` should have rank 2, \[batch, dim\]"),
        ([4, 3], [4, 3], 0, "`tile_size` should be a positive whole number"),
    ],
)
def test_bad_arguments(image, text, tile_size, message):
    with pytest.raises(ValueError, match=message):
        softmax_contrastive_loss(tf.zeros(image), tf.zeros(text), 0.0, tile_size)


def test_a_temperature_that_overflows_is_named():
    same = tf.ones([5, 4]) / 2.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="temperature.*should be finite"):
        softmax_contrastive_loss(same, same, 100.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="temperature.*should be finite"):
        sigmoid_contrastive_loss(same, same, 100.0, -10.0)

"""Requests of several clients in one batch, joined and split by TF Serving's own scheduler."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, encoded

import keras_lit

IMAGES = encoded(4)


@pytest.fixture(scope="module")
def loaded(saved):
    return tf.saved_model.load(str(saved.path))


def joined(function, output, texts_rank, *requests):
    """What each client gets (an array or an error) whose requests meet in one batch."""
    names = sorted(function.structured_input_signature[1])  # "image_bytes" is the first.

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1, max_batch_size=64, batch_timeout_micros=1_000_000, autograph=False
    )
    def batch(*tensors):
        return function(**dict(zip(names, tensors, strict=True)))[output]

    specs = [tf.TensorSpec([None] * rank, tf.string) for rank in (1, texts_rank)]
    serve = tf.function(batch, input_signature=specs[: len(names)])
    serve.get_concrete_function()
    found = [None] * len(requests)

    def ask(i, request):
        try:
            found[i] = serve(*map(tf.constant, request)).numpy()
        except tf.errors.OpError as error:
            found[i] = error

    threads = [threading.Thread(target=ask, args=x) for x in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output"), [("classify_labels", "scores"), ("similarity", "similarity")]
)
def test_nobody_gets_the_texts_of_another(name, output, loaded):
    function = loaded.signatures[name]
    texts = next(x for x in ("labels", "text") if x in function.structured_input_signature[1])

    def alone(images, rows):
        given = {"image_bytes": tf.constant(images), texts: tf.constant(rows, tf.string)}
        return function(**given)[output].numpy()

    ours, theirs = (IMAGES[:2], ["dog", "moon"]), (IMAGES[2:], ["grey cat", "balloon"])
    wanted = [alone(images, [of_client]) for images, of_client in (ours, theirs)]
    assert wanted[0].shape == (2, 2) and np.abs(wanted[0] - wanted[1]).max() > 1e-3
    # A row for each image may be joined.
    requests = [(images, [of_client] * 2) for images, of_client in (ours, theirs)]
    for found, expected in zip(joined(function, output, 2, *requests), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # Lists may not, nor what a batch may have been joined from.
    for requests in ([ours, theirs], [([x], ["dog"]) for x in IMAGES]):
        for error in joined(function, output, 1, *requests):
            assert isinstance(error, tf.errors.InvalidArgumentError), error
            assert f"`{texts}` should be [n, m]" in error.message and "[4] [4]" in error.message
    # A list alone is one for all images, where it cannot have been joined.
    np.testing.assert_allclose(alone(IMAGES[:3], ours[1]), alone(IMAGES[:3], [ours[1]] * 3))
    assert alone(IMAGES[:1], ["dog"]).shape == (1, 1)
    assert alone(IMAGES[:2], []).shape == (2, 0)
    # Rows differ, and equal texts are encoded once.
    mixed = alone(IMAGES[:2], [["dog", "moon"], ["moon", "moon"]])
    np.testing.assert_allclose(mixed[0], wanted[0][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed[1], alone(IMAGES[1:2], ["moon", "moon"])[0], atol=1e-6)
    for rows in ([["dog"]] * 3, [[["dog"]]], "dog"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"`{texts}` should be \[n, m\]"):
            alone(IMAGES[:2], rows)


@pytest.mark.slow
@pytest.mark.parametrize("on_corrupt", ["nan", "zero"])
def test_a_bad_image_of_another_client(on_corrupt, saved, tmp_path):
    path = keras_lit.export.save(
        saved.model, tmp_path, class_names=CLASSES, on_corrupt=on_corrupt, towers="image"
    )
    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["classify"]
    requests = [(IMAGES[:2],), ([b"bad", IMAGES[2]],)]
    good = function(tf.constant(IMAGES[:3]))
    for output, filler in (("scores", {"nan": np.nan, "zero": 0.0}[on_corrupt]), ("valid", False)):
        first, second = joined(function, output, 1, *requests)
        np.testing.assert_allclose(first, good[output][:2], atol=1e-6)
        np.testing.assert_array_equal(second[0], np.full_like(second[0], filler))
        np.testing.assert_allclose(second[1], good[output][2], atol=1e-6)

"""Batch norms by their averages, as one operation with what is around them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import internals
from keras_lit.towers import settings

SAME = {"strides": 2, "padding": "same", "depth_multiplier": 2}
PIXELS = np.random.default_rng(1).normal(size=[2, 8, 8, 3]).astype("float32")


def backbone(**options):
    """A convolution and a batch norm whose numbers all count; another one inside of a block."""
    keras.utils.set_random_seed(0)
    norms = [keras.layers.BatchNormalization(**options) for _ in range(2)]
    block = keras.Sequential([keras.Input([4, 4, 6]), keras.layers.Conv2D(6, 3), norms[1]])
    layers = [keras.layers.Conv2D(6, 2, strides=2, use_bias=False), norms[0]]
    model = keras.Sequential([keras.Input([8, 8, 3]), *layers, keras.layers.ReLU(6), block])
    rng = np.random.default_rng(0)
    for norm in norms:
        norm.set_weights([rng.uniform(0.5, 2, x.shape) for x in norm.get_weights()])
    return model


@pytest.mark.parametrize(
    "options, count",
    [
        ({}, 2),
        ({"scale": False, "center": False}, 2),
        ({"dtype": "mixed_bfloat16"}, 2),
        ({"epsilon": 1e-6}, 0),  # CuDNN would take another one.
        ({"axis": 1}, 0),
        ({"dtype": "float64"}, 0),
    ],
)
def test_a_tower_gives_what_keras_own_layers_give(options, count):
    model = backbone(**options)
    tower = keras_lit.ImageTower(model, "mean")
    expected = keras.ops.mean(model(PIXELS, training=False), axis=(1, 2))
    run = tf.function(tower).get_concrete_function(tf.TensorSpec([None, 8, 8, 3]))
    nodes = [node.op for node in run.graph.as_graph_def().node]
    assert nodes.count("FusedBatchNormV3") == count
    tolerance = 2e-2 if "bfloat16" in str(options) else 1e-5
    np.testing.assert_allclose(run(PIXELS), expected, rtol=tolerance, atol=tolerance)
    assert not any("call" in vars(layer) for layer in internals.flat_layers(tower))


def depthwise(**options):
    """A depthwise convolution with two filters a channel, a batch norm and an activation."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(dtype=options.get("dtype"))
    layers = [keras.layers.DepthwiseConv2D(3, use_bias=False, **{**SAME, **options}), norm]
    model = keras.Sequential([keras.Input([8, 8, 3]), *layers, keras.layers.ReLU(6)])
    rng = np.random.default_rng(0)
    norm.set_weights([rng.uniform(0.5, 2, x.shape) for x in norm.get_weights()])
    return model


@pytest.mark.parametrize(
    "options, norms",
    [
        ({}, 0),
        ({"strides": 1, "dilation_rate": 2}, 1),  # TensorFlow moves its rows around it.
        ({"dtype": "mixed_bfloat16"}, 1),
    ],
)
def test_a_depthwise_convolution_scales_for_its_batch_norm(options, norms):
    model = depthwise(**options)
    tower = keras_lit.ImageTower(model, "mean")
    run = tf.function(tower).get_concrete_function(tf.TensorSpec([None, 8, 8, 3]))
    nodes = [node.op for node in run.graph.as_graph_def().node]
    assert nodes.count("FusedBatchNormV3") == norms
    expected = keras.ops.mean(model(PIXELS, training=False), axis=(1, 2))
    tolerance = 2e-2 if "dtype" in options else 1e-5
    np.testing.assert_allclose(run(PIXELS), expected, rtol=tolerance, atol=tolerance)


def test_what_trains_before_a_locked_batch_norm_gets_its_gradient():
    model = depthwise()
    model.layers[1].trainable = False
    tower = keras_lit.ImageTower(model, "mean")

    @tf.function
    def gradients(compute):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(compute(PIXELS) ** 2)
        return tape.gradient(loss, [x.value for x in model.trainable_weights])

    found = gradients(lambda x: tower(x, training=True))
    expected = gradients(lambda x: keras.ops.mean(model(x, training=True), (1, 2)))
    assert len(found) == 1
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


def test_a_batch_norm_that_trains_is_keras_own():
    tower, model = keras_lit.ImageTower(backbone(), "mean"), backbone()
    for training in (True, False):
        with tf.GradientTape() as tape, tf.GradientTape() as other:
            found = tf.reduce_sum(tower(PIXELS, training=training) ** 2)
            expected = tf.reduce_sum(keras.ops.mean(model(PIXELS, training=training), (1, 2)) ** 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        weights = tower.backbone.trainable_weights, model.trainable_weights
        ours = tape.gradient(found, [x.value for x in weights[0]])
        keras_own = other.gradient(expected, [x.value for x in weights[1]])
        for x, y in zip(ours, keras_own, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    for x, y in zip(tower.backbone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)  # Averages included.


def test_a_layer_that_already_has_another_call_keeps_it():
    model = backbone()
    norm = model.layers[1]
    norm.call = lambda x, training=None, mask=None: 0 * x
    with settings.fused(internals.flat_layers(model)):
        assert not np.any(norm(PIXELS[..., :1] * np.ones(6, "float32")))
    assert "call" in vars(norm)

"""Weights in 16 bits, and artifacts of one tower."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, TEMPLATES

import keras_lit


def stored(path):
    """{dtype: bytes} of the variables of an artifact."""
    variables = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    dtypes = variables.get_variable_to_dtype_map()
    sizes = {}
    for name, shape in variables.get_variable_to_shape_map().items():
        if dtypes[name] != tf.string and not name.startswith("save_counter"):
            size = int(np.prod(shape)) * dtypes[name].size
            sizes[dtypes[name].name] = sizes.get(dtypes[name].name, 0) + size
    return sizes


def numbers(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


@pytest.fixture(scope="module")
def in_16_bits(saved, tmp_path_factory):
    """An artifact for each dtype of its weights."""
    return functools.cache(
        lambda dtype: keras_lit.export.save(
            saved.model, tmp_path_factory.mktemp(dtype), weights=dtype
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_sixteen_bits(dtype, error, saved, in_16_bits):
    path = in_16_bits(dtype)
    towers = saved.model.image_tower, saved.model.text_tower
    matrices = [w for tower in towers for w in tower.weights if len(w.shape) > 1]
    vectors = [w for tower in towers for w in tower.weights if len(w.shape) < 2]
    temperature = 1
    assert stored(path) == {
        dtype: 2 * numbers(matrices),
        "float32": 4 * (numbers(vectors) + temperature),
    }
    signatures = tf.saved_model.load(str(path)).signatures
    for name, key in (("encode_image", "image_bytes"), ("encode_text", "text")):
        found = signatures[name](tf.constant(list(saved.inputs[key])))["embedding"]
        expected = saved.outputs[name]["embedding"]
        np.testing.assert_allclose(found, expected, atol=error)
        assert np.abs(found - expected).max() > 1e-6, "should have been rounded"


def rounded(kernel):
    """To 255 steps in each output channel, of a depthwise kernel in each of its channels."""
    if kernel.ndim < 2:
        return kernel
    columns = kernel.reshape(-1, kernel.shape[-1] if kernel.shape[-1] > 1 else kernel.shape[-2])
    found = np.empty_like(columns)
    for i, column in enumerate(columns.T):
        step = max(np.abs(column).max(), 1e-30) / 127
        found[:, i] = [round(float(value / step)) * step for value in column]
    return found.reshape(kernel.shape)


def test_int8_is_a_quarter_and_rounds_by_channel(tmp_path):
    keras.utils.set_random_seed(2)
    layers = [keras.layers.DepthwiseConv2D(3), keras.layers.Conv2D(5, 3), keras.layers.Dense(16)]
    backbone = keras.Sequential([keras.Input([8, 8, 3]), *layers])
    tower = keras_lit.ImageTower(backbone)
    tower.weights[0].assign(tower.weights[0] * np.reshape([0, 1, 9], [1, 1, 3, 1]))
    model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(16), "LL")
    path = keras_lit.export.save(model, tmp_path, weights="int8", towers="image")
    matrices = [w.shape for w in tower.weights if len(w.shape) > 1]
    vectors = [w for w in tower.weights if len(w.shape) < 2]
    channels = sum(shape[-1] if shape[-1] > 1 else shape[-2] for shape in matrices)
    assert stored(path) == {
        "int8": sum(map(int, map(np.prod, matrices))),
        "float32": 4 * (channels + numbers(vectors)),
    }
    pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3]).astype("uint8")
    served = tf.saved_model.load(str(path)).signatures["encode_pixels"]
    found = served(tf.constant(pixels))["embedding"].numpy()
    before = model.encode_image(pixels)
    tower.set_weights([*map(rounded, tower.get_weights())])
    np.testing.assert_allclose(found, model.encode_image(pixels), atol=1e-6)
    assert np.abs(found - before).max() > 1e-4


def test_the_graph_rounds_as_numpy_does(saved, in_16_bits):
    """The artifact in float16 is the model whose weights went through float16."""
    path = in_16_bits("float16")
    tower = saved.model.text_tower
    before = tower.get_weights()
    try:
        tower.set_weights(
            [w.astype("float16").astype("float32") if w.ndim > 1 else w for w in before]
        )
        expected = saved.model.encode_text(list(saved.inputs["text"]))
    finally:
        tower.set_weights(before)
    served = tf.saved_model.load(str(path)).signatures["encode_text"]
    found = served(tf.constant(list(saved.inputs["text"])))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_float16_cannot_hold(saved, tmp_path):
    head = saved.model.text_tower.head.kernel
    before = head.numpy()
    try:
        head.assign(before * 0 + 7e4)
        with pytest.raises(ValueError, match=r"head/kernel reaches 7e\+04, more than float16"):
            keras_lit.export.save(saved.model, tmp_path, weights="float16")
        keras_lit.export.save(saved.model, tmp_path, weights="bfloat16", towers="text")
    finally:
        head.assign(before)


def test_text_alone(saved, tmp_path):
    path = keras_lit.export.save(saved.model, tmp_path, towers="text")
    signatures = tf.saved_model.load(str(path)).signatures
    assert set(signatures) == {"encode_text", "serving_default"}
    found = signatures["serving_default"](tf.constant(list(saved.inputs["text"])))["embedding"]
    np.testing.assert_allclose(found, saved.outputs["encode_text"]["embedding"], atol=1e-6)
    assert stored(path) == {"float32": 4 * numbers(saved.model.text_tower.weights)}


def test_images_alone_classify_too(saved, tmp_path):
    path = keras_lit.export.save(
        saved.model, tmp_path, class_names=CLASSES, templates=TEMPLATES, towers="image", top_k=2
    )
    signatures = tf.saved_model.load(str(path)).signatures
    names = {"encode_image", "encode_pixels", "serving_default", "classify"}
    assert set(signatures) == names
    images = tf.constant(list(saved.inputs["image_bytes"]))
    found = signatures["serving_default"](images)["embedding"]
    np.testing.assert_allclose(found, saved.outputs["encode_image"]["embedding"], atol=1e-6)
    found, expected = signatures["classify"](images), saved.outputs["classify"]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)
    np.testing.assert_array_equal(found["top_indices"], expected["top_indices"][:, :2])
    temperature = 1
    weights = numbers(saved.model.image_tower.weights) + len(CLASSES) * 16 + temperature
    assert stored(path) == {"float32": 4 * weights}


@pytest.mark.slow
def test_an_image_artifact_needs_no_tokenizer(saved, tmp_path):
    backbone = keras.Sequential([keras.layers.Embedding(9, 16)])
    text_tower = keras_lit.TextTower(backbone, pooling="first")
    model = keras_lit.LiT(saved.model.image_tower, text_tower)
    path = keras_lit.export.save(model, tmp_path, towers="image")
    assert "encode_image" in tf.saved_model.load(str(path)).signatures

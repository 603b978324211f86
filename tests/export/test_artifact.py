"""Signatures in processes that have never heard of Keras, and what is refused."""

import json
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, assert_equal_outputs
from tensorflow.core.protobuf import saved_model_pb2

import keras_lit
from keras_lit.backbones import TextTransformer
from tests.small import COLOURS, THINGS, make_model, text_preprocessor

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory):
    """An artifact with SentencePiece and the sigmoid loss, inputs and outputs."""
    captions = [f"a {colour} {thing} over the sea" for colour in COLOURS for thing in THINGS]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 60)
    text = TextTransformer(tokenizer.vocabulary_size(), 8, 16, 1, 32, 4, pooling="last")
    model = keras_lit.LiT(
        make_model().image_tower, keras_lit.TextTower(text, tokenizer, 8), loss="sigmoid", bias=-3.0
    )
    inputs = {
        "image_bytes": np.array(
            [tf.io.encode_png(np.full([9, 9, 3], 77, "uint8")).numpy()], object
        ),
        "labels": np.array(["the green sea", "toucan"], object),
        "text": np.array(captions[:5], object),
        "pixels": np.full([1, 9, 9, 3], 77, "uint8"),
    }
    path = keras_lit.export.save(model, tmp_path_factory.mktemp("sigmoid"), templates=["{}"])
    cosines = model.encode_image(inputs["pixels"]) @ model.encode_text(list(inputs["labels"])).T
    outputs = {
        "encode_text": {"embedding": model.encode_text(captions[:5])},
        "classify_labels": {"scores": 1 / (1 + np.exp(3.0 - 10.0 * cosines))},
    }
    return types.SimpleNamespace(model=model, path=path, inputs=inputs, outputs=outputs)


@pytest.fixture(scope="module")
def fresh(saved, sigmoid, tmp_path_factory):
    """{artifact: {loader: {signature: {output: array}}}}, of one process that loads both.

    "printed" by saved_model_cli in the same process; what it wrote is in "folder".
    """
    directory, artifacts = tmp_path_factory.mktemp("fresh"), {"saved": saved, "sigmoid": sigmoid}
    common = ["--dir", str(saved.path), "--tag_set", "serve"]
    expression = ["--input_exprs", "text=['a red dog and a grey one']", "--outdir", str(directory)]
    commands = [
        ["show", *common, "--signature_def", "classify"],
        ["run", *common, "--signature_def", "encode_text", *expression],
    ]
    arguments = [json.dumps(commands)]
    for name, artifact in artifacts.items():
        np.savez(directory / f"{name}-inputs.npz", **artifact.inputs)
        arguments += [artifact.path, *(directory / f"{name}-{x}puts.npz" for x in ("in", "out"))]
    script = pathlib.Path(__file__).parent / "fresh_process.py"
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = {name: {"eager": {}, "session": {}} for name in artifacts}
    for artifact, loaders in found.items():
        outputs = np.load(directory / f"{artifact}-outputs.npz", allow_pickle=True)
        for name, values in outputs.items():
            loader, signature, output = name.split()
            loaders[loader].setdefault(signature, {})[output] = values
    return {**found, "printed": result.stdout, "folder": directory}


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["eager", "session"])
def test_every_signature_in_a_fresh_process(loader, fresh, saved):
    found = fresh["saved"][loader]
    assert set(found) == set(saved.outputs)
    for name, expected in saved.outputs.items():
        assert_equal_outputs(found[name], expected)


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["eager", "session"])
def test_sentencepiece_and_sigmoid_scores(loader, fresh, sigmoid):
    for name, expected in sigmoid.outputs.items():
        assert_equal_outputs(fresh["sigmoid"][loader][name], expected)


@pytest.mark.slow
def test_every_op_is_one_that_stock_tf_serving_knows(saved):
    saved_model = saved_model_pb2.SavedModel.FromString(
        (saved.path / "saved_model.pb").read_bytes()
    )
    graph = saved_model.meta_graphs[0].graph_def
    ops = {node.op for node in graph.node}
    for function in graph.library.function:
        ops |= {node.op for node in function.node_def}
    allowed = (GOLDEN / "serving_text_ops.txt").read_text().splitlines()
    of_text = {line for line in allowed if line and not line.startswith("#")}
    assert any(op in ops for op in of_text), "the tokenizer should be inside"
    assert {op for op in ops if "RoundRobin" in op} == set(), "TF Serving 2.20 has them, 2.19 not"
    functions = {function.signature.name for function in graph.library.function}
    assert ops - of_text - set(dir(tf.raw_ops)) - functions == set()
    assert not {op for op in ops if "PyFunc" in op}


def text_ops_of(path, signature):
    """The tokenizer's ops and matrix products that a signature reaches."""
    function = tf.saved_model.load(str(path)).signatures[signature]
    graph = function.graph.as_graph_def()
    library = {f.signature.name: f for f in graph.library.function}
    ops, todo, seen = [], list(graph.node), set()
    while todo:
        node = todo.pop()
        ops.append(node.op)
        names = [node.op]
        for attribute in node.attr.values():
            names += [attribute.func.name, *(f.name for f in attribute.list.func)]
        for name in set(names) & set(library) - seen:
            seen.add(name)
            todo += library[name].node_def
    return {
        "tokenizer": sum("Wordpiece" in op for op in ops),
        "gathers": sum(op == "ResourceGather" for op in ops),
        "products": sum(op in ("MatMul", "BatchMatMulV2", "Einsum") for op in ops),
    }


@pytest.mark.slow
def test_classify_does_no_work_of_the_text_tower(saved):
    assert text_ops_of(saved.path, "classify_labels")["tokenizer"] > 0
    image, classify = (text_ops_of(saved.path, name) for name in ("encode_image", "classify"))
    assert classify == {"tokenizer": 0, "gathers": 0, "products": image["products"] + 1}
    assert image["products"] < text_ops_of(saved.path, "encode_text")["products"]


def test_weights_are_variables_and_saved_once(saved):
    variables = tf.train.load_checkpoint(str(saved.path / "variables" / "variables"))
    shapes = variables.get_variable_to_shape_map()
    found = sum(int(np.prod(shape)) for name, shape in shapes.items() if name[:5] != "_CHEC")
    towers = saved.model.image_tower, saved.model.text_tower
    weights = sum(int(np.prod(w.shape)) for tower in towers for w in tower.weights)
    temperature = 1
    assert found == weights + len(CLASSES) * 16 + temperature


@pytest.mark.parametrize("names", ["image_bytes", "image_bytes text"])
def test_a_corrupt_row_is_named(saved, names):
    signature = "similarity" if "text" in names else "encode_image"
    function = tf.saved_model.load(str(saved.path)).signatures[signature]
    image = saved.inputs["image_bytes"][0]
    inputs = {
        "image_bytes": tf.constant([image, image, b"GIF?", image]),
        "text": tf.constant(["a"]),
    }
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        function(**{name: inputs[name] for name in names.split()})
    assert re.search(r"does not decode.*\[2\].*GIF\?", raised.value.message)
    assert "image_text_pairs" not in raised.value.message  # Who asks a server trains nothing.


@pytest.mark.parametrize("shape", [(2, 5, 5, 5), (2, 0, 5, 3), (2, 5, 0, 3), (2, 5, 5, 0)])
def test_pixels_that_are_no_images_are_named(saved, shape):
    loaded = tf.saved_model.load(str(saved.path))
    expected = rf"`pixels` should be .*\[{' '.join(map(str, shape))}\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        loaded.signatures["encode_pixels"](pixels=tf.zeros(shape, tf.uint8))


def test_empty_labels_fill_up_a_row(saved):
    """They take nothing from the others, also where all are empty."""
    classify = tf.saved_model.load(str(saved.path)).signatures["classify_labels"]
    labels = tf.constant([["toucan", "", "black moon", " "]] * 2 + [[""] * 4])
    found = classify(image_bytes=tf.constant(saved.inputs["image_bytes"].tolist()), labels=labels)
    expected = np.zeros([3, 4])
    expected[:2, [0, 2]] = saved.outputs["classify_labels"]["scores"][:2]
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("on_corrupt", ["fail", "nan"])
def test_no_rows_are_answered_by_none(saved, on_corrupt, tmp_path):
    # Batch norm after a convolution refuses no rows.
    layers = keras.layers.Conv2D(8, 3, strides=2), keras.layers.BatchNormalization()
    backbone = keras.Sequential([keras.Input([16, 16, 3]), *layers])
    model = keras_lit.LiT(keras_lit.ImageTower(backbone, "mean", 16), saved.model.text_tower)
    path = keras_lit.export.save(model, tmp_path, class_names=CLASSES, on_corrupt=on_corrupt)
    loaded = tf.saved_model.load(str(path))
    none, texts = tf.constant([], tf.string), tf.constant(["dog", "moon"])
    for name, inputs, shapes in (
        ("encode_image", {"image_bytes": none}, {"embedding": (0, 16)}),
        ("encode_pixels", {"pixels": tf.zeros([0, 9, 9, 3], tf.uint8)}, {"embedding": (0, 16)}),
        ("encode_text", {"text": none}, {"embedding": (0, 16)}),
        ("classify", {"image_bytes": none}, {"scores": (0, 3), "top_classes": (0, 3)}),
        ("similarity", {"image_bytes": none, "text": texts}, {"similarity": (0, 2)}),
        ("classify_labels", {"image_bytes": none, "labels": none}, {"scores": (0, 0)}),
    ):
        found = loaded.signatures[name](**inputs)
        assert {key: tuple(found[key].shape) for key in shapes} == shapes, name


@pytest.mark.slow
def test_a_text_is_as_long_as_the_longest_of_a_request(saved, tmp_path):
    """The first number of each token is 1, the second how many tokens the backbone saw."""
    ids, mask = (keras.Input([None], dtype="int32", name=x) for x in ("token_ids", "padding_mask"))
    ones = keras.ops.cast(ids >= 0, "float32")
    seen = ones * keras.ops.sum(ones, axis=1, keepdims=True)
    backbone = keras.Model(
        {"token_ids": ids, "padding_mask": mask}, keras.ops.stack([ones, seen], -1)
    )
    tower = keras_lit.TextTower(
        backbone, pooling="mean", projection_dim=2, preprocessor=text_preprocessor()
    )
    tower.head.kernel.assign(np.eye(2))
    image_tower = keras_lit.ImageTower(saved.model.image_tower.backbone, "mean", 2)
    model = keras_lit.LiT(image_tower, tower, "LU")
    signatures = tf.saved_model.load(str(keras_lit.export.save(model, tmp_path))).signatures
    for texts, width in (
        (["moon"], 8),
        (["a"], 4),
        (["a red dog and a grey one", "a"], 10),
        ([], None),
    ):
        found = signatures["encode_text"](tf.constant(texts, tf.string))["embedding"].numpy()
        assert found.shape == (len(texts), 2)
        np.testing.assert_allclose(found[:, 1], [width * x for x in found[:, 0]], rtol=1e-6)


@pytest.mark.slow
def test_corrupt_rows_as_nan(saved, tmp_path):
    path = keras_lit.export.save(
        saved.model, tmp_path, class_names=CLASSES, on_corrupt="nan", towers="image"
    )
    signatures = tf.saved_model.load(str(path)).signatures
    images = list(saved.inputs["image_bytes"])
    found = signatures["encode_image"](tf.constant([images[0], b"", images[1], b"\xff\xd8\xff"]))
    np.testing.assert_array_equal(found["valid"], [True, False, True, False])
    expected = saved.outputs["encode_image"]["embedding"]
    np.testing.assert_allclose(found["embedding"][::2], expected[:2], atol=1e-6)
    assert np.isnan(found["embedding"][1::2]).all()
    found = signatures["classify"](tf.constant([b"bad", images[0]]))
    np.testing.assert_array_equal(found["valid"], [False, True])
    np.testing.assert_array_equal(np.isnan(found["scores"]).all(axis=1), [True, False])
    assert found["classes"][0, 1] == CLASSES[1].encode()
    np.testing.assert_array_equal(found["top_classes"][0], [b""] * 3)
    np.testing.assert_array_equal(found["top_indices"][0], [-1] * 3)
    best = np.argsort(-found["scores"][1].numpy())
    np.testing.assert_array_equal(found["top_classes"][1], np.array(CLASSES, "S")[best])
    assert signatures["encode_image"](tf.constant(images))["valid"].numpy().all()


@pytest.mark.slow
def test_corrupt_rows_as_zero_are_json_to_every_parser(saved, sigmoid, tmp_path):
    image, outputs = saved.inputs["image_bytes"][0], saved.outputs["encode_image"]["embedding"]
    for i, model in enumerate((saved.model, sigmoid.model)):
        path = keras_lit.export.save(
            model, tmp_path / str(i), class_names=CLASSES, on_corrupt="zero"
        )
        loaded = tf.saved_model.load(str(path))
        texts = tf.constant([["dog", "moon"]])
        for name, inputs in (
            ("encode_image", {}),
            ("classify", {}),
            ("classify_labels", {"labels": texts}),
            ("similarity", {"text": texts}),
        ):
            found = loaded.signatures[name](image_bytes=tf.constant([b"bad", image]), **inputs)
            np.testing.assert_array_equal(found.pop("valid"), [False, True])
            for output, values in found.items():
                if values.dtype.is_floating:
                    json.dumps(values.numpy().tolist(), allow_nan=False)
                    assert not values[0].numpy().any() and values[1].numpy().any(), output
                if output == "embedding" and model is saved.model:
                    np.testing.assert_allclose(values[1], outputs[0], atol=1e-6)


@pytest.mark.slow
def test_saved_model_cli(saved, fresh):
    shown = fresh["printed"]
    assert "inputs['image_bytes'] tensor_info" in shown and "outputs['top_classes']" in shown
    found = np.load(fresh["folder"] / "embedding.npy")
    np.testing.assert_allclose(found, saved.outputs["encode_text"]["embedding"][:1], atol=1e-6)


def test_what_is_refused(saved, tmp_path):
    for options, message in (
        ({"towers": "vision"}, "`towers` should be one of 'both', 'image', 'text'"),
        ({"on_corrupt": "skip"}, "`on_corrupt` should be one of 'fail', 'nan', 'zero'"),
        ({"weights": "int4"}, "`weights` should be one of 'float32', 'float16', 'bfloat16'"),
        ({"top_k": 0}, "`top_k` should be a positive whole number"),
        ({"top_k": 2.5}, "`top_k` should be a positive whole number"),
        ({"templates": ["a photo"]}, r"one slot \{\}.*Received: 'a photo'"),
        ({"templates": "a photo of a {}"}, "`templates` should be a list.*'a photo of a {}'"),
        ({"towers": "text", "class_names": CLASSES}, "'both' or 'image'. Received: 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_lit.export.save(saved.model, tmp_path / "models", **options)
    with pytest.raises(TypeError, match="`card` should be a dict.*Received: 'data: ours'"):
        keras_lit.export.save(saved.model, tmp_path / "models", card="data: ours")
    backbone = keras.Sequential([keras.layers.Embedding(9, 16)])
    text_tower = keras_lit.TextTower(backbone, pooling="first")
    model = keras_lit.LiT(saved.model.image_tower, text_tower)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        keras_lit.export.save(model, tmp_path / "models")
    assert not (tmp_path / "models").exists()

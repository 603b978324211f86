"""An artifact in a C program, through the library of TensorFlow's wheel: no Python in the process."""

import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text

import keras_lit
from keras_lit.backbones import TextTransformer
from tests.small import encoded_pairs, make_model

TENSORFLOW = pathlib.Path(tf.sysconfig.get_lib())
TEXT_OPS = pathlib.Path(tensorflow_text.__file__).parent / "python" / "ops"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    libraries = [
        next(TENSORFLOW.glob(f"libtensorflow_{x}.so.*"), None) for x in ("cc", "framework")
    ]
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc to build the C program with")
    if None in libraries:
        pytest.skip(f"the TensorFlow in {TENSORFLOW} has no libtensorflow_cc.so to link with")
    path = tmp_path_factory.mktemp("c") / "serve"
    source = pathlib.Path(__file__).parent / "serve.c"
    command = ["gcc", "-o", path, source, f"-I{tf.sysconfig.get_include()}", *libraries]
    subprocess.run([*command, f"-Wl,-rpath,{TENSORFLOW}"], check=True)
    return path


def ask(program, artifact, name, contents, folder, operations, output="embedding"):
    """(exit code, an output or None, standard error) of the C program."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(artifact))
    signature = loaded.signature_def[name]
    (given,), output = signature.inputs.values(), signature.outputs[output]
    ends = [part for tensor in (given, output) for part in tensor.name.split(":")]
    files = [folder / str(i) for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    libraries = [TEXT_OPS / f"{x}.so" for x in operations]
    arguments = [artifact, folder / "out", *libraries, "--", *ends, *files]
    kernels = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}  # As in the process of the tests.
    result = subprocess.run([program, *arguments], capture_output=True, text=True, env=kernels)
    if result.returncode:
        return result.returncode, None, result.stderr
    dtype = tf.as_dtype(output.dtype)
    if dtype == tf.string:
        rows = np.array((folder / "out").read_bytes().split(b"\n")[:-1], object)
    else:
        rows = np.fromfile(folder / "out", dtype.as_numpy_dtype)
    return 0, rows.reshape([int(x) for x in result.stdout.split()]), result.stderr


@pytest.fixture(autouse=True)
def optimized():
    """Graphs as the program has them, bit for bit."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


WORDPIECE = ("_regex_split_ops", "_normalize_ops", "_fast_wordpiece_tokenizer")


def test_wordpiece_and_images(program, saved, tmp_path):
    loaded = tf.saved_model.load(str(saved.path))
    images = list(saved.inputs["image_bytes"])
    texts = [text.encode() for text in [*saved.inputs["text"], "Ünïcödé 猫", "dog " * 300]]
    for name, contents in (("encode_image", images), ("encode_text", texts), ("encode_text", [])):
        code, found, error = ask(program, saved.path, name, contents, tmp_path, WORDPIECE)
        assert code == 0, error
        expected = loaded.signatures[name](tf.constant(contents, tf.string))["embedding"]
        np.testing.assert_array_equal(found, expected)
    code, _, error = ask(program, saved.path, "encode_image", [b"no"], tmp_path, WORDPIECE)
    assert code == 2 and "run: code 3" in error and "does not decode" in error, error
    code, _, error = ask(program, saved.path, "encode_image", images, tmp_path, ())
    assert code == 2 and "Op type not registered" in error, error


def test_search(program, tmp_path):
    model = make_model()
    pairs = encoded_pairs(5, name=[f"{i} ü.png" for i in range(5)])
    index = keras_lit.search.Index.build(model, pairs, tmp_path / "index", verbose=0)
    options = {"towers": "text", "index": index, "top_k": 3}
    path = keras_lit.export.save(model, tmp_path / "models", **options)
    found = {}
    for output in ("ids", "names", "scores"):
        asked = (program, path, "search", [b"a red dog"], tmp_path, WORDPIECE, output)
        code, found[output], error = ask(*asked)
        assert code == 0, error
    hits = index.search("a red dog", k=3)
    assert found["ids"].tolist() == [[hit.id for hit in hits]]
    assert [x.decode() for x in found["names"][0]] == [hit.name for hit in hits]
    np.testing.assert_allclose(found["scores"][0], [hit.score for hit in hits], atol=1e-5)


def test_sentencepiece(program, tmp_path):
    captions = ["a red dog over the sea", "a green moon and a grey cat"] * 3
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 50)
    text = TextTransformer(tokenizer.vocabulary_size(), 8, 16, 1, 32, 4, pooling="last")
    tower = keras_lit.TextTower(text, tokenizer, 8)
    model = keras_lit.LiT(make_model().image_tower, tower)
    path = keras_lit.export.save(model, tmp_path / "models", towers="text")
    texts = [b"a red dog", "猫 ünïcödé".encode(), b""]
    code, found, error = ask(
        program, path, "encode_text", texts, tmp_path, ("_sentencepiece_tokenizer",)
    )
    assert code == 0, error
    loaded = tf.saved_model.load(str(path))
    expected = loaded.signatures["encode_text"](tf.constant(texts))["embedding"]
    np.testing.assert_array_equal(found, expected)

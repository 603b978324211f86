"""ONNX and LiteRT versions, asked by the clients of examples/edge without TensorFlow."""

import contextlib
import functools
import importlib
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import types

import keras_nlp
import numpy as np
import onnx
import pytest
import tensorflow as tf
from conftest import encoded
from PIL import Image
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

import keras_lit
from keras_lit.export import edge, edge_towers, quantizing
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from tests import small
from tests.small import make_model, make_pairs

ROOT = pathlib.Path(__file__).parent.parent.parent
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "howto_edge.md"
CLASSES = ["toucan", "balloon"]  # Of the page.
TEXTS = ["a red dog and a grey one", "moon", "", "a balloon"]
# Latin, marks, Greek, Hebrew, Hindi, Thai, Hangul, spaces, Kanji, compatibility, emoji, controls.
BLOCKS = (0x20, 0x21, 0x41, 0x61, 0xA0, 0xC0, 0x300, 0x391, 0x5D0, 0x905, 0xE01, 0x1100, 0x1E00)
BLOCKS += (0x2000, 0x2028, 0x2460, 0x3041, 0x4E00, 0xAC00, 0xF900, 0xFB00, 0xFE00, 0xFF01, 0x1F600)
BLOCKS += (0x20000, 0x2F800, 0xE0020, 0x1, 0x80)


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(EXAMPLES / "edge"))
    yield importlib.import_module("reference")
    sys.path.remove(str(EXAMPLES / "edge"))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def versions(model, tmp_path_factory):
    """{format: the path of a version}, as the page writes them."""
    folder = tmp_path_factory.mktemp("edge")
    model.save(folder / "model.keras")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    with contextlib.chdir(folder):
        exec(code, {})
    return {format: folder / "edge" / format / "1" for format in ("onnx", "litert")}


@pytest.fixture(scope="module")
def answers(versions, tmp_path_factory):
    """What onnx_client and litert_client say, in one process, and what they were asked."""
    folder = tmp_path_factory.mktemp("clients")
    images = []
    for i, contents in enumerate(encoded(4)[::2]):  # PNGs, with transparency.
        images.append(folder / f"{i}.png")
        images[-1].write_bytes(contents)
    given = {"images": list(map(str, images)), "text": TEXTS}
    given |= {format: str(path) for format, path in versions.items()}
    (folder / "inputs.json").write_text(json.dumps(given))
    script = pathlib.Path(__file__).parent / "edge_process.py"
    arguments = [EXAMPLES, folder / "inputs.json", folder / "outputs.npz"]
    child = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    return types.SimpleNamespace(images=images, found=dict(np.load(folder / "outputs.npz")))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_the_same_embeddings_without_tensorflow(format, answers, model):
    images, text = model.encode_image(answers.images), model.encode_text(TEXTS)
    np.testing.assert_allclose(answers.found[f"{format} images"], images, atol=2e-6)
    np.testing.assert_allclose(answers.found[f"{format} text"], text, atol=2e-6)
    scores = np.exp(10.0 * images @ model.encode_text(CLASSES).T)
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers.found[f"{format} classes"], expected, atol=1e-5)


def test_a_version_says_what_it_holds(versions):
    assert sorted(path.name for path in versions["onnx"].iterdir()) == [
        *("README.md", "classes.npy", "image_tower.onnx", "lit.json"),
        *("text_tower.onnx", "vocabulary.txt"),
    ]
    settings = json.loads((versions["litert"] / "lit.json").read_text())
    assert settings["image"]["shape"] == [8, 8, 3] and settings["image"]["dtype"] == "uint8"
    assert (
        settings["temperature"] == pytest.approx(10.0) and settings["classes"]["names"] == CLASSES
    )
    card = (versions["litert"] / "README.md").read_text()
    assert "`pixels` uint8 [None, 8, 8, 3]" in card and 'run(pixels=...)["embedding"]' in card
    assert "##" not in card.split("## Vocabulary")[1].split("\n## ")[0]  # Not the words themselves.


def bert_tower():
    """A text tower that ignores padding."""
    preprocessor = small.text_preprocessor()
    words = preprocessor.tokenizer.vocabulary_size()
    backbone = keras_lit.backbones.BertEncoder(words, 1, 2, 8, 16)
    return keras_lit.TextTower(backbone, projection_dim=16, preprocessor=preprocessor)


@pytest.mark.slow
def test_onnx_takes_sentences_without_their_padding(reference, versions, tmp_path, monkeypatch):
    """Where they have the same embeddings so; clients and files of before go on as they did."""
    model = keras_lit.LiT(make_model().image_tower, bert_tower())
    path = keras_lit.export.save(model, tmp_path, format="onnx", towers="text")
    settings, taken = json.loads((path / "lit.json").read_text()), []
    of_file = edge_towers.load

    def load(file, format="onnx", threads=None):
        run = of_file(file, format, threads)
        return lambda rows: taken.append(rows.shape) or run(rows)

    tensors = onnx.load(path / "text_tower.onnx").graph.initializer
    matrices = sum(int(np.prod(x.dims)) for x in tensors if len(x.dims) > 1)
    assert matrices <= sum(x.numpy().size for x in model.text_tower.weights)  # No copies.
    expected = model.encode_text(TEXTS)
    found = reference.encode_texts(load, path, settings, TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for i, text in enumerate(TEXTS):
        found = reference.encode_texts(load, path, settings, [text])
        np.testing.assert_allclose(found, expected[i : i + 1], atol=2e-6)
    counts = np.minimum(small.text_preprocessor().token_counts(TEXTS), 10).tolist()
    assert taken == [(4, max(counts)), *[(1, count) for count in counts]] and min(counts) == 2
    assert settings["text"]["shape"] == [10]
    monkeypatch.setattr(edge_towers, "load", load)
    pairs = {"image": small.make_pixels(2), "text": ["", "a"]}
    _, row = keras_lit.export.compare(model, tmp_path, pairs, verbose=False)
    assert row["text_cosine"] > 0.999999 and taken[-1] == (2, 3)
    small_one = keras_lit.export.save(model, tmp_path, format="onnx", towers="text", weights="int8")
    graph = onnx.load(small_one / "text_tower.onnx").graph
    weights = {x.name: x for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT}
    products = [x for x in graph.node if x.op_type in ("Gemm", "MatMul")]
    assert not [x for x in products if set(x.input) & set(weights)]
    del settings["text"]["any_length"]  # As of a version of before.
    reference.encode_texts(load, path, settings, TEXTS)
    assert taken[-1] == (4, 10)
    for version in versions.values():  # LiteRT's, and where padding counts, are of one length.
        assert json.loads((version / "lit.json").read_text())["text"]["any_length"] is False


def test_an_exact_gelu_and_a_tower_alone(tmp_path):
    """tf2onnx has no erfc, and says so in a log only; of mixed precision a file has float32."""
    model, mixed = (
        keras_lit.LiT(
            keras_lit.ImageTower(
                keras_nlp.models.ViTBackbone((16, 16, 3), 8, 1, 2, 16, 32, dtype=dtype)
            ),
            keras_lit.TextTower.from_features(16),
            "LL",
        )
        for dtype in ("float32", "mixed_bfloat16")
    )
    mixed.image_tower.set_weights(model.image_tower.get_weights())
    path = keras_lit.export.save(mixed, tmp_path, format="onnx", towers="image")
    assert mixed.image_tower.backbone.compute_dtype == "bfloat16"  # It goes on as it was.
    pixels = np.random.default_rng(0).integers(0, 256, [3, 16, 16, 3]).astype("uint8")
    found = edge_towers.load(path / "image_tower.onnx", "onnx")(pixels)
    np.testing.assert_allclose(found, model.encode_image(pixels), atol=2e-6)
    assert "text" not in json.loads((path / "lit.json").read_text())


@pytest.mark.slow
def test_a_backbone_that_tf2onnx_does_not_write_is_said(tmp_path):
    backbone = keras_nlp.models.GemmaBackbone(50, 1, 2, 1, 8, 16, 4)
    tower = keras_lit.TextTower(backbone, sequence_length=12, pooling="mean", projection_dim=16)
    model = keras_lit.LiT(make_model().image_tower, tower)
    with pytest.raises(ValueError, match="GemmaBackbone computes what onnx cannot"):
        keras_lit.export.save(model, tmp_path, format="onnx", towers="text")
    assert not list(tmp_path.iterdir())


def odd_strings(count):
    chance = random.Random(0)
    words = "A photo of The red BALLOON straße ΟΔΟΣ İ ﬁne naïve don't $5 1,000 [CLS] </s> ▁x ##ing"
    words = [*words.split(), "\t", " ", "", "\u200b", "cafe\u0301", "東京", "xy" * 51, "é" * 20]

    def part():
        if chance.random() < 0.4:
            return chance.choice(words)
        block = chance.choice(BLOCKS)
        return "".join(chr(block + chance.randrange(24)) for _ in range(chance.randrange(1, 5)))

    return ["".join(part() + chance.choice(" ,") for _ in range(chance.randrange(9)))] + [
        chance.choice(["", " "]).join(part() for _ in range(chance.randrange(9)))
        for _ in range(count - 1)
    ]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_tokenizer_on_a_thousand_odd_strings(kind, lowercase, reference, tmp_path):
    texts = odd_strings(1000)
    make = getattr(keras_lit.tokenizers, f"train_{kind}")
    tokenizer = make(texts[:200], 900, lowercase=lowercase)
    preprocessor = TextPreprocessor(tokenizer, 12, lowercase=not lowercase)
    tower = types.SimpleNamespace(preprocessor=preprocessor, vocabulary_size=900)
    settings = json.loads(json.dumps(edge._of_text(tower, tmp_path)))
    token_ids = reference.token_ids_of(settings, tmp_path)
    found, expected = np.stack(list(map(token_ids, texts))), preprocessor(texts).numpy()
    wrong = [ascii(texts[i]) for i in np.flatnonzero((found != expected).any(axis=1))]
    assert not wrong, wrong[:5]
    assert len(np.unique(expected)) > 300


@pytest.mark.parametrize(("options", "levels"), small.LEVELS_OF_PIXELS)
def test_the_same_pixels(options, levels, reference, tmp_path):
    """Files without loss; of JPEG TensorFlow's decoder and Pillow's differ by a few levels."""
    preprocessor = ImagePreprocessor((20, 24), value_range="0..255", **options)
    settings = {**edge._of_images(preprocessor), "shape": [20, 24, 3]}
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, [7, 5, 4]).astype("uint8"), "RGBA")
    turned = Image.Exif()
    turned[0x112] = 6
    for size in ((61, 43), (13, 17), (9, 700)):
        picture = noise.resize(size, Image.BICUBIC)
        paths = [tmp_path / name for name in ("a.png", "b.png", "c.webp", "d.bmp", "e.gif")]
        picture.save(paths[0])
        picture.convert("L").save(paths[1])
        picture.convert("RGB").save(paths[2], lossless=True, exif=turned)
        picture.convert("RGB").save(paths[3])
        picture.convert("P").save(paths[4])
        for path in paths:
            expected = preprocessor(tf.io.read_file(str(path))).numpy()
            found = reference.pixels_of(path, settings).astype(int)
            assert np.abs(found - expected).max() <= levels, path.name


def test_hostile_files_and_shapes_get_a_sentence(reference, versions, tmp_path, monkeypatch):
    client = importlib.import_module("onnx_client")

    def said(folder, *arguments):
        monkeypatch.setattr(sys, "argv", ["client", str(folder), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            reference.main(client.load, "onnx")
        assert str(end.value).count("\n") == 0 and len(str(end.value)) < 500
        return str(end.value)

    (tmp_path / "a.png").write_bytes(b"\x89PNG, but not really")
    (tmp_path / "empty.jpg").write_bytes(b"")
    whole = encoded(1)[0]
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "large.bmp").write_bytes(
        b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + b"\0\0\1\0" * 2 + b"\1\0\x18\0" + bytes(30)
    )
    for name in ("a.png", "empty.jpg", "half.png", "large.bmp", "none.png"):
        assert re.search(
            f"{name} does not decode", said(versions["onnx"], "--images", tmp_path / name)
        )
    assert "more than 67,108,864" in said(versions["onnx"], "--images", tmp_path / "large.bmp")
    assert "should hold a version" in said(tmp_path, "--text", "a")
    assert "Received: litert" in said(versions["litert"], "--text", "a")
    broken = shutil.copytree(versions["onnx"], tmp_path / "broken")
    (broken / "text_tower.onnx").write_bytes(b"no tower")
    assert "text_tower.onnx is missing or damaged" in said(broken, "--text", "a")
    settings = json.loads((broken / "lit.json").read_text())
    del settings["sha256"]["text_tower.onnx"], settings["image"]
    (broken / "lit.json").write_text(json.dumps(settings))
    assert "is not an ONNX file" in said(broken, "--text", "a")
    assert "no image tower" in said(broken, "--images", tmp_path / "a.png")
    litert = importlib.import_module("litert_client")
    with pytest.raises(ValueError, match="text_tower.onnx is not a LiteRT file"):
        litert.load(str(broken / "text_tower.onnx"))
    for contents in (b"", b"{", b"[]", b'{"format": "onnx"}', b'{"format": "onnx", "sha256": 3}'):
        (broken / "lit.json").write_bytes(contents)
        assert "should hold a version" in said(broken, "--text", "a")
    for pixels in (np.zeros([4, 4], "uint8"), np.zeros([0, 4, 3], "uint8"), np.zeros([4, 4, 3])):
        with pytest.raises(ValueError, match=r"should be uint8 \[height, width, 3\]"):
            reference.pixels_of(pixels, {"shape": [8, 8, 3]})
    of = settings["text"]
    for row in (np.zeros(9, "int32"), np.full(10, 41), np.full(10, -1), np.zeros(10)):
        with pytest.raises(ValueError, match=r"whole numbers in 0\.\.40 of shape \(10,\)"):
            reference.embed(None, of, [row], 16)


def test_what_a_format_does_not_have(model, tmp_path, monkeypatch):
    for options, message in (
        ({"format": "tflite"}, "`format` should be one of 'saved_model', 'onnx', 'litert'"),
        ({"format": "onnx", "weights": "float16"}, "`weights` should be one of 'float32', 'int8'"),
        ({"format": "onnx", "on_corrupt": "nan"}, "`on_corrupt` is for SavedModels"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_lit.export.save(model, tmp_path, **options)
    features = keras_lit.LiT(keras_lit.ImageTower.from_features(16), make_model().text_tower)
    with pytest.raises(ValueError, match="no backbone"):
        keras_lit.export.save(features, tmp_path, format="onnx")
    monkeypatch.setitem(edge_towers._NEEDS, "onnx", ("no_such_package",))
    with pytest.raises(ImportError, match=r"pip install 'keras_lit\[edge\]'"):
        keras_lit.export.save(model, tmp_path, format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_refused(model, tmp_path, monkeypatch):
    wrong = lambda rows: -model.encode_text(rows)  # noqa: E731
    monkeypatch.setattr(edge_towers, "load", lambda *_: wrong)
    monkeypatch.setattr(edge_towers.EdgeTower, "export", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"worst cosine between them is -1\.0"):
        keras_lit.export.save(model, tmp_path, format="litert", towers="text")
    assert not list(tmp_path.iterdir())


def test_an_export_that_ends_in_the_middle_leaves_no_version(model, tmp_path, monkeypatch):
    """As when it is killed: what a server sees then has no number. The next one is the first."""

    def killed(tower, path, *options):
        path.write_bytes(b"half")
        (working,) = tmp_path.iterdir()
        assert working.name.startswith("tmp-") and path.parent.parent == working
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(edge_towers, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            keras_lit.export.save(model, tmp_path, format="onnx")
    (tmp_path / "tmp-killed").mkdir()  # -9 leaves its folder.
    monkeypatch.setattr(edge_towers, "write", lambda tower, path, *_: path.write_bytes(b"whole"))
    assert keras_lit.export.save(model, tmp_path, format="onnx").name == "1"


def test_jpegs_are_tensorflows_by_the_accurate_transform(reference, tmp_path):
    """Its default is the fast one; Pillow, browsers and phones take the accurate one."""
    noise = np.random.default_rng(0).integers(0, 256, [7, 5, 3]).astype("uint8")
    for subsampling in (0, 2):
        path = tmp_path / "a.jpg"
        Image.fromarray(noise).resize((61, 43)).save(path, subsampling=subsampling)
        found = reference.decode(path, {"max_pixels": 9**9, "exif_orientation": 1, "background": 0})
        decode = functools.partial(tf.io.decode_jpeg, tf.io.read_file(str(path)))
        np.testing.assert_array_equal(found, decode(dct_method="INTEGER_ACCURATE"))
        assert 0 < np.abs(found.astype(int) - decode().numpy()).max() < 13


def test_a_tower_without_a_vocabulary_takes_token_ids(reference, tmp_path):
    backbone = keras_lit.backbones.TextTransformer(41, 10, 16, 1, 32, 4)
    tower = keras_lit.TextTower(backbone, sequence_length=10)
    settings = edge._of_text(tower, tmp_path)
    assert settings == {"vocabulary_size": 41, "tokenizer": None}
    with pytest.raises(ValueError, match="takes token ids only"):
        reference.token_ids_of(settings, tmp_path)


@pytest.mark.slow
def test_int8_and_the_table_beside_the_model(model, tmp_path, capsys, monkeypatch):
    """Both formats in int8; a SavedModel of the text tower; what they say is what they hold."""
    pairs = make_pairs(40).batch(20)
    monkeypatch.setattr(edge_towers, "_GOOD", 1.0)  # None is as good as that.
    for format in ("onnx", "litert"):
        options = {"weights": "int8", "calibration": pairs, "version": 8}
        with pytest.warns(UserWarning, match="image_tower.* has a mean cosine of"):
            keras_lit.export.save(model, tmp_path / format, format=format, **options)
    keras_lit.export.save(model, tmp_path / "served", towers="text")
    rows = keras_lit.export.compare(model, tmp_path, pairs, threads=1)
    assert [row["format"] for row in rows] == ["keras", "litert int8", "onnx int8", "saved_model"]
    assert [row["version"] for row in rows] == ["", "litert/8", "onnx/8", "served/1"]
    printed = capsys.readouterr().out.splitlines()
    assert "mean_recall" in printed[-5] and "onnx int8" in printed[-2]
    images = model.encode_image(pairs)
    text = model.encode_text([row["text"].decode() for row in make_pairs(40).as_numpy_iterator()])
    pixels = np.stack([row["image"] for row in make_pairs(40).as_numpy_iterator()])
    small = edge.calibration_pixels(model, pixels)
    assert small.shape == (40, 8, 8, 3) and small.dtype == np.uint8
    for row in rows[1:3]:
        folder = tmp_path / row["version"]
        format = row["format"].split()[0]
        file = folder / f"image_tower{edge_towers.SUFFIXES[format]}"
        found = edge_towers.load(file, format)(small)
        worst = (found * images).sum(axis=1).min()
        assert 0.9 < worst < 0.999999 and row["image_cosine"] == pytest.approx(worst, abs=1e-5)
        if format == "onnx":
            assert all(len(x.name) < 4 for x in onnx.load(file).graph.initializer)
        size = sum(path.stat().st_size for path in folder.glob("*_tower.*"))
        assert row["MB"] == pytest.approx(size / 1e6)
        assert json.loads((folder / "lit.json").read_text())["weights"] == "int8"
    assert rows[3]["text_cosine"] == pytest.approx(1.0, abs=1e-6) and "image_cosine" not in rows[3]
    similar = images @ text.T  # No two captions are equal.
    right = similar.diagonal()[:, None] <= similar
    assert rows[0]["image_to_text_recall@5"] == pytest.approx(np.mean(right.sum(axis=1) <= 5))
    assert all(row[f"text_ms@{n}"] > 0 for row in rows for n in (1, 32))


def test_zeros_that_are_the_default_are_not_kept_in_int8(tmp_path):
    """Where onnxruntime does without: of biases in int32, not of kernels in int8."""
    helper, of = onnx.helper, onnx.numpy_helper.from_array
    kernel, bias = np.arange(-6, 6).reshape(3, 4), np.array([1000, -7, 5, 3])
    scales = np.array([0.5, 0.25, 1, 2], "float32")
    tensors = [of(kernel.astype("int8"), "a kernel"), of(bias.astype("int32"), "a bias")]
    tensors += [of(scales, "scales"), of(np.zeros(4, "int8"), "8"), of(np.zeros(4, "int32"), "32")]
    nodes = [
        helper.make_node("DequantizeLinear", ["a kernel", "scales", "8"], ["b"], "one", axis=1),
        helper.make_node("DequantizeLinear", ["a bias", "scales", "32"], ["c"], "two", axis=0),
        helper.make_node("MatMul", ["x", "b"], ["xb"], "three"),
        helper.make_node("Add", ["xb", "c"], ["embedding"], "four"),
    ]
    infos = [
        helper.make_tensor_value_info(x, 1, [None, n]) for x, n in (("x", 3), ("embedding", 4))
    ]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    path = tmp_path / "a.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    quantizing._slim(path)
    slim = onnx.load(path).graph
    assert [len(node.input) for node in slim.node] == [3, 2, 2, 2] and len(slim.initializer) == 4
    assert not any(node.name for node in slim.node)
    x = np.array([[1, 2, 3], [-4, 0, 7]], "float32")
    found = edge_towers.load(path, "onnx")(x)
    np.testing.assert_array_equal(found, x @ (kernel * scales) + bias * scales)


def test_equal_vectors_of_litert_stand_once_and_inner_tensors_have_no_names(tmp_path):
    """A file reads as before, two of whose tensors have a thousand zero points of 8 bytes each."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, graph.tensors, graph.operators = 3, [graph], [], []
    graph.inputs, graph.outputs = [0], [1]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.arange(100, dtype="uint8")
    points = [np.zeros(1000, "int64"), np.zeros(1000, "int64"), np.arange(1000)]
    for name, zeros in zip(("a", "b", "c"), points, strict=True):
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = name, 1
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.zeroPoint = zeros
        graph.tensors.append(tensor)
    path = tmp_path / "a.tflite"
    flatbuffer_utils.write_model(model, path)
    before = path.stat().st_size
    quantizing.slim_litert(path)
    assert before - 8100 < path.stat().st_size < before - 7900
    found = flatbuffer_utils.read_model(path)
    assert found.buffers[1].data.tolist() == [*range(100)]
    assert path.read_bytes().index(bytes(range(100))) % 16 == 0
    for tensor, zeros in zip(found.subgraphs[0].tensors, points, strict=True):
        np.testing.assert_array_equal(tensor.quantization.zeroPoint, zeros)
    assert [tensor.name for tensor in found.subgraphs[0].tensors] == [b"a", b"b", None]


def test_what_int8_and_compare_refuse(model, tmp_path):
    pictures = np.zeros([2, 9, 9, 3], "uint8")
    for options in (
        {"weights": "int8"},
        {"calibration": pictures},
        {"weights": "int8", "towers": "text", "calibration": pictures},
    ):
        with pytest.raises(ValueError, match="`calibration`, pictures, is for"):
            keras_lit.export.save(model, tmp_path, format="onnx", **options)
    with pytest.raises(ValueError, match="should hold versions"):
        keras_lit.export.compare(model, tmp_path, make_pairs(4).batch(2))

"""The page of `examples/edge/browser`, in headless Chromium: what Python says, and nothing else.

onnxruntime-web comes by `npm pack`, once; the reason of a skip says what is missing.
"""

import base64
import importlib
import io
import json
import pathlib
import shutil
import sys
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from test_edge import bert_tower, odd_strings

import keras_lit
from keras_lit.export import edge
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from tests import browser, small
from tests.small import make_model

SENTENCES = ["a red dog", "The moon!", "a yellow balloon and a grey one"]
EDGE = pathlib.Path(__file__).parent.parent.parent / "examples" / "edge"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def serve():
    sys.path.insert(0, str(EDGE))
    yield importlib.import_module("serve_page")
    sys.path.remove(str(EDGE))


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    tower = bert_tower()
    rng = np.random.default_rng(0)
    tower.set_weights([rng.normal(0, 0.5, x.shape) for x in tower.get_weights()])
    model = keras_lit.LiT(make_model().image_tower, tower, "LU")  # Takes texts of any length.
    folder = tmp_path_factory.mktemp("browser")
    path = keras_lit.export.save(model, folder, format="onnx", class_names=["dog", "moon"])
    return types.SimpleNamespace(model=model, path=path)


@pytest.fixture(scope="module")
def address(serve, version):
    if not shutil.which("npm"):
        pytest.skip("there is no npm, which fetches onnxruntime-web")
    serving = serve.server(serve.files_of(version.path), 0)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}/"
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture(scope="module")
def tab(address):
    with browser.blank() as tab:
        tab.on("console", lambda x: tab.errors.append(x.text) if x.type == "error" else None)
        tab.goto(address)
        tab.wait_for_selector("#loading", state="hidden")
        yield tab
    assert not tab.errors
    assert not [x for x in tab.asked if not x.startswith((address, "data:", "blob:"))]


def picture(folder, name, size=(61, 43), **options):
    """A file of noise, smooth as photographs are."""
    noise = np.random.default_rng(0).integers(0, 256, [7, 5, 3]).astype("uint8")
    path = folder / name
    Image.fromarray(noise).resize(size, Image.BICUBIC).save(path, **options)
    return path


def shown(tab):
    """{sentence: probability}, once there are as many bars as sentences."""
    tab.wait_for_selector("#bars li")
    script = "rows => rows.map(x => [x.querySelector('.name').textContent, Number(x.dataset.probability)])"
    return dict(tab.locator("#bars li").evaluate_all(script))


def test_the_probabilities_are_pythons(tab, version, tmp_path):
    assert tab.get_by_label("Sentences").input_value() == "dog\nmoon"
    for name in ("a.png", "b.jpg"):
        path = picture(tmp_path, name)
        tab.locator("#file").set_input_files(path)
        tab.get_by_label("Sentences").fill("\n".join([*SENTENCES, SENTENCES[0], " "]))
        tab.wait_for_selector(f"#bars li:nth-child({len(SENTENCES)})")
        found = shown(tab)
        pixels = np.asarray(Image.open(path))[None]  # TensorFlow decodes JPEG otherwise.
        cosines = version.model.encode_image(pixels) @ version.model.encode_text(SENTENCES).T
        scores = np.exp(float(version.model.temperature) * cosines[0])
        expected = dict(zip(SENTENCES, scores / scores.sum(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)
        assert tab.locator("#best").inner_text() == max(expected, key=expected.get)
    assert max(expected.values()) - min(expected.values()) > 0.01


def test_what_is_refused_is_said(tab, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG, but not really")
    tab.locator("#file").set_input_files(tmp_path / "bad.png")
    tab.wait_for_selector("#picture-error >> text=does not decode as a picture")
    assert tab.locator("#bars li").count() == 0
    tab.locator("#file").set_input_files(picture(tmp_path, "good.png"))
    tab.wait_for_selector("#bars li")
    assert not tab.locator("#picture-error").is_visible()
    field = tab.get_by_label("Sentences")
    field.fill(" \n")
    tab.wait_for_selector("text=Give a sentence")
    field.fill("\n".join(map(str, range(51))))
    tab.wait_for_selector("text=There are 51.")
    odd = "<b>{{x}} ${y}"
    field.fill(f"{odd}\na dog")
    tab.wait_for_selector("#bars li")
    assert odd in shown(tab)  # Text, not HTML.
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize(("options", "levels"), small.LEVELS_OF_PIXELS)
def test_the_same_pixels(options, levels, tab, tmp_path):
    """As the reference, which test_edge.py compares with TensorFlow; JPEGs too."""
    reference = importlib.import_module("reference")
    preprocessor = ImagePreprocessor((20, 24), value_range="0..255", **options)
    settings = {**edge._of_images(preprocessor), "shape": [20, 24, 3]}
    turned = Image.Exif()
    turned[0x112] = 6
    script = """async ([settings, content]) => {
      const { pixelsOf } = await import('./pictures.js');
      const file = new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]);
      return Array.from(await pixelsOf(file, settings));
    }"""
    for size in ((61, 43), (13, 17), (9, 700)):
        for name, more in (("a.png", {}), ("b.jpg", {"exif": turned})):
            path = picture(tmp_path, name, size, **more)
            content = base64.b64encode(path.read_bytes()).decode()
            found = np.reshape(tab.evaluate(script, [settings, content]), [20, 24, 3])
            expected = reference.pixels_of(path, settings).astype(int)
            assert np.abs(found - expected).max() <= levels, (name, size)
    clear = Image.fromarray(np.arange(4 * 63).astype("uint8").reshape(7, 9, 4), "RGBA")
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    found = np.reshape(tab.evaluate(script, [settings, content]), [20, 24, 3])
    expected = reference.pixels_of(io.BytesIO(buffer.getvalue()), settings).astype(int)
    assert np.abs(found - expected).max() <= levels + 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wordpiece", {"lowercase": True}),
        ("wordpiece", {"lowercase": False}),
        ("sentencepiece", {"lowercase": True, "model_type": "bpe"}),
        (
            "sentencepiece",
            {"lowercase": False, "hard_vocab_limit": False, "character_coverage": 0.98},
        ),
    ],
)
def test_the_tokenizer_on_a_thousand_odd_strings(kind, options, tab, tmp_path):
    reference = importlib.import_module("reference")
    texts = odd_strings(1000)
    tokenizer = getattr(keras_lit.tokenizers, f"train_{kind}")(texts[:200], 900, **options)
    preprocessor = TextPreprocessor(tokenizer, 12, lowercase=not options["lowercase"])
    tower = types.SimpleNamespace(preprocessor=preprocessor, vocabulary_size=900)
    settings = json.loads(json.dumps(edge._of_text(tower, tmp_path)))
    vocabulary = (tmp_path / settings["tokenizer"]["file"]).read_bytes()
    script = """async ([settings, vocabulary, texts]) => {
      const { tokenIdsOf } = await import('./sentences.js');
      const ids = tokenIdsOf(settings, Uint8Array.from(atob(vocabulary), (c) => c.charCodeAt(0)));
      return texts.map((text) => Array.from(ids(text)));
    }"""
    found = tab.evaluate(script, [settings, base64.b64encode(vocabulary).decode(), texts])
    token_ids = reference.token_ids_of(settings, tmp_path)
    expected = [token_ids(text).tolist() for text in texts]
    wrong = [ascii(texts[i]) for i in range(1000) if found[i] != expected[i]]
    assert not wrong, wrong[:5]
    assert len({i for row in expected for i in row}) > 300


def test_a_damaged_version_is_said(tab, address, version):
    """Of a second load; the console says so too, and is not looked at."""
    script = "async () => { const { open } = await import('./towers.js'); await open(new URL('/version/', location)); }"
    path = version.path / "text_tower.onnx"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Exception, match="text_tower.onnx is missing or damaged"):
            tab.evaluate(script)
    finally:
        path.write_bytes(whole)


def test_only_its_files_are_served(serve, address, version):
    def status(path, host=None):
        request = urllib.request.Request(address + path, headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == status("version/lit.json") == status("ort/ort.wasm.min.mjs") == 200
    for path in (
        "../serve_page.py",
        "version/",
        "version/../../model.keras",
        "ort/../package.json",
        "../",
    ):
        assert status(path) == 404, path
    assert status("version/%2e%2e/%2e%2e/etc/passwd") == status("//etc/passwd") == 404
    assert status("version/lit.json", "evil.example:80") == 404
    with pytest.raises(SystemExit, match="should hold a version"):
        serve.files_of(version.path.parent)


def test_the_command(serve, address, version, monkeypatch, capsys):
    """`address`, for what npm fetches; its port is taken."""

    def stopped(serving):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.http.server.ThreadingHTTPServer, "serve_forever", stopped)
    monkeypatch.setattr(sys, "argv", ["serve_page.py", str(version.path), "--port", "0"])
    serve.main()
    assert "The page is at http://127.0.0.1:" in capsys.readouterr().out
    port = address.strip("/").rpartition(":")[2]
    monkeypatch.setattr(sys, "argv", ["serve_page.py", str(version.path), "--port", port])
    with pytest.raises(SystemExit, match="pass another --port"):
        serve.main()


def test_without_npm_and_of_one_tower(serve, version, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="`npm`, which fetches onnxruntime-web, is not installed"):
        serve.runtime(tmp_path)
    assert not list(tmp_path.iterdir())
    alone = shutil.copytree(version.path, tmp_path / "alone")
    settings = json.loads((alone / "lit.json").read_text())
    del settings["text"]
    (alone / "lit.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="holds no text tower"):
        serve.files_of(alone)

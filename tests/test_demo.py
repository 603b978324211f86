"""The web page of `examples/demo.py`: its parts, and all of it in a headless browser."""

import importlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import types
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
import pytest

from keras_lit.search import Index
from tests import browser
from tests.small import make_model

gradio = pytest.importorskip("gradio")
COUNT = 60
ODD = "<b>{{x}} ${y}"  # a name of a file that is HTML and a template


@pytest.fixture(scope="module")
def modules():
    """The modules of `examples/search_page`, as `examples/demo.py` imports them."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
    names = ("collection", "handlers", "labels", "layout", "sentences", "server")
    yield types.SimpleNamespace(**{x: importlib.import_module(f"search_page.{x}") for x in names})
    sys.path.pop(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of one colour each, one with an odd name, one that does not decode, and a secret."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = np.random.default_rng(0).integers(0, 256, [COUNT, 3]).astype("uint8")
    for i, colour in enumerate(colours):
        name = ODD if i == 0 else f"picture {i}"
        PIL.Image.fromarray(np.tile(colour, [30, 10, 1])).save(folder / f"{name}.png")
    (folder / "bad.png").write_bytes(b"bad")
    (folder / "secret.txt").write_bytes(b"t0psecret")
    return folder


@pytest.fixture(scope="module")
def collection(modules, folder):
    """All indexed, by a tiny model."""
    collection = modules.collection.Collection(make_model(), folder, folder / ".index")
    collection.update()
    assert collection.finished and not collection.error
    return collection


# Parts.


def test_labels_are_lines_and_those_that_are_there_twice_count_once(modules):
    of_lines = modules.labels.of_lines
    assert of_lines("a dog\n  A  Dog \r\n\na, b\nNone of these\na dog") == (["a dog", "a, b"], 2)
    assert of_lines(None) == ([], 0)


def test_percents_add_up(modules):
    percent = modules.labels.percent
    assert percent([1 / 3, 1 / 3, 1 / 3]) == [34, 33, 33]
    assert percent([0.999, 0.0006, 0.0004]) == [100, 0, 0]
    assert percent([0.556, 0.444]) == [56, 44]


def test_none_of_these_is_a_class_of_its_own(modules):
    """Softmax by hand: the label and the things that are known have a cosine of 0.5 and 0.25."""
    model = types.SimpleNamespace(temperature=4.0, loss_name="softmax", bias=None)
    of = types.SimpleNamespace(model=model)
    of.encode = lambda texts: np.tile([0.5 if texts == ["a"] else 0.25, 0], [len(texts), 1])
    classifier = modules.labels.Classifier(of)
    picture = np.array([1.0, 0.0])
    answer = classifier(picture, ["a"], picture[None])
    expected = np.exp(2) / (np.exp(2) + np.exp(1))
    assert [label for label, _ in answer.probabilities] == ["a", modules.labels.NONE]
    np.testing.assert_allclose([p for _, p in answer.probabilities], [expected, 1 - expected])
    assert answer.accepted == "a"
    assert classifier(picture, ["a"], 3 * picture[None]).accepted is None
    strict = modules.labels.Calibration(4.0, none_logit=1.0, threshold=0.9)
    answer = modules.labels.Classifier(of, strict)(picture, ["a"], picture[None])
    np.testing.assert_allclose(answer.probabilities[0][1], expected)
    assert answer.accepted is None
    model.loss_name, model.bias = "sigmoid", -1.0
    answer = modules.labels.Classifier(of)(picture, ["a"], picture[None])
    np.testing.assert_allclose(answer.probabilities[0][1], 1 / (1 + np.exp(-(4 * 0.5 - 1))))


def test_words_tell_how_far_a_score_stands_out(modules):
    words = modules.collection.words
    cosines = np.tile([-0.1, 0.1], 50)  # mean 0, deviation 0.1
    found = [words(x, cosines, False) for x in (0.51, 0.41, 0.31, 0.29, 0.99)]
    expected = ["strong match", "good match", "possible match", "weak match", "strong match"]
    assert found == expected
    assert words(0.99, cosines, True) == "the same picture"
    assert words(0.51, cosines[:49], False) == ""


def test_a_language_is_known_where_sentences_mean_the_same(modules):
    texts = {k: v.split("|") for k, v in modules.sentences.SENTENCES.items()}
    assert {len(x) for x in texts.values()} == {6}

    def encode(of):
        """German is English, French all the same, others nothing."""
        places = {x: i for k in ("en", "de") for i, x in enumerate(texts[k])}
        return np.stack([np.eye(7)[6 if x in texts["fr"] else places.get(x, 6)] for x in of])

    found = modules.sentences.understood(types.SimpleNamespace(encode=encode))
    assert [language for language, _ in found] == ["en"] * 4 + ["de"]


def test_a_picture_is_shown_upright_over_white_and_without_what_the_camera_wrote(modules, tmp_path):
    image = PIL.Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112], exif[0x010E] = 6, "secret"  # Turn it; a description.
    image.save(tmp_path / "a.png", exif=exif)
    content = modules.collection.as_jpeg((tmp_path / "a.png").read_bytes(), 10)
    shown = PIL.Image.open(io.BytesIO(content))
    assert shown.size == (5, 10) and b"secret" not in content
    assert np.asarray(shown).min() > 250


def test_a_picture_of_16_bits_keeps_its_greys(modules, tmp_path):
    grey = np.full([8, 8], 129 * 257, "uint16")
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    shown = np.asarray(PIL.Image.open(io.BytesIO(modules.collection.as_jpeg(content, 8))))
    assert np.abs(shown.astype(int) - 129).max() <= 1


def test_a_picture_that_was_replaced_is_shown_anew(modules, tmp_path):
    collection = object.__new__(modules.collection.Collection)
    path = tmp_path / "a.png"
    collection._paths = {3: path}
    found = []
    for i, colour in enumerate(("red", "red", "blue")):
        if i != 1:
            PIL.Image.new("RGB", (8, 8), colour).save(path)
            os.utime(path, ns=(i, i))
        found.append(collection.jpeg(3, 8))
    assert found[0] is found[1] != found[2]
    path.unlink()
    for number in (3, 4):
        with pytest.raises(OSError):
            collection.jpeg(number, 8)


def test_odd_arguments_are_refused_in_a_sentence(modules, tmp_path):
    for folder, message in [(tmp_path / "typo", "a folder"), (tmp_path, "hold pictures")]:
        with pytest.raises(ValueError, match=f"--pictures should .*{message}.*{tmp_path}"):
            modules.collection.Collection(None, folder, tmp_path / "index")


def test_odd_questions_are_answered_beside_their_field(modules, collection, folder):
    classifier = modules.labels.Classifier(collection)
    handlers = modules.handlers.Handlers(collection, classifier)
    for sentence in ("", " \n", None, "x" * 2001):
        found = handlers.search(sentence, None)
        assert 'role="alert"' in found[2] and found[3] == "" and "value" not in found[0]
    for sentence in (
        "😀",
        "\0",
        "a" * 2000,
        "<script>alert(1)</script>",
        "{{x}}${y}",
        "؟",
        "\u202e",
    ):
        grid = handlers.search(sentence, None)[0]
        assert grid.count('class="card"') == 24 and "<script" not in grid and "{{" not in grid
        assert "${" not in grid
    found = handlers.search("\ud800", None)
    assert "should be Unicode" in found[2]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    found = handlers.search("a dog", svg)
    assert found[2] == "" and "SVG" in found[3]
    found = handlers.classify(svg, "a dog")
    assert "is not a readable picture. " in found[1] and "SVG" in found[1]
    good = (folder / "picture 1.png").read_bytes()
    assert handlers.search("", good)[0].count("the same picture") >= 1
    assert "Give a picture" in handlers.classify(None, "")[1]
    for labels, message in [
        (" \n", "one a line"),
        ("\n".join(map(str, range(101))), "at most 100"),
        ("x" * 2001, "2000"),
        ("a dog\n\ud800", "should be Unicode"),
    ]:
        bars, of_picture, of_labels = handlers.classify(good, labels)
        assert message in of_labels and not of_picture and bars == ""
    for value in ({"value": "x"}, {"value": None}, {"value": 10**9}, {"value": [1]}, {}):
        event = gradio.EventData(None, value)
        assert "not there any more" in handlers.more(event)[2]
        assert handlers.pick_picture(event) is None


def test_what_is_left_out_and_what_goes_wrong_is_said(modules, folder, tmp_path, monkeypatch):
    status = modules.handlers.status
    of = types.SimpleNamespace(total=1234, finished=False, error="")
    assert "Indexing: 3 of 1,234 pictures. These can" in status(of, 2, {"bad.png": "it is <bad>"})
    assert "Indexing: 0 of 1,234 pictures. A search waits" in status(of, 0, {})
    assert "1,234 of 1,234 pictures. Looking for what has changed" in status(of, 1234, {})
    of.finished = True
    assert "1 file left out" in status(of, 2, {"bad.png": "it is <bad>"})
    assert "it is &lt;bad&gt;" in status(of, 2, {"bad.png": "it is <bad>"})
    empty = tmp_path / "pictures"
    shutil.copytree(folder, empty, ignore=shutil.ignore_patterns(".index"))
    collection = modules.collection.Collection(make_model(), empty, tmp_path / "index")
    handlers = modules.handlers.Handlers(collection, None)
    monkeypatch.setattr(modules.collection, "PATIENCE", 0)
    assert "No picture is indexed yet" in handlers.search("a dog", None)[2]
    shutil.rmtree(empty)
    collection.update()
    assert "could not be indexed: There is no folder" in handlers.progress(None)[0]
    (empty / ".index").mkdir(parents=True)
    collection.index = lambda: Index(empty / ".index")
    assert "The index cannot be read" in handlers.search("a dog", None)[2]
    assert "The index cannot be read" in handlers.progress(None)[0]


def test_a_search_waits_for_the_first_pictures(modules, collection, monkeypatch):
    samples = [None, None, collection.sample()]
    monkeypatch.setattr(collection, "finished", False)
    monkeypatch.setattr(collection, "sample", lambda: samples.pop(0) if samples[1:] else samples[0])
    vector = np.ones(collection.model.image_tower.embedding_dim, "float32")
    assert len(collection.search(vector, False, 5)) == 5


# The whole page.


@pytest.fixture(scope="module")
def served(modules, collection):
    classifier = modules.labels.Classifier(collection)
    blocks, url = modules.server.serve(collection, classifier, "Our pictures", "All of them.")
    yield url
    blocks.close()


def test_the_command_starts_the_page(modules, folder, tmp_path, monkeypatch, capsys):
    demo = importlib.import_module("demo")
    make_model().save(tmp_path / "model.keras")
    calibration = modules.labels.Calibration(2.0, none_logit=1.0, threshold=0.5)
    (tmp_path / "calibration.json").write_text(json.dumps(calibration.to_dict()))
    paths = {"model": tmp_path / "model.keras", "pictures": folder, "index": folder / ".index"}
    command = ["demo.py", *(str(x) for k, v in paths.items() for x in (f"--{k}", v))]
    command += ["--calibration", str(tmp_path / "calibration.json")]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(demo.Collection, "start", lambda collection: None)
    asked = {}

    def serve(collection, classifier, title, about, host, port):
        asked.update(classifier=classifier, host=host, port=port)
        return types.SimpleNamespace(block_thread=lambda: None), "http://127.0.0.1:1/"

    monkeypatch.setattr(demo, "serve", serve)
    demo.main()
    assert "The page is at http://127.0.0.1:1/" in capsys.readouterr().out
    assert asked.pop("classifier").calibration == calibration
    assert asked == {"host": "127.0.0.1", "port": None}
    monkeypatch.setattr(sys, "argv", [*command, "--pictures", str(tmp_path / "typo")])
    with pytest.raises(SystemExit, match="Error: --pictures should be a folder"):
        demo.main()


def status_of(url, method="GET", headers=None, body=None):
    """The status of an answer and its bytes."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_no_other_file_is_served(served, folder, collection):
    """Nor what is on other computers, nor to a page that another site's name leads to."""
    collection.sample()
    status, content = status_of(f"{served}picture/1?size=400")
    assert status == 200 and content.startswith(b"\xff\xd8\xff")
    secret, index = folder / "secret.txt", folder / ".index" / "index.sqlite"
    assert status_of(f"{served}monitoring")[0] == 403
    for path in (
        f"gradio_api/file={secret}",
        f"gradio_api/file={index}",
        f"gradio_api/file={folder / 'picture 1.png'}".replace(" ", "%20"),
        "gradio_api/file=/etc/passwd",
        "gradio_api/file/etc/passwd",
        "file=/etc/passwd",
        "gradio_api/file=../../../../etc/passwd",
        "gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "gradio_api/file=http://example.com/",
        "gradio_api/file=file:///etc/passwd",
        "gradio_api/proxy=http://example.com/",
        "picture/../secret.txt",
        "picture/%2e%2e/secret.txt",
        "picture/999",
        "picture/1/../../etc/passwd",
        "static/../../../../etc/passwd",
        "assets/%2e%2e/%2e%2e/etc/passwd",
        "theme.css/../../etc/passwd",
    ):
        status, content = status_of(served + path)
        assert status in (400, 403, 404, 405, 500), path
        assert (
            b"t0psecret" not in content and b"SQLite" not in content and b"root:" not in content
        ), path
    assert status_of(served, headers={"Host": "evil.example:80"})[0] == 400


@pytest.fixture(scope="module")
def tab(served):
    """One load of the page in Chromium, and what it asked for."""
    with browser.blank(color_scheme="dark") as tab:
        tab.goto(served)
        tab.wait_for_selector(".chip")
        yield tab
    assert not tab.errors


SENTENCE = "What should the pictures show?"


def cards_of(tab, heading):
    """The answer whose heading has a word."""
    tab.wait_for_selector(f":is(.results, .welcome) h2:has-text('{heading}')")
    return tab.locator(".card:visible")


def test_some_pictures_are_there_to_begin_with(tab):
    cards = cards_of(tab, "Some of the pictures")
    assert cards.count() == 24 and cards.locator(".score").count() == 0
    cards.locator(".open").nth(1).click()
    assert tab.locator("dialog[open] .score").inner_text() == ""
    name = tab.locator("dialog[open] .name").inner_text()
    tab.locator("dialog[open] .more").click()
    cards_of(tab, "Nearest to")
    names = tab.locator(".card .name:visible")
    assert names.first.get_attribute("title") == name
    assert names.count() == 24  # Those to begin with have gone.


def test_enter_searches_and_more_can_be_seen(tab):
    tab.get_by_label(SENTENCE).press("Enter")
    tab.wait_for_selector("text=Type what the pictures should show")
    tab.get_by_label(SENTENCE).fill("a red dog")
    tab.keyboard.press("Enter")
    cards = cards_of(tab, "a red dog")
    assert cards.count() == 24
    tab.wait_for_selector("text=Type what the pictures should show", state="detached")
    tab.locator(".further").click()
    tab.wait_for_function("document.querySelectorAll('.results .card').length == 48")
    tab.locator(".further").click()
    tab.wait_for_function(f"document.querySelectorAll('.results .card').length == {COUNT}")
    assert tab.get_by_text(ODD, exact=True).count() == 1  # Text, neither HTML nor a template.


def test_a_click_enlarges_and_finds_more_like_it(tab):
    tab.locator(".chip").first.click()
    cards = cards_of(tab, "a bird in the sky")
    names = [x.get_attribute("title") for x in cards.locator(".name").all()[:2]]
    cards.locator(".open").first.click()
    large = tab.locator(".results dialog img")
    tab.wait_for_function("document.querySelector('.results dialog img').naturalWidth > 0")
    assert large.evaluate("x => [x.naturalWidth, x.naturalHeight]") == [10, 30]  # Uncropped.
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".results dialog .name").inner_text() == names[1]
    tab.keyboard.press("Escape")
    assert not large.is_visible()
    cards.locator(".open").nth(1).click()
    tab.locator(".results dialog .more").click()
    tab.wait_for_selector(".results h2 img")
    first = tab.locator(".results .card").first
    assert first.locator(".name").get_attribute("title") == names[1]
    assert first.locator(".score").inner_text() == "the same picture"
    tab.wait_for_function("!document.querySelector('input, textarea').value")


def test_a_phone_in_the_dark_needs_no_scrolling_sideways(tab):
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    lefts = {round(x.bounding_box()["x"]) for x in tab.locator(".results .card").all()[:6]}
    assert len(lefts) == 2
    assert tab.evaluate("document.body.classList.contains('dark')")


def test_a_picture_of_ones_own_is_searched_with_and_a_bad_file_is_said(tab, folder):
    tab.get_by_role("button", name="Search with a picture of your own").click()
    field = tab.locator("input[type=file] >> nth=0")
    field.set_input_files(folder / "bad.png")
    tab.wait_for_selector(".error >> text=is not a readable picture. An image should be JPEG")
    assert not tab.locator(".given img").first.is_visible()
    tab.get_by_label("Remove Image").first.click()
    tab.locator("input[type=file] >> nth=0").set_input_files(folder / "picture 7.png")
    cards = cards_of(tab, "your picture")
    assert cards.locator(".name").first.get_attribute("title") == "picture 7.png"
    tab.wait_for_selector(".error >> text=An image should be JPEG", state="detached")


def test_labels_have_bars_that_add_up(tab):
    tab.get_by_role("tab", name="Classify").click()
    tab.get_by_role("button", name="Classify").click()
    tab.wait_for_selector("text=Give a picture.")
    tab.get_by_label("Labels, one a line").fill("a red dog\nthe moon\nA red dog")
    tab.locator(".thumbnail").nth(2).click()
    tab.wait_for_selector(".bars li")
    texts = [x.inner_text() for x in tab.locator(".bars li").all()]
    assert sum(int(re.search(r"(\d+) %", x)[1]) for x in texts) == 100
    assert len(texts) == 3 and any("None of these" in x for x in texts)
    tab.wait_for_selector("text=1 line repeats a label and was left out")
    tab.wait_for_selector("text=Give a picture.", state="detached")


@pytest.mark.slow
def test_nothing_is_loaded_from_outside(tab, served):
    tab.goto(served)
    with tab.expect_request("**/picture/**"):
        tab.locator(".chip").first.click()
    assert any("/picture/" in x for x in tab.asked)
    assert not [x for x in tab.asked if not x.startswith((served, "data:", "blob:"))]

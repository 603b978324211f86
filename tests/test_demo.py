"""The web page of `examples/demo.py`: its parts, and in a headless browser."""

import importlib.util
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests.small import make_model

gradio = pytest.importorskip("gradio")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def demo():
    file = pathlib.Path(__file__).parent.parent / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(image_bytes):
    """An artifact of `on_corrupt="nan"`, to which only b"good" is an image."""
    valid = image_bytes == b"good"
    return {"embedding": tf.where(valid[:, None], tf.ones([1, 2]), np.nan), "valid": valid}


def strict(image_bytes):
    """One of `on_corrupt="fail"`."""
    if not encode(image_bytes)["valid"].numpy().all():
        raise tf.errors.InvalidArgumentError(None, None, "An image does not decode")
    return {"embedding": tf.ones([1, 2])}


@pytest.mark.parametrize("encode_image", [encode, strict])
def test_what_cannot_be_searched_is_left_out_by_name(encode_image, demo, tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    for name, content in {"a.png": b"good", "bad.png": b"x", "deep/B.JPG": b"good"}.items():
        (tmp_path / name).write_bytes(content)
    with open(bytes(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(b"good")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.png").write_bytes(b"half of macOS")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to("/nowhere")
    files, embeddings = demo.embed(encode_image, tmp_path)
    assert sorted(file.name for file in files) == ["B.JPG", "a.png"]
    np.testing.assert_array_equal(embeddings, np.ones([2, 2]))
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(" ")[0] for line in lines) == [
        f"{tmp_path}/{name}" for name in ("bad.png", "caf\ufffd.png", "gone.png")
    ]


def test_odd_questions_are_refused_in_a_sentence(demo, tmp_path):
    def classify(image_bytes, labels):
        answer = encode(image_bytes)
        assert labels.numpy().tolist() == [b"a dog", b"a cat"]
        return {"scores": tf.constant([[0.75, 0.25]]), "valid": answer["valid"]}

    for name in ("good", "bad"):
        (tmp_path / name).write_bytes(name.encode())
    good = str(tmp_path / "good")
    scores = demo.scores(classify, good, "a dog, a cat ,\na dog,")
    assert scores == {"a dog": 0.75, "a cat": 0.25}
    for picture, labels, message in [
        (None, "a dog, a cat", "Give a picture"),
        (good, " , ", "Give a picture, and labels"),
        (good, None, "Give a picture, and labels"),
        (good, "a dog, a dog", "two labels or more"),
        (str(tmp_path / "bad"), "a dog, a cat", "does not decode: give a whole JPEG, PNG"),
    ]:
        with pytest.raises(gradio.Error, match=message):
            demo.scores(classify, picture, labels)
    for sentence in ("", " \n", None):
        with pytest.raises(gradio.Error, match="Give a sentence"):
            demo.search(None, [good], np.ones([1, 2]), sentence)
    with pytest.raises(gradio.Error, match="--pictures FOLDER"):
        demo.search(None, [], np.ones([0]), "a dog")


def test_odd_arguments_are_refused_in_a_sentence(demo, tmp_path):
    module = tf.Module()
    module.encode = tf.function(lambda x: {"embedding": x}, [tf.TensorSpec([None], tf.string)])
    path = str(tmp_path / "models" / "7")
    tf.saved_model.save(module, path, signatures={"encode_image": module.encode})
    for artifact, pictures, message in [
        (path, tmp_path / "typo", "--pictures should be a folder. Received: '.*typo'"),
        (path, None, "/7' lacks encode_text, classify_labels: .*the text tower"),
        (str(tmp_path / "models"), None, "--artifact .*models', which holds the versions 7."),
        (str(tmp_path / "typo"), None, "--artifact .*typo'."),
    ]:
        with pytest.raises(ValueError, match=message):
            demo.page(artifact, pictures)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium")
def test_page(demo, tmp_path):
    from playwright import sync_api

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, [20, 20, 3]).astype("uint8")
        (pictures / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (pictures / "bad.png").write_bytes(b"bad")
    path = keras_lit.export.save(make_model(), tmp_path / "models")
    page = demo.page(str(path), pictures)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(pictures)])
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page()
            tab.goto(url)
            tab.locator("input[type=file]").first.set_input_files(pictures / "0.png")
            tab.wait_for_selector("img")
            tab.get_by_label("Labels", exact=True).fill("a red dog, the moon")
            tab.get_by_role("button", name="Score").click()
            tab.wait_for_selector("text=%")
            shown = [int(text[:-1]) for text in tab.locator("text=%").all_inner_texts()]
            assert len(shown) == 2 and 99 <= sum(shown) <= 101
            tab.get_by_label("Labels", exact=True).fill("a red dog, a red dog, a cat, the moon")
            tab.keyboard.press("Enter")
            tab.wait_for_function("document.body.innerText.match(/%/g)?.length == 3")
            tab.get_by_label("Remove Image").click()
            tab.locator("input[type=file]").first.set_input_files(pictures / "bad.png")
            tab.wait_for_timeout(500)
            tab.get_by_role("button", name="Score").click()
            tab.wait_for_selector("text=The picture does not decode")
            tab.get_by_role("tab", name="Pictures for a sentence").click()
            tab.get_by_role("button", name="Search").click()
            tab.wait_for_selector(".thumbnail-item img")
            assert tab.locator(".thumbnail-item img").count() == 3
            browser.close()
    finally:
        page.close()

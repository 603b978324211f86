"""The web page of `examples/demo.py` in a headless browser."""

import importlib.util
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests.small import make_model

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium")
def test_page(tmp_path):
    from playwright import sync_api

    file = pathlib.Path(__file__).parent.parent / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", file)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
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
            tab.get_by_role("tab", name="Pictures for a sentence").click()
            tab.get_by_role("button", name="Search").click()
            tab.wait_for_selector(".thumbnail-item img")
            assert tab.locator(".thumbnail-item img").count() == 3
            browser.close()
    finally:
        page.close()

"""A page in Debian's Chromium, with what it asked for and what went wrong in it."""

import contextlib
import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextlib.contextmanager
def blank(**options):
    """An empty page of a phone's width; `asked` are its requests, `errors` what its scripts threw."""
    if not CHROMIUM:
        pytest.skip("there is no chromium")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844}, **options)
        tab.asked, tab.errors = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        yield tab
        browser.close()

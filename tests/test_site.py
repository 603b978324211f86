"""The documentation's site: it builds without a warning, and every public name is in it."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests import api

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site: 10 s."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def reference(site):
    """The HTML of the API reference."""
    return "".join(page.read_text() for page in sorted(site.glob("api/*/index.html")))


@pytest.mark.slow
def test_every_public_name_has_an_entry(reference):
    names = {name for name, _ in api.public()}
    assert names > {"keras_lit.LiT.fit", "keras_lit.ImageTower.embedding_dim"}
    assert not {name for name in names if f'id="{name}"' not in reference}


@pytest.mark.slow
def test_no_page_shows_a_test_marker_or_an_unfilled_include(site):
    for page in site.rglob("index.html"):
        text = page.read_text()
        assert "doctest:" not in text and "--8&lt;--" not in text and "--8<--" not in text, page


@pytest.mark.slow
def test_reference_is_rendered(reference):
    """Signatures of classes and named tuples; prompts are code; returns stay in one piece."""
    signatures = re.findall(r'<div class="doc-signature[^"]*">(.*?)</div>', reference, re.DOTALL)
    shown = {re.sub("<.*?>|\\s", "", signature) for signature in signatures}
    for start in ("LiT(image_tower", "Head(kernel", "Result(dataset", "fit(x"):
        assert any(signature.startswith(start) for signature in shown), start
    prose = re.sub(r"<pre.*?</pre>", "", reference, flags=re.DOTALL)
    assert "&gt;&gt;&gt;" not in prose and "<p>_" not in prose
    assert "Raises (in" not in prose and ">Raises:<" in prose
    assert "Source code in" in prose and "Bases:" not in prose


def test_code_fits_beside_the_navigation():
    """At 1280 pixels 100 characters do (docs/assets/site.css); none of it scrolls sideways."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    long = {
        f"{page.name}: {line}"
        for page in pages
        for block in re.findall(r"```\w+\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if len(line) > 100
    }
    # The command of a person who copies it.
    assert not {line for line in long if "python3 -m venv" not in line}

"""The documentation's site: it builds without a warning, and every public name is in it."""

import inspect
import pathlib
import subprocess
import sys

import pytest

from tests import api

ROOT = pathlib.Path(__file__).parent.parent


def public_names():
    """Public classes and functions, without methods."""
    found = [name for name, value in api.public() if callable(value) and name.count(".")]
    classes = {name for name, value in api.public() if inspect.isclass(value)}
    return [name for name in found if name.rpartition(".")[0] not in classes]


@pytest.mark.slow
def test_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    pages = "".join(page.read_text() for page in (tmp_path / "api").rglob("index.html"))
    names = public_names()
    assert {"keras_lit.LiT", "keras_lit.data.filters.apply", "keras_lit.export.save"} < set(names)
    missing = [name for name in names if f'id="{name}"' not in pages]
    assert not missing
    # What the scaling page takes from the benchmarks.
    scaling = (tmp_path / "scaling" / "index.html").read_text()
    assert "--8&lt;--" not in scaling and "--8<--" not in scaling

"""The documentation's site: it builds without a warning, and every public name is in it."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import keras_lit

ROOT = pathlib.Path(__file__).parent.parent


def public_names(module=keras_lit):
    """Dotted names of what users type: `__all__`, or what a module defines itself."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public_names(value)
        elif inspect.isclass(value) or inspect.isfunction(value):
            yield f"{module.__name__}.{name}"


@pytest.mark.slow
def test_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    pages = "".join(page.read_text() for page in (tmp_path / "api").rglob("index.html"))
    # A function whose file has its name (t5_encoder) goes by both.
    missing = [
        name
        for name in public_names()
        if f'id="{name}"' not in pages and f'id="{name}.{name.split(".")[-1]}"' not in pages
    ]
    assert not missing
    # What the scaling page takes from the benchmarks.
    scaling = (tmp_path / "scaling" / "index.html").read_text()
    assert "--8&lt;--" not in scaling and "--8<--" not in scaling


def test_public_names_are_found():
    names = list(public_names())
    assert len(names) == len(set(names))
    wanted = ("LiT", "losses.softmax_contrastive_loss", "data.filters.apply", "export.save")
    assert {f"keras_lit.{name}" for name in wanted} <= set(names)

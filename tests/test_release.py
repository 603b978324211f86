"""What a release consists of: wheel and sdist hold all files, and the wheel alone is enough."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
import yaml

import keras_lit

ROOT = pathlib.Path(__file__).parent.parent
OF_PROJECT = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
FILES = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "keras_lit").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


def run(*command, cwd):
    """Its output; what went wrong is in the message."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    child = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert child.returncode == 0, (child.stdout + child.stderr)[-3000:]
    return child.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, of a copy: setuptools writes beside what it builds."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(
        ROOT / "keras_lit", clone / "keras_lit", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (*OF_PROJECT, "setup.cfg", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, clone)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=clone)
    return sorted((clone / "dist").iterdir())


@pytest.mark.slow
def test_wheel_and_sdist_hold_all_files(built):
    wheel, sdist = built
    version = f"keras_lit-{keras_lit.__version__}"
    assert (sdist.name, wheel.name) == (f"{version}.tar.gz", f"{version}-py3-none-any.whl")
    assert {"keras_lit/py.typed", "keras_lit/evaluation/data/templates.json"} < FILES
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in in_wheel if name.startswith("keras_lit/")} == FILES
    with tarfile.open(sdist) as file:
        in_sdist = {name.removeprefix(f"{version}/") for name in file.getnames()}
    assert FILES.union(OF_PROJECT) <= in_sdist


@pytest.fixture(scope="module")
def outside(built, tmp_path_factory):
    """(a folder without the package, the Python of an environment with the wheel).

    What the wheel depends on is this environment's, but for its own keras_lit, wherever that is: a
    folder that a .pth file names may not name others.
    """
    folder = tmp_path_factory.mktemp("outside")
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet", built[0])
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, cwd=folder)
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder, python


ALL_OF_IT = """
import os, sys, keras_lit
assert keras_lit.__file__.startswith(os.path.abspath("env")), keras_lit.__file__
for name in keras_lit.__all__:
    getattr(keras_lit, name)
from keras_lit import data, demo, evaluation
assert len(evaluation.prompts.templates("clip_80")) == 80
assert len(evaluation.prompts.class_names("imagenet2012")) == 1000
assert demo.OpenPictures and data.CC12M
"""


THE_DEMO = """
import runpy
sys.path.insert(0, os.getcwd())
sys.argv = ["demo.py", "--help"]
runpy.run_path("demo.py", run_name="__main__")
"""


@pytest.mark.slow
def test_the_wheel_alone_has_every_module_and_its_data_and_starts_the_demo(outside):
    """As README's code needs no more, and runs in test_house.py with the same files."""
    pytest.importorskip("gradio")
    folder, python = outside
    shutil.copy(ROOT / "examples" / "demo.py", folder)
    shutil.copytree(ROOT / "examples" / "search_page", folder / "search_page")
    assert "--pictures" in run(python, "-I", "-c", ALL_OF_IT + THE_DEMO, cwd=folder)


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == keras_lit.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.split("## ")[1].startswith(keras_lit.__version__)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_templates_are_forms(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"] and form["description"]
    assert all(part["id"] and part["attributes"]["label"] for part in form["body"])

"""The house's rules: style, direction of imports, examples that run, a README that works."""

import ast
import doctest
import functools
import graphlib
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys
import tempfile
import textwrap

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests import api
from tests import reader as documents
from tests.small import mirrored

ROOT = pathlib.Path(__file__).parent.parent
# Each file imports only from those above it.
ORDER = """
checks files internals distribution losses preprocessing data backbones towers training optimizers
recipes alignment model soups features evaluation search checkpoints callbacks export demo
""".split()


def test_ruff():
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_types():
    """mypy, as setup.cfg has it; TensorFlow's and Keras' types are not looked at."""
    result = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def sources(package=ROOT / "keras_lit"):
    """{"keras_lit.data.sources": its syntax tree}, of every module; a package is its `__init__`."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text())
    return found


def imports(trees):
    """{module: the modules of ours that it imports}, those inside functions and for types too.

    `from keras_lit.data import sources` imports a module, `from keras_lit.data import CC12M` what
    the package's `__init__` holds.
    """
    found = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative imports hide where a name comes from"
                inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {
                    full if full in trees else node.module
                    for short, full in inside.items()
                    if full != "keras_lit.__version__"  # Set before anything else is imported.
                }
    return {name: targets & set(trees) for name, targets in found.items()}


def test_imports_go_one_way():
    """From room to room; inside one, no circles, and no detour by its own `__init__`."""
    graph = imports(sources())
    height = {name: ORDER.index(name.split(".")[1]) for name in graph if name != "keras_lit"}
    assert set(height.values()) == set(range(len(ORDER)))
    height["keras_lit"] = len(ORDER)  # Its __init__ imports them all.
    upward = {
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if height[target] > height[name] or name.startswith(f"{target}.")
    }
    assert not upward
    graphlib.TopologicalSorter(graph).prepare()  # Raises CycleError, which names the circle.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from keras_lit.data import sources", {"keras_lit.data.sources"}),
        ("from keras_lit.data import CC12M", {"keras_lit.data"}),
        ("from keras_lit.data.sources import door", {"keras_lit.data.sources"}),
        ("def f():\n    import keras_lit.data.sources as s", {"keras_lit.data.sources"}),
        ("from keras_lit import data, __version__, other", {"keras_lit", "keras_lit.data"}),
        ("if TYPE_CHECKING:\n    from keras_lit import data", {"keras_lit.data"}),
        ("import keras, numpy as np", set()),
    ],
)
def test_an_import_is_found(source, expected):
    names = ("keras_lit", "keras_lit.data", "keras_lit.data.sources")
    trees = {name: ast.parse("") for name in names}
    assert imports({**trees, "keras_lit.model": ast.parse(source)})["keras_lit.model"] == expected


# Their examples need the network or files.
NEED_FILES = (
    "keras_lit.demo.pretrained",
    "keras_lit.demo.tux_paint",
    "keras_lit.demo.open_pictures",
    "keras_lit.data.builders",
    "keras_lit.demo.torch_file",
    "keras_lit.alignment.beam",
    "keras_lit.data.beam",
    "keras_lit.features.beam",
    "keras_lit.search.beam",
)


def modules():
    names = [name for _, name, _ in pkgutil.walk_packages(keras_lit.__path__, "keras_lit.")]
    return [name for name in names if name not in NEED_FILES]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    names = {
        **vars(module),
        "keras": keras,
        "keras_nlp": keras_nlp,
        "keras_lit": keras_lit,
        "np": np,
        "tf": tf,
        "tempfile": tempfile,
        "ImagePreprocessor": keras_lit.preprocessing.ImagePreprocessor,
    }
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, globs=names, extraglobs={}, optionflags=flags)
    assert result.failed == 0


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """What a reader has at hand, with a small local backbone for the preset of the hub."""
    import keras_cv

    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[4],
        stackwise_blocks=[2],
        stackwise_strides=[1],
        include_rescaling=True,
        input_shape=(32, 32, 3),
    )
    monkeypatch.setattr(keras_cv.models.ResNetV2Backbone, "from_preset", lambda preset: backbone)
    monkeypatch.setattr(
        keras_lit.ImageTower, "from_preset", lambda _: keras_lit.ImageTower(backbone)
    )
    small = dict.fromkeys(keras_lit.backbones.text_transformer.SIZES, (16, 1, 32, 2))
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", small)
    two = mirrored(2)  # Not all eight devices of the tests.
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: two)
    monkeypatch.setattr(keras_lit.demo, "efficientnet_lite0", documents.image_tower)
    monkeypatch.setattr(keras_lit.demo, "universal_sentence_encoder", documents.text_tower)
    few = functools.partial(documents.FewPictures, data_dir=tmp_path / "tfds")
    monkeypatch.setattr(keras_lit.demo, "OpenPictures", few)
    monkeypatch.chdir(tmp_path)
    documents.write_files(tmp_path)
    pairs = {"image": documents.images(), "text": documents.CAPTIONS}
    pairs = tf.data.Dataset.from_tensor_slices(pairs)
    names = {"captions": documents.CAPTIONS, "pairs": pairs}
    return {**names, "keras_lit": keras_lit, "keras": keras, "tf": tf}


def run_code(document, names):
    """Runs a document's Python, block after block; a hundred pictures stand in for a thousand."""
    text = document.read_text().replace("[:1000]", "[:100]")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)


@pytest.mark.slow
def test_readme_code_runs(reader):
    run_code(ROOT / "README.md", reader)
    assert reader["similarities"].shape == (1, 2) and reader["best"].shape == (1,)
    assert pathlib.Path("models/lit/1/saved_model.pb").exists()
    for name in ("from_folder", "from_table", "from_shards", "pairs"):
        assert sum(1 for _ in reader[name]) == 16, name


@pytest.mark.slow
def test_what_help_shows_runs(reader):
    code = re.findall(r"^    .*|^$", keras_lit.__doc__, re.MULTILINE)
    exec(textwrap.dedent("\n".join(code)), names := {})
    assert names["similarity"].shape == (1, 2) and pathlib.Path("model.keras").exists()


# Run by test_howto.py and evaluation/test_calibration.py.
ON_OWN_DATA = (
    *("howto_table.md", "howto_captions.md", "howto_class_folders.md", "howto_patches.md"),
    "calibration.md",
)
WITH_CODE = [
    path
    for path in sorted(ROOT.glob("docs/**/*.md"))
    if "```python" in path.read_text() and path.name not in ON_OWN_DATA
]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_CODE, ids=lambda p: p.name)
def test_code_of_documents_runs(path, reader):
    if "fit(" not in path.read_text():  # A page that begins with a model has one.
        towers = documents.image_tower(), documents.text_tower()
        keras_lit.LiT(*towers, tuning="LU").save("model.keras")
    run_code(path, reader)
    models = [value for value in reader.values() if isinstance(value, keras_lit.LiT)]
    losses = [model.history.history["loss"] for model in models if hasattr(model, "history")]
    assert np.isfinite(np.concatenate([[0.0], *losses])).all()
    assert losses or "fit(" not in path.read_text()


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda p: p.name
)
def test_documents_name_what_exists(path):
    for name in re.findall(r"keras_lit((?:\.\w+)+)", path.read_text()):
        pkgutil.resolve_name("keras_lit" + name)


PACKAGES = [name for name, module in api.modules() if hasattr(module, "__path__")]


@pytest.mark.parametrize("name", PACKAGES)
def test_tab_shows_what_a_user_types(name):
    package = importlib.import_module(name)
    assert set(dir(package)) == set(package.__all__)


def test_every_public_name_is_used():
    """In an example, a notebook, README or a page written by hand: else nobody learns of it."""
    patterns = ("README.md", "docs/*.md", "examples/**/*.py", "examples/**/*.ipynb")
    texts = [path.read_text() for pattern in patterns for path in ROOT.glob(pattern)]
    words = set(re.findall(r"\w+", " ".join(texts)))
    unused = [name for name, _ in api.public() if name.split(".")[-1] not in words]
    assert not unused, "use it where a reader sees it, or make it private"


@pytest.mark.slow
def test_import_takes_in_no_more_than_keras_nlp():
    """TensorFlow Datasets, SciPy, PIL and the like wait until they are used."""
    code = """
import sys, keras_nlp
before = set(sys.modules)
import keras_lit
names = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(names - {"keras_lit"} - set(sys.stdlib_module_names)))
"""
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "[]"


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="backend is 'jax'.*KERAS_BACKEND=tensorflow"):
        importlib.reload(keras_lit)


def test_keras_2_is_refused(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "2.15.0")
    with pytest.raises(ImportError, match="needs Keras 3.*pip install --upgrade keras"):
        importlib.reload(keras_lit)

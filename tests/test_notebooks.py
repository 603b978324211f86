"""The notebooks: each runs from top to bottom, and none carries anyone's pictures."""

import ast
import pathlib
import shutil

import matplotlib
import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from keras_lit import demo
from keras_lit.backbones import text_transformer
from keras_lit.preprocessing import tokenizers
from tests import reader as documents
from tests.checkpoints.files import GOLDEN, arrays_of

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))

# What must hold after the last cell.
HOLDS = {
    # Ten of 120 by chance.
    "quickstart": "history['retrieval_text_to_image_recall@10'][-1] > 0.3 and len(found) == 5",
    "own_data": "{pathlib.Path(name).name for name in skipped} == {'7.png'} and len(result.sheet) == 5",
    # The largest of the six classes is a third of the pictures.
    "class_folders": "result.metrics['accuracy@1'] > 0.4 and sets.any(axis=1).mean() > 0.5",
    # Ten of 60 by chance.
    "features": "result.metrics['text_to_image_recall@10'] > 0.3",
    "released": "shares.shape == (6, 6) and keras_lit.checkpoints.load_lit('tuned.npz')",
    "search": "changes[2:5] == (1, 1, 0) and len(index) == 23 and [x.decode() for x in found['names'][0].numpy()] == [x.name for x in same]",
    "serving": "_ < 1e-4 and path.joinpath('saved_model.pb').exists() and len(found['scores'][0]) == 4",
}

# It runs in a kernel of its own; the others in this process, which has TensorFlow already.
KERNEL = "quickstart"

# Fewer pictures and steps, as few as show what `HOLDS`.
FEW = {"penalties=[3.0]": "penalties=[3.0], folds=2"}
SHORTER = {
    "quickstart": {
        "PICTURES = 200": "PICTURES = 120",
        "_lite0(": "_lite0(128, ",
        "[1.0, 3.0, 10.0], folds=3": "[3.0, 10.0], folds=2",
        "epochs=3": "epochs=1",
    },
    "own_data": {".take(200)": ".take(40)", "epochs=3": "epochs=1"},
    "class_folders": {".take(300)": ".take(60)", ".skip(300)": ".skip(600)", **FEW},
    "features": {".take(200)": ".take(100)"},
    "search": {"dim=32": "dim=8"},
    "serving": {".take(100)": ".take(20)"},
}

# Where nothing depends on what the towers have learned, small ones stand in for the pretrained.
SMALL = ("own_data", "search", "serving")


def by_name(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_outputs_are_stripped(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert "attachments" not in cell and "base64," not in cell.source
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_first_code_installs(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert 'find_spec("keras_lit") is None' in cells[0].source and "%pip" in cells[0].source


def run_here(cells):
    """As a kernel, but in this process: the value of a cell's last line is in `_`."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        source = TransformerManager().transform_cell(cell.source)
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            if value is not None and not cell.source.endswith(";"):
                names["_"] = value


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory_after_test")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_runs(path, stamps, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(stamps.data_path.parents[1]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if path.stem == "released":
        # A small file of the released layout, where a download would be kept.
        monkeypatch.setenv("KERAS_LIT_CACHE", str(tmp_path))
        cached = tmp_path / "lit" / "LiT-L16Ti.npz"
        cached.parent.mkdir()
        shutil.copy(GOLDEN / "lit_text_transformer.npz", cached)
        words = len(arrays_of("lit_text_transformer")["txt/Embed_0/embedding"])
        tokenizers.save(
            tokenizers.train_sentencepiece(["a dog"], words), cached.with_suffix(".model")
        )
    if path.stem in SMALL:
        image_tower, text_tower = documents.image_tower, documents.text_tower
        monkeypatch.setattr(demo, "efficientnet_lite0", lambda size, **x: image_tower(**x))
        monkeypatch.setattr(demo, "minilm", lambda length=16: text_tower())
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        for long, short in SHORTER.get(path.stem, {}).items():
            cell.source = cell.source.replace(long, short)
    notebook.cells.append(nbformat.v4.new_code_cell(f"assert {HOLDS[path.stem]}"))
    if path.stem != KERNEL:
        monkeypatch.setitem(text_transformer.SIZES, "Ti", (32, 2, 64, 2))
        monkeypatch.chdir(tmp_path)
        run_here([cell for cell in notebook.cells if cell.cell_type == "code"])
        pyplot.close("all")
        return
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()

"""The quickstart with other people's data and backbones, as its users call it."""

import importlib
import json
import pathlib
import subprocess
import sys

import keras
import keras_nlp
import pytest

import keras_lit

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(photos, tmp_path):
    """Of the quickstart, for a folder and a small backbone."""
    backbone = keras_nlp.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=64, mlp_dim=64
    )
    backbone.save_to_preset(str(tmp_path / "preset"))
    options = "--text Ti --epochs 2 --batch-size 16 --views 1".split()
    paths = ["--dataset", photos, "--backbone", tmp_path / "preset", "--output", tmp_path / "run"]
    return [*options, *map(str, paths)]


def test_the_last_training_takes_all_pairs(arguments, tmp_path, monkeypatch):
    """Of the 80, a tenth of those for training validates; after that, these are trained on too."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    quickstart = importlib.import_module("quickstart")
    fit, rows = quickstart.fit, []

    def watch(model, train, chosen, *args, **kwargs):
        rows.append(sorted(chosen))
        return fit(model, train, chosen, *args, **kwargs)

    monkeypatch.setattr(quickstart, "fit", watch)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
    quickstart.main()
    pairs = json.loads((tmp_path / "run" / "metrics.json").read_text())["pairs"]
    everything = pairs["train"] + pairs["validation"]
    assert pairs["validation"] == everything // 10 and pairs["test"] == 80 - everything
    assert len(set(rows[0])) == pairs["train"]
    assert rows[1:] == [list(range(everything))]


def test_own_table_and_local_backbone(arguments, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    pairs = metrics["pairs"]
    assert sum(pairs.values()) == 80 and 8 <= pairs["test"] <= 24
    for of in (metrics, metrics["ridge_baseline"]):
        for way in ("image_to_text", "text_to_image"):
            recalls = [of[f"{way}_recall@{k}"] for k in (1, 5, 10)]
            assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
    for name in ("training.png", "retrieval.png", "model.keras", "saved_model/1/saved_model.pb"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert isinstance(model, keras_lit.LiT)
    assert model.encode_text(["a red picture"]).shape == (1, 64)

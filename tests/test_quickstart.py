"""The quickstart with other people's data and backbones, as its users call it."""

import importlib
import json
import pathlib
import sys
import types

import keras
import keras_nlp
import numpy as np
import pytest

import keras_lit
from tests.small import make_model

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def test_own_table_and_local_backbone(photos, tmp_path, monkeypatch):
    """Of the 80, a tenth of those for training validates; after that, these are trained on too."""
    backbone = keras_nlp.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=64, mlp_dim=64
    )
    backbone.save_to_preset(str(tmp_path / "preset"))
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", {"Ti": (32, 2, 64, 2)})
    options = "--text Ti --epochs 2 --batch-size 16 --views 1".split()
    paths = ["--dataset", photos, "--backbone", tmp_path / "preset", "--output", tmp_path / "run"]
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    quickstart = importlib.import_module("quickstart")
    fit, rows = quickstart.fit, []

    def watch(model, train, chosen, *args, **kwargs):
        rows.append(sorted(chosen))
        return fit(model, train, chosen, *args, **kwargs)

    monkeypatch.setattr(quickstart, "fit", watch)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *options, *map(str, paths)])
    monkeypatch.chdir(tmp_path)
    quickstart.main()

    output = tmp_path / "run"
    metrics = json.loads((output / "metrics.json").read_text())
    pairs = metrics["pairs"]
    assert sum(pairs.values()) == 80 and 8 <= pairs["test"] <= 24
    everything = pairs["train"] + pairs["validation"]
    assert pairs["validation"] == everything // 10 and pairs["test"] == 80 - everything
    assert len(set(rows[0])) == pairs["train"]
    assert rows[1:] == [list(range(everything))]
    for of in (metrics, metrics["ridge_baseline"]):
        for way in ("image_to_text", "text_to_image"):
            recalls = [of[f"{way}_recall@{k}"] for k in (1, 5, 10)]
            assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
    for name in ("training.png", "retrieval.png", "model.keras", "saved_model/1/saved_model.pb"):
        assert (output / name).stat().st_size > 1000
    model = keras.saving.load_model(output / "model.keras")
    assert isinstance(model, keras_lit.LiT)
    assert model.encode_text(["a red picture"]).shape == (1, 64)


def test_the_weights_that_validated_best_are_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    quickstart = importlib.import_module("quickstart")
    model, weights, scores = make_model(), [], iter([0.1, 0.9, 0.2])
    monkeypatch.setattr(quickstart, "recalls", lambda *_: weights.append(model.get_weights()))
    monkeypatch.setattr(quickstart, "mean_recall", lambda _: next(scores))
    train = {"views": np.ones([1, 8, 6], "float32"), "text": np.array(["a dog", "a cat"] * 4)}
    args = types.SimpleNamespace(seed=0, batch_size=4, epochs=2, learning_rate=1e-2)
    history = quickstart.fit(model, train, np.arange(8), args, np.arange(2))
    assert history["validation"] == [0.1, 0.9, 0.2] and len(weights) == 3
    for found, best in zip(model.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(found, best)


def test_training_anew_starts_from_the_pretrained_text_tower(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    quickstart = importlib.import_module("quickstart")
    model = make_model()
    start = model.text_tower.backbone.get_weights()
    model.text_tower.backbone.set_weights([weight + 1 for weight in start])
    args = types.SimpleNamespace(text="Ti")
    model = quickstart.untrained(model, start, {}, np.arange(0), args)
    for found, expected in zip(model.text_tower.backbone.get_weights(), start, strict=True):
        np.testing.assert_array_equal(found, expected)

"""The three tasks of a first hour, run from their pages on data as people have them."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests import small

DOCS = pathlib.Path(__file__).parent.parent / "docs"
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def run(page, **names):
    """What the code of a page leaves, which is at most 15 lines that fit a screen."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) <= 15 and max(map(len, lines)) <= 80
    for block in blocks:
        exec(block, names)
    return names


def picture(path, colour, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(colour, 20, [16, 20, 3])
    keras.utils.save_img(path, np.clip(noise, 0, 255), scale=False)


def text_tower(*args, **options):
    backbone = keras_lit.backbones.TextTransformer(
        small.tokenizer().vocabulary_size(), 8, 8, 1, 16, 2
    )
    return keras_lit.TextTower(backbone, small.tokenizer(), 8)


@pytest.fixture(autouse=True)
def small_towers(monkeypatch, tmp_path):
    """In place of what the pages download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_lit.demo, "efficientnet_lite0", small.make_tower)
    monkeypatch.setattr(keras_lit.demo, "minilm", text_tower)
    monkeypatch.setattr(keras_lit.ImageTower, "from_preset", lambda name: small.make_tower())
    sizes = dict.fromkeys(keras_lit.backbones.text_transformer.SIZES, (16, 1, 32, 2))
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", sizes)
    monkeypatch.setattr(keras_lit.checkpoints, "load_lit", lambda name: small.make_model())


@pytest.mark.slow
def test_a_table_beside_a_folder(tmp_path):
    rows = ["file,caption"]
    for i in range(40):
        rows.append(f"{i}.jpg,a {small.COLOURS[i % 7]} {small.THINGS[i % 6]}")
        if i not in (3, 30):
            picture(tmp_path / f"shop/photos/{i}.jpg", (5 * i, 90, 200 - 5 * i), i)
    (tmp_path / "shop/table.csv").write_text("\n".join(rows))
    found = run("howto_table.md")
    assert len(found["train"]) + len(found["test"]) == 38 and len(found["test"])
    left_out = " ".join(found["options"]["skipped"])
    assert "photos/3.jpg" in left_out and "photos/30.jpg" in left_out
    assert found["model"].optimizer.iterations == 4  # Loaded with it; an epoch is one batch.
    answer = found["artifact"].signatures["encode_text"](text=tf.constant(["a red scarf"]))
    expected = found["model"].encode_text("a red scarf")
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)


@pytest.mark.slow
def test_five_captions_a_picture(tmp_path, capsys):
    rows = ["image_name| comment_number| comment"]
    for i in range(40):
        picture(tmp_path / f"flickr/images/{i}.jpg", (5 * i, 90, 200 - 5 * i), i)
        for k in range(5):
            words = f"{small.COLOURS[(i + k) % 7]} {small.THINGS[i % 6]}"
            rows.append(f"{i}.jpg| {k}| A {words} and another number {i} .")
    (tmp_path / "flickr/results.csv").write_text("\n".join(rows))
    found = run("howto_captions.md")
    assert len(found["every"]) == 5 * len(found["train"]) > 0
    assert len(found["every"]) + len(found["test"]) == 200
    result = keras_lit.evaluation.retrieve(found["model"], found["test"])
    assert result.count == len(found["test"]) / 5 and result.settings["texts"] == len(found["test"])
    history = found["model"].history.history
    latest = history["retrieval_image_to_text_recall@5"]
    assert len(latest) == 10 and latest[-1] == result.metrics["image_to_text_recall@5"]


@pytest.mark.slow
def test_patches(tmp_path, monkeypatch):
    vit = keras_lit.backbones.VisionTransformer(224, 112, 8, 1, 16, 2)
    monkeypatch.setattr(keras_lit.backbones.VisionTransformer, "from_size", lambda size: vit)
    picture(tmp_path / "park.png", COLOURS["blue"])
    picture(tmp_path / "street/images/1.png", COLOURS["red"])
    (tmp_path / "street/masks").mkdir()
    keras.utils.save_img(tmp_path / "street/masks/1.png", np.zeros([16, 20, 1]), scale=False)
    found = run("howto_patches.md", keras_lit=keras_lit, pairs=small.make_pairs(64))
    assert found["maps"].shape == (2, 3, 3) and found["patches"].shape[:3] == (1, 3, 3)
    assert found["result"].settings["grid"] == "2x2"
    assert (tmp_path / "report/report.html").exists()


@pytest.mark.slow
def test_class_folders(tmp_path, capsys):
    for name, colour in COLOURS.items():
        for i in range(20):
            picture(tmp_path / f"pets/{name}_ball/{i}.png", colour, i)
    found = run("howto_class_folders.md")
    assert found["test"].class_names == ["blue ball", "green ball", "red ball"]
    assert len(found["train"]) + len(found["test"]) == 60
    probes = found["probe"].evaluate(found["model"])
    assert probes["few_shot_5shot_accuracy"] == 1.0 and "few_shot_1shot_accuracy" in probes
    said = capsys.readouterr().out
    assert "accuracy@1" in said and "few_shot_5shot_accuracy" in said

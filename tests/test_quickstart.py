"""The quickstart with other people's data and backbones, as its users call it."""

import importlib
import json
import pathlib
import sys

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from tests.small import make_model

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def examples(monkeypatch):
    """Imports a script of `examples/`, or of its studies, as Python finds it when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "studies"))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.mark.slow
def test_own_table_and_local_backbone(photos, tmp_path, monkeypatch, examples, capsys):
    """A table of 80 pictures in two folders; a small encoder stands in for the pretrained one."""
    backbone = keras_nlp.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16
    )
    backbone.save_to_preset(str(tmp_path / "preset"))
    words = keras_lit.tokenizers.train_wordpiece(["a red green blue grey picture number"], 50)

    def encoder(sequence_length):
        backbone = keras_lit.backbones.UniversalSentenceEncoder(50, 16, 8, 8, 16)
        return keras_lit.TextTower(backbone, words, sequence_length)

    monkeypatch.setattr(keras_lit.demo, "universal_sentence_encoder", encoder)
    quickstart = examples("quickstart")
    paths = ["--dataset", photos, "--backbone", tmp_path / "preset", "--output", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--epochs", "5", *map(str, paths)])
    monkeypatch.chdir(tmp_path)
    quickstart.main()

    output = tmp_path / "run"
    metrics = json.loads((output / "metrics.json").read_text())
    pictures = metrics["pictures"]
    assert sum(pictures.values()) == 80 and min(pictures.values()) > 0
    assert metrics["history"]["validated"] == [0, 5]
    assert metrics["results"]["LiT"]["validation"] == max(metrics["history"]["validation"])
    assert set(metrics["zero_shot"]["classes"]) == {"even", "odd"}
    for result in metrics["results"].values():
        for way in ("image_to_text", "text_to_image"):
            recalls = [result["languages"]["caption"][f"{way}_recall@{k}"] for k in (1, 5, 10)]
            assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
    pictures = output / "test_pictures"
    assert len([*pictures.iterdir()]) == metrics["pictures"]["test"]
    assert (
        f"demo.py --model {output / 'model.keras'} --pictures {pictures}" in capsys.readouterr().out
    )
    for name in ("training.png", "retrieval.png", "model.keras", "saved_model/1/saved_model.pb"):
        assert (output / name).stat().st_size > 1000
    model = keras.saving.load_model(output / "model.keras")
    assert isinstance(model, keras_lit.LiT)
    assert len(model.encode_text(["a red picture"])) == 1
    heads = [model.image_tower.head, model.text_tower.head]
    assert all(isinstance(head, keras_lit.backbones.ResidualHead) for head in heads)
    assert len(model.trainable_variables) == sum(len(x.trainable_variables) for x in heads) + 1


def test_the_weights_that_validated_best_are_kept(examples):
    """Of those before training and after epochs 2 and 4 the second; the fifth is not looked at."""
    model, found, values = make_model(), [], iter([0.1, 0.9, 0.2])

    def score(model):
        found.append(model.get_weights())
        return next(values)

    best = examples("scores").KeepBest(score, every_n_epochs=2)
    model.compile(keras.optimizers.SGD(1e-2))
    pairs = {
        "image": np.random.default_rng(0).integers(0, 256, [8, 9, 9, 3]).astype("uint8"),
        "text": np.random.default_rng(1).integers(1, 20, [8, 10]),
    }
    model.fit(pairs, epochs=5, callbacks=[best], verbose=0)
    assert best.scores == [0.1, 0.9, 0.2] and best.epochs == [0, 2, 4]
    for kept, expected in zip(model.get_weights(), found[1], strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert any((kept != last).any() for kept, last in zip(found[1], found[2], strict=True))


def test_captions_are_those_of_the_languages_and_the_keywords(examples):
    """A picture of OpenPictures, of which no builder is needed."""
    example = {
        "image": b"png",
        "translations": {"language": ["en", "xx", "de"], "text": ["apple", "?", "Apfel"]},
        "keywords": ["fruit", "red", "apple", "green", "food", "sixth"],
        "concept": "apple",
        "name": "noto/1F34E",
    }
    pair_of = examples("captioned").pair_of
    pair = pair_of(_tensors(example), ["en", "de"])
    assert pair["text"].numpy().tolist() == [b"apple", b"Apfel", b"fruit, red, apple, green, food"]
    assert (pair["group"], pair["name"]) == (b"apple", b"noto/1F34E")
    bare = {**example, "keywords": [], "translations": {"language": ["en"], "text": ["apple"]}}
    assert pair_of(_tensors(bare), ["en", "de"])["text"].numpy().tolist() == [b"apple"]


def test_the_test_pictures_are_written_for_the_page(examples, tmp_path):
    contents = [b"\x89PNG one", b"GIF8 two", b"\xff\xd8\xff three"]
    pairs = tf.data.Dataset.from_tensor_slices({"image": contents})
    captions = [{"en": "A dog/.. ?", "de": "x"}, {"caption": "A dog"}, {}]
    captioned = examples("captioned")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.png").write_bytes(b"of another run")
    folder = captioned.write(captioned.Split("test", pairs, captions, []), tmp_path / "pictures")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == dict(zip(["A dog.png", "A dog (2).gif", "picture.jpg"], contents, strict=True))


def _tensors(example):
    """Lists of strings as tensors, an empty one too."""
    return {
        name: {key: tf.constant(x, tf.string) for key, x in value.items()}
        if isinstance(value, dict)
        else tf.constant(value, tf.string)
        for name, value in example.items()
    }

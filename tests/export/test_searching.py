"""An artifact finds the pictures of an index that Python finds, with their ids and scores."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.search import Index
from tests import small


@pytest.mark.slow
def test_search(tmp_path, monkeypatch, capsys):
    model = small.make_model()
    pairs = small.encoded_pairs(9, name=[f"p{i}" for i in range(9)])
    index = Index.build(model, pairs, tmp_path / "index", verbose=0)
    index.update(pairs.skip(2), verbose=0)  # Ids are no places.
    options = {"index": index, "top_k": 4, "on_corrupt": "nan"}
    path = keras_lit.export.save(model, tmp_path / "models", **options)
    signatures = tf.saved_model.load(str(path)).signatures
    texts = ["a red dog", "the moon"]
    found = signatures["search"](text=tf.constant(texts))
    assert set(found) == {"ids", "names", "scores"}
    for row, hits in enumerate(index.search_many(texts, k=4)):
        assert found["ids"][row].numpy().tolist() == [hit.id for hit in hits]
        assert found["names"][row].numpy().tolist() == [hit.name.encode() for hit in hits]
        np.testing.assert_allclose(found["scores"][row], [hit.score for hit in hits], atol=1e-5)
    images = [pair["image"] for pair in pairs.as_numpy_iterator()]
    found = signatures["search_image"](image_bytes=tf.constant([images[5], b"no picture"]))
    assert found["names"][0, 0] == b"p5"
    np.testing.assert_allclose(found["scores"][0, 0], 1, atol=1e-6)
    hits = index.search(images[5], k=4)
    np.testing.assert_allclose(found["scores"][0], [hit.score for hit in hits], atol=1e-5)
    assert found["valid"].numpy().tolist() == [True, False]
    assert found["ids"][1].numpy().tolist() == [-1] * 4
    assert found["names"][1].numpy().tolist() == [b""] * 4
    assert np.isnan(found["scores"][1]).all()
    assert "`search`" in (path / "README.md").read_text()
    over_rest(path, index, images[5], tmp_path, monkeypatch, capsys)


def over_rest(path, index, image, folder, monkeypatch, capsys):
    """The example client finds the same."""
    serving = pytest.importorskip("serving")
    location = pathlib.Path(__file__).parents[2] / "examples" / "serve" / "rest_client.py"
    spec = importlib.util.spec_from_file_location("rest_client", location)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    (folder / "one.png").write_bytes(image)
    calls = {
        "search": (["--text", "a red dog", "the moon"], ["a red dog", "the moon"]),
        "search_image": (["--images", str(folder / "one.png")], [image]),
    }
    with serving.Server(path).rest() as url:
        for name, (arguments, queries) in calls.items():
            monkeypatch.setattr("sys.argv", ["client", name, "--server", url, *arguments])
            client.main()
            found = json.loads(capsys.readouterr().out)
            for row, hits in enumerate(index.search_many(queries, k=4)):
                assert found["ids"][row] == [hit.id for hit in hits]
                assert found["names"][row] == [hit.name for hit in hits]
                scores = [hit.score for hit in hits]
                np.testing.assert_allclose(found["scores"][row], scores, atol=1e-5)


def test_wrong_indexes(tmp_path, monkeypatch):
    model = small.make_model()
    index = Index.build(model, small.encoded_pairs(3), tmp_path / "index", verbose=0)
    monkeypatch.setattr(keras_lit.export.searching, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes.*3 pictures, 192 bytes"):
        keras_lit.export.save(model, tmp_path / "models", index=index)
    with pytest.raises(ValueError, match="holds 16 numbers .*Received `dim`: 8. Pass `dim=16`"):
        keras_lit.export.save(model, tmp_path / "models", index=index, dim=8)
    model.image_tower.head.bias.assign_add(model.image_tower.head.bias + 1)
    with pytest.raises(ValueError, match="another image tower"):
        keras_lit.export.save(model, tmp_path / "models", index=index)
    assert not (tmp_path / "models").exists()

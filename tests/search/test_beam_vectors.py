"""The vectors that Beam computes are those of one machine, and are not computed again."""

import functools
import hashlib

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from keras_lit.search import Index, updating
from keras_lit.search.beam import Vectors


def write(folder, digest, vector):
    np.save(f"{folder}/{digest.hex()}.npy", vector)


def content(directory):
    (file,) = directory.glob("vectors-*")
    return file.read_bytes()


@pytest.mark.slow
def test_an_index_of_the_same_bytes(model, folder, tmp_path, monkeypatch):
    (folder / "deep" / "bad.png").write_bytes(b"\x89PNG, but not really")
    options = {"batch_size": 5, "dim": 7, "verbose": 0}
    with pytest.warns(UserWarning, match="1 pictures are not in the index"):
        whole = Index.build(model, folder, tmp_path / "whole", **options)
    # Out of order, and two of them missing.
    pictures = [path.read_bytes() for path in sorted(folder.rglob("*.png"))][:1:-1]
    path, rows, encoded = tmp_path / "tower.keras", tmp_path / "rows", []
    model.image_tower.save(path)
    rows.mkdir()
    make = functools.partial(keras.saving.load_model, path)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        vectors = pipeline | beam.Create(pictures) | Vectors(make, 5, 7)
        _ = vectors | beam.MapTuple(functools.partial(write, str(rows)))
    vectors = {bytes.fromhex(file.stem): np.load(file) for file in rows.iterdir()}
    assert len(vectors) == 10

    def count(tower, images, *given, encode=updating.encode):
        encoded.append(len(images))
        return encode(tower, images, *given)

    monkeypatch.setattr(updating, "encode", count)
    with pytest.warns(UserWarning, match="1 pictures are not in the index"):
        index = Index.build(model, folder, tmp_path / "beam", vectors=vectors, **options)
    assert encoded == [3]  # The two, and the one that does not decode.
    assert index.refused == whole.refused and len(index) == 12
    # The two stand in other rows.
    stored = [content(tmp_path / name) for name in ("whole", "beam")]
    both = [np.frombuffer(x, "float32").reshape(-1, 7).tolist() for x in stored]
    assert sorted(both[0]) == sorted(both[1])


def test_all_known_gives_the_same_file(model, folder, tmp_path, monkeypatch):
    Index.build(model, folder, tmp_path / "whole", batch_size=5, verbose=0)
    work = Vectors(lambda: model.image_tower, 5)._work
    work.setup()
    files = [path.read_bytes() for path in folder.rglob("*.png")]
    vectors = dict(row for i in (0, 5, 10) for row in work.process(files[i : i + 5]))
    assert vectors.keys() == {hashlib.sha256(file).digest() for file in files}
    monkeypatch.setattr(updating, "encode", None)
    options = {"batch_size": 5, "verbose": 0}
    index = Index.build(model, folder, tmp_path / "beam", vectors=vectors, **options)
    assert content(tmp_path / "beam") == content(tmp_path / "whole") and len(index) == 12
    with pytest.raises(ValueError, match=r"the index's width, 4. Received: \[16\], for '"):
        Index.build(model, folder, tmp_path / "4", vectors=vectors, dim=4, **options)
    with pytest.raises(ValueError, match="`batch_size` should be a positive whole number"):
        Vectors(None, 0)

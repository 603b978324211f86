import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_lit import callbacks
from tests.small import make_model, make_pairs


def events(directory):
    """{(tag, step): tensor} of all summaries."""
    found = {}
    for file in pathlib.Path(directory).glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


def test_pictures_and_projector(tmp_path):
    rows = list(make_pairs(10).as_numpy_iterator())
    pixels = np.stack([row["image"] for row in rows])
    index = [0, 0, *range(1, 10)]
    texts = [f"caption {i}" for i in range(11)]
    data = {"image": pixels[index], "text": texts, "name": np.array([f"{i}.png" for i in index])}
    model = make_model()
    callback = callbacks.RetrievalPictures(tmp_path, data, queries=3, matrix=4, every_n_epochs=2)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(4):
        callback.on_epoch_end(epoch, {})
    callback.on_train_end()
    found = events(tmp_path / "pictures")
    assert set(found) == {
        (tag, step)
        for tag in ("contact_sheet", "contact_sheet_texts", "similarity")
        for step in (1, 3)
    }
    width, height, sheet = found["contact_sheet", 1]
    picture = tf.io.decode_png(sheet).numpy()
    assert picture.shape == (3 * 112, 5 * 112, 3) == (int(height), int(width), 3)
    assert found["contact_sheet_texts", 1].item().decode().count("1. caption") == 3
    # The matrix: texts 0 to 3 across, and the pictures of these down, of which two are the same.
    matrix = tf.io.decode_png(found["similarity", 1][2]).numpy()
    assert matrix.shape == (384, 384, 3)
    np.testing.assert_array_equal(matrix[:96], matrix[96:192])
    lines = (tmp_path / "metadata.tsv").read_text().splitlines()
    assert lines[0] == "kind\ttext" and lines[1] == "picture\tcaption 0"
    assert [line.split("\t")[0] for line in lines[1:]] == ["picture"] * 10 + ["text"] * 11
    assert lines[-1] == "text\tcaption 10" and lines[2] == "picture\tcaption 2"
    vectors = np.loadtxt(tmp_path / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(vectors[:10], model.encode_image(pixels), atol=1e-5)
    np.testing.assert_allclose(vectors[10:], model.encode_text(texts), atol=1e-5)
    sprite = tf.io.decode_png((tmp_path / "sprite.png").read_bytes()).numpy()
    assert sprite.shape == (5 * 48, 5 * 48, 3)
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "embeddings.tsv"' in config and "single_image_dim: 48" in config


@pytest.mark.slow
def test_in_fit_with_features(tmp_path):
    model = make_model()
    model.compile("sgd")
    data = {"image_features": np.ones([8, 6], "float32"), "text": ["a dog", "a cat"] * 4}
    callback = callbacks.RetrievalPictures(tmp_path, data, projector=3)
    model.fit(data, batch_size=4, epochs=1, callbacks=[callback], verbose=0)
    assert set(events(tmp_path / "pictures")) == {("similarity", 0)}
    assert len((tmp_path / "metadata.tsv").read_text().splitlines()) == 1 + 2 * 3

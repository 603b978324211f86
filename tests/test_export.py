import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_lit
from keras_lit.backbones import TextTransformer
from keras_lit.preprocessing import ImagePreprocessor

CAPTIONS = ["a red balloon", "a green balloon over the sea", "two dogs in the snow"] * 3

READER = """
import sys
import numpy as np, tensorflow as tf, tensorflow_text
path = sys.argv[1]
data = np.load(path + "/inputs.npz", allow_pickle=True)
model = tf.saved_model.load(path + "/models/1")
image = model.signatures["encode_image"](image_bytes=tf.constant(list(data["images"])))
text = model.signatures["encode_text"](text=tf.constant(list(data["texts"])))
with tf.compat.v1.Session(graph=tf.Graph()) as session:  # as TF Serving loads it
    graph = tf.compat.v1.saved_model.load(session, ["serve"], path + "/models/1")
    signature = graph.signature_def["serving_default"]
    name = signature.outputs["embedding"].name
    again = session.run(name, {signature.inputs["text"].name: list(data["texts"])})
assert "keras_lit" not in sys.modules and "keras_nlp" not in sys.modules
np.savez(path + "/outputs.npz", image=image["embedding"], text=text["embedding"], again=again)
"""


@pytest.fixture
def model():
    tokenizer = keras_lit.tokenizers.train_sentencepiece(CAPTIONS, 60)
    conv = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3)])
    text = TextTransformer(tokenizer.vocabulary_size(), 8, 16, 1, 32, 4)
    return keras_lit.LiT(
        keras_lit.ImageTower(conv, preprocessor=ImagePreprocessor(8, "pad")),
        keras_lit.TextTower(text, tokenizer, 8),
    )


def test_a_fresh_process_without_keras_lit_gives_the_same_embeddings(model, tmp_path):
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, [3, 9, 12, 4]).astype("uint8")
    images = np.array([tf.io.encode_png(image).numpy() for image in pixels], object)
    assert keras_lit.export.save(model, tmp_path / "models") == tmp_path / "models" / "1"
    np.savez(tmp_path / "inputs.npz", images=images, texts=np.array(CAPTIONS, object))
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True)
    outputs = np.load(tmp_path / "outputs.npz")
    np.testing.assert_allclose(outputs["image"], model.encode_image(list(images)), atol=1e-6)
    np.testing.assert_allclose(outputs["text"], model.encode_text(CAPTIONS), atol=1e-6)
    np.testing.assert_allclose(outputs["again"], outputs["text"], atol=1e-6)


def test_versions(model, tmp_path):
    (tmp_path / "7").mkdir()
    assert keras_lit.export.save(model, tmp_path).name == "8"
    with pytest.raises(ValueError, match="does not hold yet. Received: 8"):
        keras_lit.export.save(model, tmp_path, version=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8"]


def test_a_tower_without_a_tokenizer_is_refused(model, tmp_path):
    model.text_tower.preprocessor = None
    with pytest.raises(ValueError, match="needs a tokenizer"):
        keras_lit.export.save(model, tmp_path)

import io
import types

import numpy as np
import PIL.Image
import pytest

import keras_lit
from tests.small import make_model

CLASSES = ["dog", "grey cat", "moon"]
TEMPLATES = ("a {}", "{} and a red one", "a green {} and a balloon")


def encoded(count, side=9):
    """PNGs with transparency and grey JPEGs, in turns, each of another size."""
    rng = np.random.default_rng(5)
    images = []
    for i in range(count):
        pixels = rng.integers(0, 256, [side + i, side + 2 * i, 1 if i % 2 else 4]).astype("uint8")
        file = io.BytesIO()
        PIL.Image.fromarray(pixels.squeeze()).save(file, "jpeg" if i % 2 else "png")
        images.append(file.getvalue())
    return images


@pytest.fixture(scope="package")
def saved(tmp_path_factory):
    """A model, its artifact with classes, inputs, and what comes out by `encode_*` and NumPy."""
    model = make_model()
    directory = tmp_path_factory.mktemp("models")
    path = keras_lit.export.save(model, directory, class_names=CLASSES, templates=TEMPLATES)
    images = encoded(3)
    texts = ["a red dog and a grey one", "moon", "", "a balloon"]
    inputs = {
        "image_bytes": np.array(images, object),
        "text": np.array(texts, object),
        "labels": np.array(["toucan", "black moon"], object),
        "pixels": np.random.default_rng(1).integers(0, 256, [2, 20, 11, 3]).astype("uint8"),
    }
    image = model.encode_image(images)
    text = model.encode_text(texts)

    def scores(labels):
        prompts = [t.replace("{}", label) for label in labels for t in TEMPLATES]
        mean = model.encode_text(prompts).reshape(len(labels), len(TEMPLATES), -1).mean(axis=1)
        logits = 10.0 * image @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    of_classes = scores(CLASSES)
    best = np.argsort(-of_classes, axis=1)
    outputs = {
        "encode_image": {"embedding": image},
        "encode_pixels": {"embedding": model.encode_image(inputs["pixels"])},
        "encode_text": {"embedding": text},
        "serving_default": {"embedding": text},
        "similarity": {"similarity": image @ text.T},
        "classify_labels": {"scores": scores(["toucan", "black moon"])},
        "classify": {
            "scores": of_classes,
            "classes": np.array([[name.encode() for name in CLASSES]] * 3, object),
            "top_indices": best,
            "top_classes": np.array(CLASSES, "S")[best].astype(object),
        },
    }
    return types.SimpleNamespace(model=model, path=path, inputs=inputs, outputs=outputs)


def assert_equal_outputs(actual, expected):
    """The same names; strings and indices equal, numbers to 1e-6."""
    assert set(actual) == set(expected)
    for name, values in expected.items():
        if values.dtype.kind in "Oi":
            np.testing.assert_array_equal(actual[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(actual[name], values, rtol=0, atol=1e-6, err_msg=name)

import json
import pathlib

import numpy as np
import pytest

from keras_lit.evaluation import retrieval, retrieval_recall, zero_shot_accuracy, zero_shot_weights

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
RNG = np.random.default_rng(0)


def unit(*shape):
    rows = RNG.normal(size=shape).astype("float32")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("tile", [2**24, 500])
def test_recall_equals_the_reference(tile, monkeypatch):
    monkeypatch.setattr(retrieval, "_TILE_ELEMENTS", tile)
    golden = np.load(GOLDEN / "retrieval.npz")
    expected = json.loads((GOLDEN / "expected.json").read_text())["retrieval"]
    image = next(golden[key] for key in golden if "im" in key)
    text = next(golden[key] for key in golden if "t" in key and "im" not in key)
    index = np.repeat(np.arange(len(image)), len(text) // len(image))
    result = retrieval_recall(image, text, index)
    for way, values in expected.items():
        for name, value in values.items():
            key = f"{way}_{name.replace('Recall', 'recall')}"
            np.testing.assert_allclose(result[key], value, atol=1e-6)


def test_recall_by_hand():
    image = np.eye(3, dtype="float32")
    text = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]], "float32")
    # Text 1 belongs to image 1 but is nearest to image 0; texts 1 and 2 tie for image 1.
    result = retrieval_recall(image, text, [0, 1, 2], ks=(1, 2))
    assert result == {
        "image_to_text_recall@1": pytest.approx(2 / 3),
        "image_to_text_recall@2": 1.0,
        "text_to_image_recall@1": pytest.approx(2 / 3),
        "text_to_image_recall@2": 1.0,
    }
    # Images 0 and 1 are alike: text 1 may find either.
    result = retrieval_recall(image, text, [0, 1, 2], ks=(1,), image_groups=[5, 5, 6])
    assert result["text_to_image_recall@1"] == 1.0


def test_ties_count_against():
    same = np.ones([4, 2], "float32")
    result = retrieval_recall(same, same, np.arange(4), ks=(1, 3, 4))
    assert [result[f"text_to_image_recall@{k}"] for k in (1, 3, 4)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_embeddings": unit(4, 3)}, "same width"),
        ({"image_index": [0, 1, 9, 0]}, r"in \[0, 5\).*from 0 to 9"),
        ({"image_index": [0, 1]}, "each of the 4 texts"),
        ({"image_embeddings": np.full([5, 2], np.nan)}, "with NaN"),
        ({"ks": (0,)}, "`ks` should be a positive number"),
        ({"image_groups": [1]}, r"`image_groups` should have shape \(5,\)"),
    ],
)
def test_bad_retrieval_arguments(change, message):
    arguments = {
        "image_embeddings": unit(5, 2),
        "text_embeddings": unit(4, 2),
        "image_index": [0, 1, 2, 3],
    }
    with pytest.raises(ValueError, match=message):
        retrieval_recall(**{**arguments, **change})


def test_zero_shot_weights_against_a_loop():
    table = {}

    def encode(prompts):
        return np.stack([table.setdefault(prompt, 3 * unit(1, 4)[0]) for prompt in prompts])

    weights = zero_shot_weights(encode, ["cat", "dog"], ["{}", "a {}.", "my {}"])
    for row, name in zip(weights, ["cat", "dog"], strict=True):
        prompts = [table[name], table[f"a {name}."], table[f"my {name}"]]
        mean = sum(prompt / np.linalg.norm(prompt) for prompt in prompts) / 3
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5)


def test_zero_shot_accuracy_by_hand():
    images = np.array([[1, 0], [0.6, 0.8], [1, 0], [0, 1]], "float32")
    weights = np.array([[1, 0], [0, 1], [0.8, 0.6]], "float32")
    # Nearest classes: 0, 2 (0.96), 0, 1.
    result = zero_shot_accuracy(images, [0, 1, 2, 1], weights, top=(1, 2, 5))
    assert result == {"accuracy@1": 0.5, "accuracy@2": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zero_shot_weights(len, []), "at least one class name"),
        (lambda: zero_shot_weights(len, ["a"], ["no slot"]), r"one slot \{\}"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0, 4], unit(2, 3)), r"in \[0, 2\), the classes"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0], unit(2, 3)), "one label an image"),
    ],
)
def test_bad_zero_shot_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

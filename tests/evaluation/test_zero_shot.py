import warnings

import keras
import numpy as np
import pytest
from evaluation.rows import unit

from keras_lit.evaluation import (
    multi_label_accuracy,
    zero_shot,
    zero_shot_accuracy,
    zero_shot_confusions,
    zero_shot_weights,
)


class Encoder:
    """Random rows of random length, the same for the same prompt."""

    def __init__(self):
        self.table, self.calls = {}, []

    def __call__(self, prompts):
        self.calls.append(len(prompts))
        lengths = np.random.default_rng(len(self.table)).uniform(0.5, 4)
        return np.stack([self.table.setdefault(p, lengths * unit(1, 4)[0]) for p in prompts])


@pytest.mark.parametrize("names", [["cat", "dog", "hot dog"], ["cat"]])
@pytest.mark.parametrize("templates", [["{}", "a {}.", "my {}"], ["{}"]])
@pytest.mark.parametrize("renormalize", [True, False])
def test_weights_against_a_loop(names, templates, renormalize):
    encode = Encoder()
    weights = zero_shot_weights(encode, names, templates, renormalize, batch_size=6)
    assert weights.shape == (len(names), 4) and max(encode.calls) <= 6
    for row, name in zip(weights, names, strict=True):
        prompts = [encode.table[template.replace("{}", name)] for template in templates]
        mean = sum(prompt / np.linalg.norm(prompt) for prompt in prompts) / len(templates)
        expected = mean / np.linalg.norm(mean) if renormalize else mean
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_a_template_is_no_format_string():
    encode = Encoder()
    zero_shot_weights(encode, ["cat {0}", "dog"], ["a {x} {{}}"])
    assert list(encode.table) == ["a {x} {cat {0}}", "a {x} {dog}"]


@pytest.mark.parametrize("classes", [1, 9])
@pytest.mark.parametrize("tile", [2**24, 20])
def test_accuracy_against_a_loop(classes, tile, monkeypatch):
    monkeypatch.setattr(zero_shot, "_TILE_ELEMENTS", tile)
    images, weights = unit(50, 6), unit(classes, 6)
    labels = np.random.default_rng(1).integers(0, classes, 50)
    labels[labels == 4] = 3  # A class without images.
    top1, top2 = [], []
    for image, label in zip(images, labels, strict=True):
        nearest = sorted(range(classes), key=lambda c: -float(image @ weights[c]))
        top1.append(nearest[0] == label)
        top2.append(label in nearest[:2])
    expected = {"accuracy@1": np.mean(top1)}
    if classes > 1:
        expected["accuracy@2"] = np.mean(top2)
    recalls = [np.mean(np.array(top1)[labels == c]) for c in set(labels.tolist())]
    expected["mean_per_class_recall"] = np.mean(recalls)
    assert zero_shot_accuracy(images, labels, weights, top=(1, 2)) == pytest.approx(expected)


def test_accuracy_and_confusions_by_hand():
    images = np.array([[1, 0], [0.6, 0.8], [1, 0], [0, 1]], "float32")
    weights = np.array([[1, 0], [0, 1], [0.8, 0.6]], "float32")
    # Nearest classes: 0, 2 (0.96), 0, 1.
    result = zero_shot_accuracy(images, [0, 1, 2, 1], weights, top=(1, 2, 5))
    expected = {"accuracy@1": 0.5, "accuracy@2": 1.0, "mean_per_class_recall": 0.5}
    assert result == expected
    assert zero_shot_confusions(images, [0, 1, 2, 1], weights) == [(1, 2, 1, 0.5), (2, 0, 1, 1.0)]
    # The same under other labels, in another order of the weights.
    arguments = (images, [30, 10, 20, 10], weights[[2, 0, 1]])
    assert zero_shot_accuracy(*arguments, (1, 2), classes=[20, 30, 10]) == expected
    confused = zero_shot_confusions(*arguments, count=1, classes=[20, 30, 10])
    assert confused == [(20, 30, 1, 1.0)]


def test_most_frequent_confusions_come_first(monkeypatch):
    monkeypatch.setattr(zero_shot, "_TILE_ELEMENTS", 8)
    labels = [0, 0, 1, 1, 1, 2, 2, 2, 2]
    images = np.eye(4, dtype="float32")[[3, 0, 3, 3, 2, 1, 1, 1, 2]]
    found = zero_shot_confusions(images, labels, np.eye(4))
    assert [tuple(pair[:3]) for pair in found] == [(2, 1, 3), (1, 3, 2), (0, 3, 1), (1, 2, 1)]
    assert [pair.fraction for pair in found] == pytest.approx([3 / 4, 2 / 3, 1 / 2, 1 / 3])


def test_classes_that_tie_count_against():
    weights = np.repeat(unit(1, 512), 1003, axis=0)
    result = zero_shot_accuracy(weights[:5], [0, 3, 500, 1000, 1002], weights, top=(1, 1002, 1003))
    assert [result[f"accuracy@{k}"] for k in (1, 1002, 1003)] == [0, 0, 1]


def test_classes_of_one_name_are_named_and_right_of_nothing():
    texts = {"a dog": [1.0, 0.0], "a missile": [0.0, 1.0]}
    with pytest.warns(UserWarning, match=r"1 class names.*'missile' in the rows \[0, 2\]"):
        weights = zero_shot_weights(
            lambda prompts: np.array([texts[prompt] for prompt in prompts]),
            ["missile", "dog", "missile"],
            ["a {}"],
        )
    result = zero_shot_accuracy(np.eye(2)[[1, 1, 0, 0]], [0, 2, 1, 1], weights, top=(1, 2))
    assert result == {"accuracy@1": 0.5, "accuracy@2": 1.0, "mean_per_class_recall": 1 / 3}


def test_names_that_the_tokenizer_does_not_tell_apart_are_named():
    """Lower-cased, unknown or cut off; embeddings of other batches differ by rounding."""
    rows = unit(4, 512)
    rows[3] = rows[1] + 3e-8
    with pytest.warns(UserWarning, match="1 class names have the embedding.*'Cat' and 'cat'.*tie"):
        zero_shot_weights(lambda prompts: rows, ["dog", "Cat", "moon", "cat"])
    rows[3, 9] += 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero_shot_weights(lambda prompts: rows, ["dog", "Cat", "moon", "cat"])


def test_any_of_several_labels():
    images = np.array([[1, 0, 0], [0, 0.8, 0.6], [0.6, 0, 0.8], [1, 0, 0]], "float32")
    # Nearest classes: 0; 1, then 2; 2, then 0; 0. The last image has no label and does not count.
    lists = [[0, 2], [2], [1, 2], []]
    padded = np.array([[0, 2, -1], [2, -1, -1], [1, 2, -1], [-1, -1, -1]])
    for labels in (lists, padded):
        result = multi_label_accuracy(images, labels, np.eye(3), top=(1, 2, 4))
        assert result == {"accuracy@1": pytest.approx(2 / 3), "accuracy@2": 1.0, "labelled": 3}


def test_both_classes_for_every_image_are_refused():
    """0 or 1 for each of two classes reads like two labels."""
    with pytest.raises(ValueError, match="Received both for every image.*flatnonzero"):
        multi_label_accuracy(np.eye(2), np.array([[0, 1], [1, 0]]), np.eye(2))


def test_one_label_is_the_single_label_case(monkeypatch):
    images, weights, labels = unit(40, 5), unit(7, 5), np.random.default_rng(2).integers(0, 7, 40)
    single = zero_shot_accuracy(images, labels, weights)
    monkeypatch.setattr(zero_shot, "_TILE_ELEMENTS", 30)
    several = multi_label_accuracy(images, labels[:, None], weights)
    assert [several[f"accuracy@{k}"] for k in (1, 5)] == [single[f"accuracy@{k}"] for k in (1, 5)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zero_shot_weights(len, []), "at least one class name"),
        (lambda: zero_shot_weights(len, ["a"], []), "one template"),
        (lambda: zero_shot_weights(len, ["a"], "{}"), "should be a list"),
        (lambda: zero_shot_weights(len, {"a": ["an a"]}), "list. Received a dict.*the means"),
        (lambda: zero_shot_weights(len, {"a": 1}.keys()), "should be a list.*dict_keys"),
        (lambda: zero_shot_weights(len, {"a", "b"}), "should be a list"),
        (lambda: zero_shot_weights(len, ["a", " "]), "strings that are not empty. Received: ' '"),
        (
            lambda: zero_shot_weights(len, ["a", "caf\udce9"]),
            r"Unicode. Received: 'caf\\udce9'.*`enc",
        ),
        (lambda: zero_shot_weights(len, ["a", "b\0"]), "Unicode"),
        (lambda: zero_shot_weights(len, ["a"], ["{}", ""]), "strings that are not empty"),
        (lambda: zero_shot_weights(len, ["a"], ["no slot"]), r"one slot \{\}"),
        (lambda: zero_shot_weights(len, ["a"], ["{} and {}"]), r"one slot \{\}"),
        (lambda: zero_shot_weights(lambda p: unit(3, 2), ["a"]), "a row for each of 1 prompts"),
        (lambda: zero_shot_weights(lambda p: np.zeros([1, 2]), ["a"]), "finite and not zero"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0, 4], unit(2, 3)), r"in \[0, 2\), the classes"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0, -1], unit(2, 3)), "from -1 to 0"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0.0, 1.0], unit(2, 3)), "should be integers"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0], unit(2, 3)), "one label an image"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0, 1], unit(2, 4)), "same width"),
        (lambda: zero_shot_accuracy(unit(2, 3) * np.nan, [0, 1], unit(2, 3)), "with NaN"),
        (lambda: zero_shot_accuracy(unit(2, 3), [0, 1], unit(2, 3) * np.nan), "`weights`.*finite"),
        (lambda: zero_shot_accuracy(unit(1, 3), [0], unit(2, 3), top=(0,)), "`top`.*positive"),
        (lambda: zero_shot_accuracy(unit(1, 3), [0], unit(2, 3), classes=[1, 1]), "each another"),
        (lambda: zero_shot_accuracy(unit(1, 3), [4], unit(2, 3), classes=[1, 7]), r"not: \[4\]"),
        (lambda: zero_shot_accuracy(unit(1, 3), [0], unit(2, 3), classes="ab"), "shape \\(\\)"),
        (lambda: zero_shot_accuracy(unit(1, 3), [0], unit(1, 3), classes=["a"]), "another integer"),
        (lambda: zero_shot_accuracy(unit(1, 3), [[0]], unit(2, 3)), r"Pass `labels\[:, 0\]`"),
        (
            lambda: multi_label_accuracy(unit(2, 3), np.array([[0, 1, -1], [1, 0, 1]]), unit(3, 3)),
            r"for image 1: \[1, 0, 1\].*flatnonzero",
        ),
        (
            lambda: multi_label_accuracy(unit(1, 3), [[True, False]], unit(2, 3)),
            "different integer",
        ),
        (lambda: multi_label_accuracy(unit(1, 3), [[2]], unit(2, 3)), r"in \[0, 2\)"),
        (lambda: multi_label_accuracy(unit(1, 3), [[-1]], unit(2, 3)), r"from -1"),
        (lambda: multi_label_accuracy(unit(1, 3), [[]], unit(2, 3)), "none for any image"),
        (lambda: multi_label_accuracy(unit(2, 3), [[0]], unit(2, 3)), "each of the 2 images"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_shows_no_bars_of_its_own():
    """Each batch of prompts would begin a bar; `verbose` is of all."""

    class Model(keras.Model):
        def encode_text(self, text, verbose="auto"):
            shown.append(verbose)
            return np.eye(len(text))

    shown = []
    model = Model()
    for encode in (model, model.encode_text):
        zero_shot_weights(encode, ["cat", "dog"])
    assert shown == [0, 0]

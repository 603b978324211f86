"""Labelled pictures as pairs, whose class is their group."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lit.data import class_pairs, image_text_pairs, labelled_images
from tests.small import make_model

TEMPLATES = ["a photo of a {}.", "a drawing of a {}."]


@pytest.fixture
def animals(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ant", "cat", "polar_bear"):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = rng.integers(0, 256, [8, 8, 3])
            keras.utils.save_img(tmp_path / name / f"{number}.png", image, scale=False)
    return tmp_path


def test_class_is_the_group_and_templates_are_drawn(animals):
    pairs = class_pairs(animals, TEMPLATES, seed=1)
    assert pairs.cardinality() == 12
    epochs = [list(pairs.as_numpy_iterator()) for _ in range(3)]
    for pair in (pair for epoch in epochs for pair in epoch):
        name = ["ant", "cat", "polar bear"][pair["group"]]
        assert pair["text"].decode() in [x.format(name) for x in TEMPLATES]
        assert name.replace(" ", "_") in pair["name"].decode()
        assert tf.io.decode_png(pair["image"]).shape == (8, 8, 3)
    orders = [[pair["name"] for pair in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert len({pair["text"] for epoch in epochs for pair in epoch}) == 6
    plain = class_pairs(animals, class_names=["x", "y", "z"], shuffle=False)
    found = [(pair["text"], pair["group"]) for pair in plain.as_numpy_iterator()]
    assert found == [(f"a photo of a {'xyz'[i // 4]}.".encode(), i // 4) for i in range(12)]


def test_a_split(animals, tmp_path_factory):
    path = tmp_path_factory.mktemp("divided")
    for split in ("train", "val"):
        (path / split).symlink_to(animals)
    assert class_pairs(path).cardinality() == 12
    assert next(iter(class_pairs(path, split="validation", shuffle=False)))["group"] == 0
    with pytest.raises(
        ValueError, match="should hold 'test' with two or more.*Received: train, val"
    ):
        class_pairs(path, split="test")


def test_what_is_wrong_is_named(animals, tmp_path_factory):
    with pytest.raises(ValueError, match=r'captions with "\{\}".*a cat'):
        class_pairs(animals, ["a photo of a {}.", "a cat"])
    with pytest.raises(ValueError, match=r'captions with "\{\}".*\[\]'):
        class_pairs(animals, [])
    with pytest.raises(ValueError, match="should name 3 classes.*polar_bear.*Received: 2"):
        class_pairs(animals, class_names=["a", "b"])
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(
        ValueError, match="two or more folders.*Received: nothing.*image_text_pairs"
    ):
        class_pairs(empty)


def test_folders_that_say_two_things_are_refused(animals, tmp_path_factory):
    path = tmp_path_factory.mktemp("divided")
    for name in ("train", "test", "unlabeled"):  # STL-10's
        (path / name).symlink_to(animals)
    with pytest.raises(ValueError, match="divided into test, train: .*Received: unlabeled"):
        labelled_images(path)
    (path / "unlabeled").rename(path / "Train")
    with pytest.raises(ValueError, match="one folder for 'train'. Received: Train, train"):
        class_pairs(path)
    (path / "Train").rename(path / "bus")
    (path / "test").rename(path / "car")
    assert labelled_images(path).class_names == ["bus", "car", "train"]  # A train is a class.


def test_names_that_are_no_words(animals):
    for name, new in (("ant", "n01440764"), ("cat", "n03028079"), ("polar_bear", "n02066245")):
        (animals / name).rename(animals / new)
    with pytest.raises(ValueError, match="WordNet's identifiers.*n01440764.*Pass `class_names`"):
        class_pairs(animals)
    assert class_pairs(animals, class_names=["tench", "church", "whale"]).cardinality() == 12
    (animals / "n01440764").rename(animals / "cafe\u0301_noir")
    assert labelled_images(animals).class_names[0] == "caf\u00e9 noir"  # As captions have it.
    (animals / "n03028079" / "scan.dcm").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"scan.dcm: images of this kind are not read, but .jpg"):
        labelled_images(animals)


@pytest.mark.slow
def test_it_trains(animals):
    model = make_model()
    model.compile("sgd", jit_compile=False)
    history = model.fit(class_pairs(animals, TEMPLATES).batch(6), verbose=0).history
    np.testing.assert_allclose(history["chance_loss"], np.log(6), rtol=1e-6)


def test_labelled_images_are_files_with_numbers(animals):
    images = labelled_images(animals)
    assert images.class_names == ["ant", "cat", "polar bear"] and len(images) == 12
    rows = list(images.as_numpy_iterator())
    assert [row["label"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    for row, path in zip(rows, sorted(animals.glob("*/*.png")), strict=True):
        assert row["name"].decode() == str(path) and row["image"] == path.read_bytes()
    parts = [labelled_images(animals, split, test_fraction=0.5) for split in ("train", "test")]
    names = [{row["name"] for row in part.as_numpy_iterator()} for part in parts]
    assert names[0] | names[1] == {row["name"] for row in rows} and all(names)
    assert not names[0] & names[1]


def test_a_label_is_the_same_class_in_every_split(animals, tmp_path_factory):
    path = tmp_path_factory.mktemp("divided")
    (path / "train").symlink_to(animals)
    for name in ("cat", "polar_bear"):
        (path / "test").mkdir(exist_ok=True)
        (path / "test" / name).symlink_to(animals / name)
    test = labelled_images(path, "test")
    assert test.class_names == ["ant", "cat", "polar bear"]
    assert {int(row["label"]) for row in test} == {1, 2}
    with pytest.raises(ValueError, match="divided into test, train. Choose one with `split`"):
        labelled_images(path)
    with pytest.raises(ValueError, match="`test_fraction`.*not those of splits"):
        labelled_images(path, "test", test_fraction=0.5)


def test_what_labelled_images_cannot_read_is_named(animals):
    with pytest.raises(ValueError, match="is not divided.*`test_fraction`.*'test' and 0"):
        labelled_images(animals, "test")
    with pytest.raises(ValueError, match="no picture in 'test'|No picture of"):
        labelled_images(animals, "test", test_fraction=1e-9)
    with pytest.raises(ValueError, match="two or more folders"):
        labelled_images(animals / "cat")
    with pytest.raises(ValueError, match="no pair among 12 files.*labelled_images.*class_pairs"):
        image_text_pairs(animals)

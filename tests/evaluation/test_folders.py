"""Pictures in a folder for each class."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_lit import evaluation
from keras_lit.data.class_folders import class_folders
from keras_lit.evaluation import dataset_of_folder
from tests.small import make_model


@functools.cache
def png():
    return tf.io.encode_png(np.full([6, 6, 3], 200, "uint8")).numpy()


def write(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(png() if file.lower().endswith("g") else b"a caption\n")
    return folder


@pytest.mark.slow
def test_labels_are_the_folders_in_the_order_of_their_names(tmp_path):
    write(tmp_path, "sea_lion/b.png", "sea_lion/young/a.JPG", "SeaLake/1.png", "Zebra/c.jpeg")
    write(tmp_path, "Zebra/.hidden.png", ".thumbnails/x.png", "__MACOSX/Zebra/c.png", "README.txt")
    dataset = dataset_of_folder(tmp_path)
    assert dataset.class_names() == ["Sea Lake", "Zebra", "sea lion"]
    rows = list(dataset.load().as_numpy_iterator())
    found = [(row["name"].decode().removeprefix(f"{tmp_path}/"), row["label"]) for row in rows]
    wanted = [("SeaLake/1.png", 0), ("Zebra/c.jpeg", 1)]
    assert found == [*wanted, ("sea_lion/b.png", 2), ("sea_lion/young/a.JPG", 2)]
    assert all(row["image"] == png() and row["label"].dtype == np.int64 for row in rows)
    result = evaluation.classify(make_model(), dataset.load(), dataset.class_names())
    assert result.count == 4 and result.settings["classes"] == 3


def test_splits_are_folders_too(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "train/dog/c.png")
    write(tmp_path, "val/cat/d.png", "val/dog/e.png")
    dataset = dataset_of_folder(tmp_path)
    assert (dataset.split, dataset.validation, dataset.train) == (
        "validation",
        "validation",
        "train",
    )
    assert len(list(dataset.load())) == 2 and len(list(dataset.load("train"))) == 3
    assert dataset_of_folder(tmp_path, "train").split == "train"
    with pytest.raises(ValueError, match="test split of class folders. It has: validation, train"):
        dataset_of_folder(tmp_path, "test")
    write(tmp_path, "train/bird/f.png")
    with pytest.raises(
        ValueError, match=r"train should have the classes.*\['cat', 'dog'\].*'bird'"
    ):
        dataset.load("train")
    # A class that has no pictures in one split competes there all the same.
    dataset = dataset_of_folder(tmp_path)
    assert dataset.class_names() == ["bird", "cat", "dog"]
    assert [int(row["label"]) for row in dataset.load()] == [1, 2]
    assert [int(row["label"]) for row in dataset.load("train")] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "files",
    [
        ["a/1.png", "a/2.png"],  # One folder.
        ["a/1.png", "b/1.png", "b/1.txt"],  # Captions beside pictures,
        ["a/1.png", "b/1.png", "captions.csv"],  # in a table,
        ["a/1.png", "b/1.png", "tables/captions.tsv"],  # wherever it is.
        ["a/1.png", "b/1.png", "2.png"],
        ["train/1.png", "train/1.txt", "test/1.png", "test/1.txt"],
        ["a/1.txt", "b/1.txt"],
    ],
)
def test_other_folders_are_no_classes(files, tmp_path):
    assert dataset_of_folder(write(tmp_path, *files)) is None
    assert dataset_of_folder(tmp_path, "test") is None


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.gz", "x.tfrecords-00000-of-00002", "X.PARQUET"])
def test_shards_in_whatever_packing_are_no_classes(name, tmp_path):
    write(tmp_path, "cat/a.png", "dog/b.png", f"dog/{name}")
    assert not class_folders(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png", "c/notes.md")
    with pytest.raises(ValueError, match="/c should hold pictures of its class"):
        dataset_of_folder(tmp_path)
    write(tmp_path, "c/1.tiff")
    with pytest.raises(ValueError, match=r"c/1.tiff: images of this kind are not read, but .jpg"):
        dataset_of_folder(tmp_path)


def test_a_folder_that_links_to_itself(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    found = {name: [x.name for x in files] for name, files in class_folders(tmp_path).items()}
    assert found == {"a": ["1.png"], "b": ["2.png"], "c": ["2.png"]}


def test_identifiers_of_wordnet_are_imagenets_names(tmp_path):
    write(tmp_path, "n03028079/1.png", "n01440764/1.png")  # As in Imagenette.
    assert dataset_of_folder(tmp_path).class_names() == ["tench", "church"]
    write(tmp_path, "n00000001/1.png")
    with pytest.raises(ValueError, match="1000 of ImageNet. Received: n00000001"):
        dataset_of_folder(tmp_path)

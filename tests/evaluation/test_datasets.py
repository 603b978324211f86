import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit.evaluation import datasets, labels
from keras_lit.preprocessing import decoding

# The mock data of TensorFlow Datasets cannot make their lists of objects.
OBJECTS = {"clevr_count_all", "clevr_closest_object_distance", "kitti_closest_vehicle_distance"}
CLASSES = {"imagenet": {1000, 200}, "clevr_count_all": {8}, "clevr_closest_object_distance": {6}}
CLASSES |= {"kitti_closest_vehicle_distance": {4}, "dsprites_label_x_position": {16}}
CLASSES |= {"dsprites_label_orientation": {16}}


def test_groups():
    assert len(datasets.names("natural")) == 7
    assert len(datasets.names("specialised")) == 4
    assert len(datasets.names("structured")) == 8
    assert {"imagenet2012", "imagenet_v2", "imagenet_a", "imagenet_r"} < set(datasets.names())


@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"coco_captions"}))
def test_class_names_are_as_many_as_the_classes(name):
    dataset = datasets.get(name)
    names = dataset.class_names()
    expected = CLASSES.get(name) or CLASSES.get(dataset.group)
    if expected is None:
        feature = tfds.builder(dataset.builder).info.features[dataset.label]
        expected = {feature.num_classes}
    assert len(names) in expected and len(set(names)) > 0.99 * len(names)
    assert not any("_" in name for name in names)
    assert len(dataset.classes() or names) == len(names)


@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"coco_captions"} - OBJECTS))
def test_reads_mock_data(name):
    dataset = datasets.get(name)
    for split in (None, "train", "validation"):
        if split and getattr(dataset, split) is None:
            continue
        with tfds.testing.mock_data(num_examples=2):
            rows = list(dataset.load(split).as_numpy_iterator())
        assert len(rows) == 2
        for row in rows:
            assert set(row) == {"image", "label"} and row["label"].dtype == np.int64
            shape = (labels.MOST_LABELS,) if dataset.several_labels else ()
            assert row["label"].shape == shape
            if dataset.decode is None:
                assert decoding.decode_image(row["image"]).shape[-1] == 3
            else:
                assert row["image"].dtype == np.uint8


@pytest.mark.parametrize("name", sorted(datasets.names()))
def test_parts_for_training_validation_and_test_do_not_overlap(name):
    dataset = datasets.get(name)
    info = {
        part: tfds.core.SplitInfo(name=part, shard_lengths=[100_000], num_bytes=0)
        for part in ("train", "validation", "test")
    }
    used = set()
    for part in filter(None, (dataset.train, dataset.validation, dataset.split)):
        (rows,) = tfds.core.ReadInstruction.from_spec(part).to_absolute(info)
        rows = {(rows.splitname, i) for i in range(rows.from_ or 0, rows.to or 100_000, 1000)}
        assert not used & rows
        used |= rows
    if dataset.validation and dataset.train.startswith("train["):
        assert {i for part, i in used if part == "train"} == set(range(0, 100_000, 1000))


def test_data_that_is_missing_says_so(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="cifar100 is not in .*download=True.*tfds build cifar100"
    ):
        datasets.get("cifar100").load(data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="by hand from image-net.org.*tfds build imagenet2012"
    ):
        datasets.get("imagenet2012").load(data_dir=tmp_path)
    with pytest.raises(ValueError, match="imagenet_v2 has no train split"):
        datasets.get("imagenet_v2").load("train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="`name` should be one of 'imagenet2012'"):
        datasets.get("objectnet")


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Six grey pictures in two classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dark_grey", "light_grey"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            pixels = np.full([4, 4, 3], 40 * i, "uint8")
            yield i, {"image": pixels, "label": i // 3}


def test_a_real_builder(tmp_path, monkeypatch):
    Tiny(data_dir=tmp_path).download_and_prepare()
    monkeypatch.setattr(
        tfds, "builder", lambda name, data_dir=None: Tiny(data_dir=data_dir or tmp_path)
    )
    dataset = datasets.Dataset("tiny", "natural", validation="train[50%:]")
    assert dataset.class_names() == ["dark grey", "light grey"]
    rows = list(dataset.load(data_dir=tmp_path).as_numpy_iterator())
    greys = [int(decoding.decode_image(row["image"])[0, 0, 0]) for row in rows]
    assert sorted(greys) == [0, 40, 80, 120, 160, 200]
    assert [row["label"] for row in rows] == [grey // 120 for grey in greys]
    assert len(list(dataset.load("validation", data_dir=tmp_path))) == 3
    assert len(list(dataset.load("train[:1]", data_dir=tmp_path))) == 1
    with pytest.raises(ValueError, match="'image' of tiny has no class names. Pass `names`"):
        datasets.Dataset("tiny", "natural", label="image").class_names()


class Learns(Tiny):
    """It knows its class names when it is prepared, as TFDS's CIFAR-100 does."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        self.info.features["label"].names = ["/p/polar_bear", "/s/sea/outdoor"]
        return super()._split_generators(dl_manager)


class Numbers(Learns):
    """It never learns them."""

    def _split_generators(self, dl_manager):
        return Tiny._split_generators(self, dl_manager)


def test_class_names_that_are_learned_by_preparing(tmp_path, monkeypatch):
    makers = {"learns": Learns, "numbers": Numbers}
    monkeypatch.setattr(
        tfds, "builder", lambda name, data_dir=None: makers[name](data_dir=data_dir)
    )
    dataset = datasets.Dataset("learns", "natural")
    with pytest.raises(
        FileNotFoundError, match=r"no class names before it is prepared.*tfds build"
    ):
        dataset.class_names(tmp_path / "elsewhere")
    for download in (True, False):  # The first time, and when the data are there.
        names = dataset.class_names(tmp_path, download)
        assert names == ["polar bear", "sea outdoor"]
    with pytest.warns(UserWarning, match="class names of numbers are the numbers 0 to 1"):
        names = datasets.Dataset("numbers", "natural").class_names(tmp_path, download=True)
    assert names == ["0", "1"]


def test_names_that_are_paths_become_words():
    names = datasets.get("sun397").class_names()
    assert names[:2] == ["abbey", "airplane cabin"] and "church indoor" in names
    assert len(set(names)) == 397 and not any("/" in name or "_" in name for name in names)


def test_labels_that_are_made():
    assert labels.padded(tf.constant([5, 7], tf.int64)).numpy().tolist() == [5, 7] + [-1] * 14
    assert labels.padded(tf.range(20)).numpy().tolist() == list(range(16))
    # 40 orientations in 16 classes: 2.5 each.
    assert [int(labels.grouped(40, 16)(i)) for i in (0, 2, 3, 4, 5, 39)] == [0, 0, 1, 1, 2, 15]
    assert labels.clevr_count({"size": tf.zeros([3])}) == 0
    assert labels.clevr_count({"size": tf.zeros([10])}) == 7
    for nearest, label in ((7.9, 0), (8.2, 1), (8.7, 2), (9.2, 3), (9.9, 4), (12.0, 5)):
        pixels = tf.constant([[0.0, 0.0, 50.0], [1.0, 2.0, nearest]])
        assert labels.clevr_distance({"pixel_coords": pixels}) == label


@pytest.mark.parametrize(
    ("kinds", "depths", "label"),
    [
        ([0, 3], [30.0, 1.0], 2),  # 3 is a pedestrian, who does not count.
        ([2, 1], [7.5, 15.0], 0),
        ([1], [15.0], 1),
        ([4, 5], [3.0, 4.0], 3),
        ([], [], 3),
    ],
)
def test_nearest_vehicle(kinds, depths, label):
    location = tf.stack(
        [tf.zeros(len(depths)), tf.zeros(len(depths)), tf.constant(depths, tf.float32)], 1
    )
    objects = {"type": tf.constant(kinds, tf.int64), "location": location}
    assert labels.kitti_distance(objects) == label


def test_masks_become_visible():
    png = tf.io.encode_png(tf.constant([[[0], [1]]], tf.uint8))
    assert decoding.decode_mask(png).numpy().ravel().tolist() == [0, 255]

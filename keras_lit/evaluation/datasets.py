"""The datasets of the paper's tables over TensorFlow Datasets, each a small record."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tensorflow as tf

from keras_lit import checks
from keras_lit.evaluation import labels, prompts
from keras_lit.preprocessing import decoding

__all__ = ["DATASETS", "Dataset", "get", "names"]

Row = dict[str, Any]
Group = Literal["imagenet", "natural", "specialised", "structured", "retrieval"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """How a dataset is evaluated.

    Args:
        builder: its name in TensorFlow Datasets, with config.
        group: "imagenet", VTAB's "natural", "specialised", "structured", "retrieval", or yours.
        split: what is evaluated, VTAB's test split where the dataset belongs to it.
        validation: the split on which prompts and preprocessing are selected.
        train: the split that few-shot probes draw from.
        label: the feature that holds the label.
        make_label: a function that makes the label of that feature, or None.
        names: the class names: a list, the name of one of `prompts.class_names` (with "imagenet_a"
            and "imagenet_r" the labels are ImageNet's), or None for the dataset's own, as words.
        templates: names of sets of `prompts.templates`, the usual one first.
        preprocessing: options of `ImagePreprocessor` that differ from the tower's own.
        several_labels: whether any of several labels is right (ReaL).
        decode: a function from the encoded to the wanted image, or None.
        manual: how to get a dataset that does not download by itself.

    Example:

    >>> dataset = keras_lit.evaluation.datasets.Dataset("my_dataset", "mine", names=["cat", "dog"])
    >>> dataset.class_names()
    ['cat', 'dog']
    """

    builder: str
    group: str
    split: str = "test"
    validation: str | None = None
    train: str | None = None
    label: str = "label"
    make_label: Callable[[Any], tf.Tensor] | None = None
    names: str | Sequence[str] | None = None
    templates: tuple[str, ...] = ("clip_80", "clip_best_7", "photo", "name")
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    several_labels: bool = False
    decode: Callable[[tf.Tensor], tf.Tensor] | None = None
    manual: str = ""

    def class_names(
        self, data_dir: str | os.PathLike | None = None, download: bool = False
    ) -> list[str]:
        """The class names, in the order of the labels (of `classes`).

        A dataset's own names become words: "abbey" of "/a/abbey", "polar bear" of "polar_bear",
        ImageNet's names of WordNet's identifiers.

        Args:
            data_dir: where TensorFlow Datasets keeps its data. Some datasets (CIFAR-10, STL-10,
                Stanford Dogs...) learn their class names when they are prepared.
            download: bool, whether to download and prepare the dataset if need be.

        Returns:
            A list of str.

        Raises:
            FileNotFoundError: the names are learned with the data, which are not on the disk.

        Example:

        >>> keras_lit.evaluation.datasets.get("imagenet2012").class_names()[:2]
        ['tench', 'goldfish']
        """
        if isinstance(self.names, str):
            return prompts.class_names(self.names)
        if self.names is not None:
            return list(self.names)
        builder = self._builder(data_dir, download)
        names = getattr(builder.info.features[self.label], "names", None)
        if names is None:
            raise ValueError(
                f"The feature {self.label!r} of {self.builder} has no class names. Pass `names` to "
                "`Dataset`, one for each label."
            )
        if names == [str(i) for i in range(len(names))]:
            if not builder.data_path.exists():
                raise FileNotFoundError(
                    f"{self.builder} has no class names before it is prepared, and it is not in "
                    f"{builder.data_path.parent}. {self._remedy()}"
                )
            warnings.warn(
                f"The class names of {self.builder} are the numbers 0 to {len(names) - 1}, for "
                "TensorFlow Datasets knows no others. If they stand for something else, pass "
                "`names` to `Dataset`.",
                stacklevel=2,
            )
        return prompts.as_words(names)

    def classes(self) -> list[int] | None:
        """The labels that the class names stand for; None where these are 0, 1, 2...

        Returns:
            A list of int, or None.

        Example:

        >>> len(keras_lit.evaluation.datasets.get("imagenet_a").classes())
        200
        """
        of_imagenet = self.names in ("imagenet_a", "imagenet_r")
        return prompts.imagenet_subset(str(self.names)) if of_imagenet else None

    def load(
        self,
        split: str | None = None,
        data_dir: str | os.PathLike | None = None,
        download: bool = False,
    ) -> tf.data.Dataset:
        """Reads the images and labels.

        Args:
            split: None for `split`; "train" and "validation" mean the attributes of these names,
                anything else is a split of the dataset itself.
            data_dir: where TensorFlow Datasets keeps its data.
            download: bool, whether to download and prepare the dataset if need be.

        Returns:
            A tf.data.Dataset of {"image": scalar string (encoded) or uint8 pixels, "label":
            scalar int64, or [16] padded with -1}, in the same order each time.

        Raises:
            FileNotFoundError: the dataset is not on the disk; the message says how to get it.
            ValueError: it has no such split.

        Example: `keras_lit.evaluation.datasets.get("oxford_iiit_pet").load(download=True)`.
        """
        import tensorflow_datasets as tfds

        own = {None: self.split, "train": self.train, "validation": self.validation}
        wanted = own.get(split, split)
        if wanted is None:
            raise ValueError(f"{self.builder} has no {split} split here.")
        builder = self._builder(data_dir, download)
        decoders = tfds.decode.PartialDecoding(
            {"image": True, self.label: True}, decoders={"image": tfds.decode.SkipDecoding()}
        )
        try:
            rows = builder.as_dataset(split=wanted, decoders=decoders, shuffle_files=False)
        except AssertionError as error:  # What TensorFlow Datasets raises for data that is missing.
            raise FileNotFoundError(
                f"{self.builder} is not in {builder.data_path.parent}. {self._remedy()}"
            ) from error
        return rows.map(self._row, tf.data.AUTOTUNE)

    def _builder(self, data_dir: str | os.PathLike | None, download: bool) -> Any:
        from keras_lit.data import builders  # Imported lazily: takes a second.

        builder = builders.builder(self.builder, data_dir)
        if download:
            builder.download_and_prepare()
        return builder

    def _remedy(self) -> str:
        how = self.manual or "Pass `download=True`, or run"
        return f"{how} `tfds build {self.builder}`."

    def _row(self, example: Row) -> Row:
        image, label = example["image"], example[self.label]
        label = self.make_label(label) if self.make_label else label
        image = self.decode(image) if self.decode else image
        return {"image": image, "label": tf.cast(label, tf.int64)}


def get(name: str) -> Dataset:
    """The record of a dataset.

    Args:
        name: one of `names()`.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: an unknown name. (ObjectNet, which the paper reports too, is not in TensorFlow
            Datasets and may only be evaluated on: read its folders with `tf.data`, name its 113
            classes that ImageNet shares, and pass both to `zero_shot_accuracy`.)

    Example:

    >>> keras_lit.evaluation.datasets.get("imagenet_a").preprocessing
    {'resize': 'crop', 'crop_fraction': 0.75}
    """
    checks.check_one_of(name, DATASETS, "name")
    return DATASETS[name]


def names(group: Group | None = None) -> list[str]:
    """The names of all datasets, or of those of a group.

    Args:
        group: "imagenet", "natural", "specialised" or "structured"; None for all.

    Returns:
        A list of str.

    Example:

    >>> keras_lit.evaluation.datasets.names("imagenet")[0]
    'imagenet2012'
    """
    return [name for name, dataset in DATASETS.items() if group in (None, dataset.group)]


_BY_HAND = "Download its archives by hand from {} into `manual_dir`, then run"
_IMAGENET: Row = {"names": "imagenet2012"}
_IMAGENET_BY_HAND = _IMAGENET | {"split": "validation", "manual": _BY_HAND.format("image-net.org")}
_TRAIN_90: Row = {"train": "train[:90%]", "validation": "train[90%:]"}
_TRAIN_80: Row = {"train": "train[:80%]", "validation": "train[80%:]"}
_THREE: Row = {"train": "train", "validation": "validation"}
_60_20_20: Row = {"train": "train[:60%]", "validation": "train[60%:80%]", "split": "train[80%:]"}
_80_10_10: Row = {"train": "train[:80%]", "validation": "train[80%:90%]", "split": "train[90%:]"}
_HALF_TEST: Row = {"train": "train", "validation": "test[:50%]", "split": "test[50%:]"}
_NORB: Row = {**_HALF_TEST, "builder": "smallnorb"}
_CLEVR: Row = {**_TRAIN_90, "builder": "clevr", "split": "validation", "label": "objects"}
_DSPRITES: Row = {**_80_10_10, "builder": "dsprites", "decode": decoding.decode_mask}

# Splits and labels of VTAB as in google-research/task_adaptation; groups as in the VTAB paper.
_GROUPS: dict[Group, dict[str, Row]] = {
    "imagenet": {
        "imagenet2012": {**_IMAGENET_BY_HAND, "train": "train[:65000]"},
        "imagenet_v2": _IMAGENET,
        "imagenet_a": {"preprocessing": {"resize": "crop", "crop_fraction": 0.75}},
        "imagenet_r": {},
        "imagenet2012_real": {
            **_IMAGENET_BY_HAND,
            "label": "real_label",
            "make_label": labels.padded,
            "several_labels": True,
        },
    },
    "natural": {
        "caltech101": _TRAIN_90,
        "cifar100": _TRAIN_90,
        "dtd": _THREE,
        "oxford_flowers102": _THREE,
        "oxford_iiit_pet": _TRAIN_80,
        "sun397": {**_THREE, "builder": "sun397/tfds"},
        "svhn_cropped": _TRAIN_90,
    },
    "specialised": {
        "eurosat": {**_60_20_20, "builder": "eurosat/rgb"},
        "resisc45": {**_60_20_20, "manual": _BY_HAND.format("its authors")},
        "patch_camelyon": _THREE,
        "diabetic_retinopathy": {
            **_THREE,
            "builder": "diabetic_retinopathy_detection/btgraham-300",
            "manual": _BY_HAND.format("Kaggle"),
        },
    },
    "structured": {
        "clevr_count_all": {**_CLEVR, "make_label": labels.clevr_count},
        "clevr_closest_object_distance": {**_CLEVR, "make_label": labels.clevr_distance},
        "dmlab": _THREE,
        "dsprites_label_x_position": {
            **_DSPRITES,
            "make_label": labels.grouped(32, 16),
            "names": [f"{100 * (i + 0.5) / 16:.0f}" for i in range(16)],
        },
        "dsprites_label_orientation": {
            **_DSPRITES,
            "make_label": labels.grouped(40, 16),
            "names": [f"{360 * i / 16:.0f} degrees" for i in range(16)],
        },
        "kitti_closest_vehicle_distance": {
            **_THREE,
            "builder": "kitti",
            "label": "objects",
            "make_label": labels.kitti_distance,
        },
        "smallnorb_label_azimuth": {**_NORB, "names": [f"{20 * i} degrees" for i in range(18)]},
        "smallnorb_label_elevation": {
            **_NORB,
            "names": [f"{30 + 5 * i} degrees" for i in range(9)],
        },
    },
    "retrieval": {"coco_captions": {}},
}


def _record(group: str, name: str, settings: Row) -> Dataset:
    """Its builder, and class names in `prompts`, have its name; own prompts come first in VTAB."""
    own = () if group in ("imagenet", "retrieval") else (name,)
    defaults: Row = {"builder": name, "templates": (*own, *Dataset.templates)}
    defaults["names"] = name if name in prompts.class_name_sets() else None
    # The label of "smallnorb_label_azimuth" is the feature "label_azimuth".
    defaults["label"] = name[name.find("label_") :] if "_label_" in name else "label"
    return Dataset(group=group, **{**defaults, **settings})


DATASETS: dict[str, Dataset] = {
    name: _record(group, name, settings)
    for group, rows in _GROUPS.items()
    for name, settings in rows.items()
}
"""The paper's datasets: {name: `Dataset`}; `get` looks one up."""

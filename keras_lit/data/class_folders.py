"""Pictures in a folder for each class, as most people keep labelled pictures."""

import os
import pathlib
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_lit import checks
from keras_lit.data.captions import draw
from keras_lit.data.shards import IS_SHARD
from keras_lit.data.table_formats import TABLE_SUFFIXES
from keras_lit.data.tables import CAPTION_FILES, split_number, walk
from keras_lit.preprocessing.formats import NOT_READ, SUFFIXES

# Suffixes of caption files, beside a picture or for a folder.
_CAPTIONS = (*CAPTION_FILES, ".json")
_SPLITS = {
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid", "dev"),
    "train": ("train", "training"),
}


def class_pairs(
    path: str | os.PathLike,
    templates: Sequence[str] = ("a photo of a {}.",),
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    shuffle: bool = True,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Pairs of labelled pictures, in a folder for each class, with captions from templates.

    Their "group" is the class, so that `LiT.fit` takes all pairs of a class for positives of each
    other, whichever template was drawn.

    Args:
        path: a folder with two or more folders of pictures, without captions beside them; or with
            such folders in "train", "val" and "test".
        templates: captions with "{}" for the name of the class, one of which is drawn for each
            picture in each epoch; for example `keras_lit.evaluation.prompts.templates()`.
        class_names: the names of the classes in the order of their folders' names. None: these, as
            words: "polar bear" of "polar_bear".
        split: "train", "validation" or "test". None: "train" where there are such folders.
        shuffle: bool, whether to shuffle the files in each epoch: they lie class by class.
        seed: int, of the order and of the templates.

    Returns:
        A tf.data.Dataset of {"image": scalar string (an encoded image), "text": scalar string,
        "group": scalar int64 (the number of the class), "name": scalar string (the file)}.

    Raises:
        ValueError: `path` is no such folder, a class without pictures, pictures of a kind that is
            not read, no such split or two of it, a template without "{}", another number of names,
            or none where the folders are called by WordNet's identifiers.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> for name in ("cat", "polar_bear"):
    ...     tf.io.gfile.makedirs(f"{folder}/{name}")
    ...     keras.utils.save_img(f"{folder}/{name}/1.png", np.zeros([8, 8, 3]))
    >>> pairs = keras_lit.data.class_pairs(folder, ["a photo of a {}.", "a drawing of a {}."])
    >>> sorted(int(pair["group"]) for pair in pairs)
    [0, 1]
    """
    without = [template for template in templates if "{}" not in template]
    if without or not templates:
        raise ValueError(
            '`templates` should be one or more captions with "{}" for the name of the class. '
            f"Received: {without or templates}."
        )
    folders = split_folders(path)
    classes = _classes_of(path, split or ("" if "" in folders else "train"), folders)
    if class_names is None and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        raise ValueError(
            f"The folders of {path} are called by WordNet's identifiers ({next(iter(classes))}), "
            "which are no words for captions. Pass `class_names`, for example "
            "`keras_lit.evaluation.dataset_of_folder(path).class_names()`."
        )
    warn_of_numbers(list(classes), class_names)
    names = [*map(in_words, classes)] if class_names is None else class_names
    if len(names) != len(classes):
        raise ValueError(
            f"`class_names` should name {len(classes)} classes, those of {list(classes)}. "
            f"Received: {len(names)}."
        )
    texts = tf.constant([[x.replace("{}", name) for x in templates] for name in names])
    rows = _rows(classes, "group")
    pairs = rows.shuffle(len(rows), seed=seed) if shuffle else rows
    pairs = draw(pairs.map(lambda pair: {**pair, "text": texts[pair["group"]]}), seed=seed)
    return pairs.map(_read, tf.data.AUTOTUNE)


def labelled_images(
    path: str | os.PathLike, split: str | None = None, test_fraction: float = 0.0
) -> tf.data.Dataset:
    """Labelled pictures, in a folder for each class: to evaluate on, and to take few shots of.

    The class is the first folder below `path` (or below its "train", "test"...), and the labels
    follow the order of these folders' names, as in `keras.utils.image_dataset_from_directory` and
    in TensorFlow Datasets' `ImageFolder`; the classes are those of all splits.

    Args:
        path: a folder with two or more folders of pictures, without captions beside them; or with
            such folders in "train", "val" and "test".
        split: "train", "validation" or "test". None: all of what is not divided.
        test_fraction: float in 0..1, the part of the pictures of undivided folders that is "test";
            a hash of the path below `path` decides, as in `image_text_pairs`.

    Returns:
        A tf.data.Dataset of {"image": scalar string (an encoded image), "label": scalar int64,
        "name": scalar string (the file)}, class by class, not batched. Its `.class_names` is a list
        of str, the folders' names as words: "polar bear" of "polar_bear", "Laysan Albatross" of
        "001.Laysan_Albatross". (Datasets that are made of it, by `map` or `batch`, have none.)

    Raises:
        ValueError: `path` is no such folder, several splits and none chosen, no such split or two
            of it, other folders beside those of splits, a class without pictures, pictures of a
            kind that is not read.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> for name in ("cat", "polar_bear"):
    ...     tf.io.gfile.makedirs(f"{folder}/{name}")
    ...     keras.utils.save_img(f"{folder}/{name}/1.png", np.zeros([8, 8, 3]))
    >>> images = keras_lit.data.labelled_images(folder)
    >>> images.class_names, [int(row["label"]) for row in images]
    (['cat', 'polar bear'], [0, 1])
    """
    folders = split_folders(path)
    if split is None and len(folders) > 1:
        raise ValueError(
            f"{path} is divided into {', '.join(sorted(folders))}. Choose one with `split`, for "
            f"example split={next(iter(folders))!r}."
        )
    if "" in folders and bool(split) != bool(test_fraction):
        raise ValueError(
            f"{path} is not divided into {', '.join(_SPLITS)}: pass `split` and `test_fraction`, "
            f"which divides it, or neither. Received: {split!r} and {test_fraction}."
        )
    if not 0 <= test_fraction <= 1 or (test_fraction and "" not in folders):
        raise ValueError(
            "`test_fraction` should be in 0..1, and divide folders of classes, not those of "
            f"splits. Received: {test_fraction} for {_listed(path)}."
        )
    chosen = "" if "" in folders else split or next(iter(folders))
    classes = _classes_of(path, chosen, folders)
    if test_fraction:
        checks.check_one_of(split, ("train", "test"), "split")
        for name, files in classes.items():
            is_test = [split_number(str(x), path) < test_fraction for x in files]
            classes[name] = [
                x for x, y in zip(files, is_test, strict=True) if y == (split == "test")
            ]
        if not any(classes.values()):
            raise ValueError(
                f"No picture of {path} is in {split!r} at `test_fraction`={test_fraction}."
            )
    # Those of all splits, so that a label is the same class in each.
    names = sorted({x.name for folder in folders.values() for x in _folders(folder)})
    classes = {name: classes.get(name, []) for name in names}
    images: Any = read_labelled(classes)
    images.class_names = [*map(in_words, classes)]  # As Keras' readers have it.
    return images


def _classes_of(
    path: str | os.PathLike, split: str, folders: dict[str, pathlib.Path]
) -> dict[str, list[pathlib.Path]]:
    """The `class_folders` of a split, "" for undivided ones; raises ValueError without any."""
    classes = class_folders(folders[split]) if split in folders else {}
    if not classes:
        raise ValueError(
            f"{path} should hold {f'{split!r} with ' if split else ''}two or more folders of "
            f"pictures, one for each class, without captions. Received: {_listed(path)}. Read "
            "pictures with captions by `image_text_pairs`."
        )
    return classes


def _rows(classes: dict[str, list[pathlib.Path]], label: str) -> tf.data.Dataset:
    """{"name": a file, `label`: the number of its class}, class by class."""
    rows = [(os.fsencode(file), i) for i, x in enumerate(classes.values()) for file in x]
    names, numbers = (list(column) for column in zip(*rows, strict=True))
    return tf.data.Dataset.from_tensor_slices(
        {"name": names, label: tf.constant(numbers, tf.int64)}
    )


def _read(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"image": tf.io.read_file(row["name"]), **row}


def read_labelled(classes: dict[str, list[pathlib.Path]]) -> tf.data.Dataset:
    """{"image", "label", "name"} of `class_folders`."""
    return _rows(classes, "label").map(_read, tf.data.AUTOTUNE)


def in_words(name: str) -> str:
    """A class name of a file or folder as one would say it.

    >>> [in_words(name) for name in ("polar_bear", "001.Laysan_Albatross", "SeaLake")]
    ['polar bear', 'Laysan Albatross', 'Sea Lake']
    """
    name = unicodedata.normalize("NFC", name)  # macOS makes letters of their own of accents.
    name = re.sub(r"^(/\w/|n\d{8}[-_ ]|\d+\.(?!\d))(?=.)", "", name)
    if re.fullmatch(r"([A-Z][a-z]{2,}){2,}", name):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_/]", " ", name).rstrip("?").split())


def warn_of_numbers(folders: Sequence[str], class_names: Sequence[str] | None) -> None:
    """Says what goes wrong easily with folders that are called 1, 2, ... 10."""
    if not all(name.isdecimal() for name in folders):
        return
    order = f"{', '.join(folders[:4])}{', ...' if len(folders) > 4 else ''}"
    if class_names is None:
        message = (
            f"The names of the classes are those of their folders, the numbers {order}. If they "
            "stand for something else, pass `class_names`, or give the folders names in words."
        )
    elif list(folders) != sorted(folders, key=int):
        message = (
            f"The folders are in the order of their names as text, {order}: so should "
            '`class_names` be. Call them "01", "02" and so on for the order of numbers.'
        )
    else:
        return
    warnings.warn(message, stacklevel=3)


def _listed(path: str | os.PathLike) -> str:
    there = sorted(os.listdir(path)) if os.path.isdir(path) else []
    return ", ".join(there[:5]) + (" and others" if len(there) > 5 else "") or "nothing"


def split_folders(path: str | os.PathLike) -> dict[str, pathlib.Path]:
    """{"test", "validation", "train": folder} of what there is; {"": path} of undivided data.

    Raises ValueError where a split is there twice, or where others stand beside those of splits.
    """
    folders = _folders(pathlib.Path(path))
    splits: dict[str, list[pathlib.Path]] = {}
    others: list[pathlib.Path] = []
    for folder in folders:
        split = next((x for x, names in _SPLITS.items() if folder.name.lower() in names), None)
        (others if split is None else splits.setdefault(split, [])).append(folder)
    if not splits or others:
        # "train" may be a class among others, but hardly "test" too.
        if len(splits) > 1 and all(class_folders(x) for named in splits.values() for x in named):
            raise ValueError(
                f"{path} is divided into {', '.join(splits)}: there should be no other folders "
                f"beside these. Received: {', '.join(x.name for x in others)}. Take them away."
            )
        return {"": pathlib.Path(path)}
    for split, named in splits.items():
        if len(named) > 1:
            raise ValueError(
                f"{path} should have one folder for {split!r}. Received: "
                f"{', '.join(x.name for x in named)}. Join them, or take the others away."
            )
    return {split: splits[split][0] for split in _SPLITS if split in splits}


def class_folders(path: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """{name of a class: its pictures, at any depth}, by name; {} where `path` is something else.

    The folders of classes are two or more; no picture lies outside of them or has a caption beside
    it, and there is no table of captions.
    """
    path = pathlib.Path(path)
    if not path.is_dir() or any(_is_picture(x) or _is_table(x) for x in path.iterdir()):
        return {}
    found = {folder.name: _files(folder) for folder in _folders(path)}
    pictures = {name: [x for x in files if _is_picture(x)] for name, files in found.items()}
    if sum(map(bool, pictures.values())) < 2:
        return {}
    for name, files in found.items():
        captions = {x.with_suffix("") for x in files if x.suffix.lower() in _CAPTIONS}
        if any(map(_is_table, files)) or any(x.with_suffix("") in captions for x in pictures[name]):
            return {}
    for name, files in found.items():
        for file in files:
            if file.name.lower().endswith(NOT_READ):
                raise ValueError(
                    f"{file}: images of this kind are not read, but {', '.join(SUFFIXES)}. Convert "
                    "it, or remove it."
                )
        if not pictures[name]:
            raise ValueError(
                f"{path / name} should hold pictures of its class, as the folders beside it do. "
                "Received none. Remove it, or put pictures there."
            )
    return pictures


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name; hidden ones and macOS' own left out."""
    if not path.is_dir():
        return []
    found = [x for x in path.iterdir() if x.is_dir() and not x.name.startswith((".", "__"))]
    return sorted(found, key=lambda x: x.name)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder at any depth, by path; hidden ones left out, links followed once."""
    return sorted(where / name for where, names in walk(folder) for name in names)


def pictures_below(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The pictures of a folder at any depth, by path, and those of kinds that are not read.

    Hidden ones are left out, links followed once.
    """
    files = _files(folder)
    others = [file for file in files if file.name.lower().endswith(NOT_READ)]
    return [file for file in files if _is_picture(file)], others


def _is_picture(file: pathlib.Path) -> bool:
    return file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def _is_table(file: pathlib.Path) -> bool:
    name = file.name.lower()
    return name.endswith((*TABLE_SUFFIXES, ".parquet")) or bool(re.search(f"{IS_SHARD}$", name))

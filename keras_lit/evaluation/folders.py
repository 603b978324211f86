"""A user's class folders, as a dataset that is evaluated like the paper's."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from keras_lit.data import class_folders
from keras_lit.evaluation import prompts
from keras_lit.evaluation.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class _Folder(Dataset):
    """Pictures in a folder for each class; `builder` is where they are."""

    folders: tuple[str, ...] = ()  # Those of the classes, in the order of `names`.

    def load(
        self,
        split: str | None = None,
        data_dir: str | os.PathLike | None = None,
        download: bool = False,
    ) -> tf.data.Dataset:
        wanted = split or self.split
        folder = class_folders.split_folders(self.builder).get(wanted)
        if folder is None:
            raise ValueError(f"{self.builder} has no {wanted} split.")
        classes = class_folders.class_folders(folder)
        others = sorted(set(classes) - set(self.folders))
        if others:
            raise ValueError(
                f"{folder} should have the classes {list(self.folders)}. Received others: "
                f"{others}. Call `dataset_of_folder` again."
            )
        classes = {name: classes.get(name, []) for name in self.folders}
        return class_folders.read_labelled(classes)


def dataset_of_folder(path: str | os.PathLike, split: str | None = None) -> Dataset | None:
    """The record of one's own pictures, in a folder for each class.

    Args:
        path: a folder with two or more folders of pictures, without captions beside them; or with
            such folders in "test", "val" and "train". The classes are those of all splits, called
            as the folders in words (of WordNet's identifiers ImageNet's names).
        split: what is evaluated: "test", "validation" or "train"; None for the first of these that
            is there.

    Returns:
        A `Dataset`, or None where `path` is no such folder.

    Raises:
        ValueError: no such split, a class without pictures, or pictures of a kind that is not read.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> for name in ("cat", "polar_bear"):
    ...     tf.io.gfile.makedirs(f"{folder}/{name}")
    ...     keras.utils.save_img(f"{folder}/{name}/1.png", np.zeros([8, 8, 3]))
    >>> keras_lit.evaluation.dataset_of_folder(folder).class_names()
    ['cat', 'polar bear']
    """
    folders = class_folders.split_folders(path)
    found = {name: class_folders.class_folders(folder) for name, folder in folders.items()}
    if not any(found.values()):
        return None
    wanted = next(iter(folders)) if split is None else split
    if not found.get(wanted):
        has = ", ".join(name for name in found if name and found[name]) or "no splits"
        raise ValueError(f"{path} should have a {wanted} split of class folders. It has: {has}.")
    # A class without a picture in one split competes there, too.
    names = sorted({name for classes in found.values() for name in classes})
    class_folders.warn_of_numbers(names, None)
    others: dict[str, Any] = {name: name for name in ("validation", "train") if found.get(name)}
    words = prompts.as_words(names)
    return _Folder(str(path), "folder", wanted, names=words, folders=tuple(names), **others)

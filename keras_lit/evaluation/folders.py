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
        if prompts.as_words(list(classes)) != self.names:
            raise ValueError(
                f"{folder} should have the classes of the {self.split} split, {self.names}. "
                f"Received: {list(classes)}."
            )
        return class_folders.read_labelled(classes)


def dataset_of_folder(path: str | os.PathLike, split: str | None = None) -> Dataset | None:
    """The record of one's own pictures, in a folder for each class.

    Args:
        path: a folder with two or more folders of pictures, without captions beside them; or with
            such folders in "test", "val" and "train". The folders' names are the classes', as
            words (of WordNet's identifiers ImageNet's names).
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
    class_folders.warn_of_numbers(list(found[wanted]), None)
    others: dict[str, Any] = {name: name for name in ("validation", "train") if found.get(name)}
    return _Folder(
        str(path), "folder", wanted, names=prompts.as_words(list(found[wanted])), **others
    )

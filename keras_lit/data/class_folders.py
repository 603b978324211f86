"""Pictures in a folder for each class, as most people keep labelled pictures."""

import mimetypes
import os
import pathlib
import re

from keras_lit.data.shards import IS_SHARD
from keras_lit.data.table_formats import TABLE_SUFFIXES
from keras_lit.data.tables import CAPTION_FILES
from keras_lit.preprocessing.formats import SUFFIXES

# What tells the captions of pictures, beside a picture or for a folder.
_CAPTIONS = (*CAPTION_FILES, ".json")
_SPLITS = {
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid", "dev"),
    "train": ("train", "training"),
}


def split_folders(path: str | os.PathLike) -> dict[str, pathlib.Path]:
    """{"test", "validation", "train": folder} of what there is; {"": path} of undivided data."""
    folders = {folder.name.lower(): folder for folder in _folders(pathlib.Path(path))}
    if not folders or folders.keys() - {name for names in _SPLITS.values() for name in names}:
        return {"": pathlib.Path(path)}
    return {
        split: folders[name]
        for split, names in _SPLITS.items()
        for name in names
        if name in folders
    }


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
            kind = mimetypes.guess_type(file.name)[0] or ""
            if kind.startswith("image/") and not _is_picture(file):
                raise ValueError(
                    f"{file}: images of this kind are not read, but {', '.join(SUFFIXES)}. Convert "
                    "it, or take it away."
                )
        if not pictures[name]:
            raise ValueError(
                f"{path / name} should hold pictures of its class, as the folders beside it do. "
                "Received none. Take it away, or put pictures there."
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
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [x for x in folders if not x.startswith((".", "__"))]
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [pathlib.Path(where, x) for x in names if not x.startswith(".")]
    return sorted(found)


def _is_picture(file: pathlib.Path) -> bool:
    return file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def _is_table(file: pathlib.Path) -> bool:
    name = file.name.lower()
    return name.endswith((*TABLE_SUFFIXES, ".parquet")) or bool(re.search(f"{IS_SHARD}$", name))

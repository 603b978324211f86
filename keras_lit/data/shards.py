"""Pairs from tar shards (webdataset, img2dataset) and TFRecords, as a stream of constant memory.

A tar holds files `key.jpg` and `key.txt` (or `key.json` with a "caption"), those of a key in a row,
as webdataset and img2dataset write them; a TFRecord holds `tf.train.Example`s. Of two images in a
record, or a .txt and a .caption, `image_key` or `text_key` chooses.
"""

import bz2
import glob
import gzip
import itertools
import lzma
import os
import pathlib
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_lit.data.captions import captions_of
from keras_lit.files import parse_json
from keras_lit.preprocessing.formats import SUFFIXES

__all__ = ["shard_files"]

# By the ends of their names; TensorFlow adds "-00000-of-00010".
_IS_TAR = r"\.(tar(\.(gz|bz2|xz))?|tgz)(-\d+-of-\d+)?"
IS_SHARD = rf"({_IS_TAR}|\.tfrecords?(-\d+-of-\d+)?)"
IMAGE_ENTRIES = (*(suffix[1:] for suffix in SUFFIXES), "image", "image/encoded")
TEXT_ENTRIES = ("txt", "text", "caption", "captions")
_PARALLEL = 4  # shards read at a time
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)


def shard_files(source: Any) -> list[str]:
    """The shards that a source names: a shard, a folder of them, a glob, or a list of these.

    Args:
        source: str, path or list of them.

    Returns:
        Paths, in order; empty for anything else.

    Example:

    >>> shard_files("no_such_folder/*.tar")
    []
    """
    return files_called(source, IS_SHARD)


def files_called(source: Any, ending: str) -> list[str]:
    """The files of a folder, a glob, braces or a list whose names end so (a regular expression)."""
    if isinstance(source, list | tuple):
        return [file for each in source for file in files_called(each, ending)]

    def fits(name: str) -> bool:
        name = os.path.basename(name)
        return re.search(f"{ending}$", name) is not None and not name.startswith(".")

    path = pathlib.Path(source)
    if path.is_dir():
        return [str(file) for file in sorted(path.iterdir()) if fits(file.name)]
    if path.is_file():  # Whatever signs are in its name.
        return [str(source)] if fits(str(source)) else []
    # As webdataset has them: "{000..009}", "{a,b}".
    if braces := re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", str(source)):
        first, last, words = braces.groups()
        numbers = range(int(first), int(last) + 1) if first else ()
        parts = words.split(",") if words else [f"{i:0{len(first)}}" for i in numbers]
        each = [str(source).replace(braces[0], part, 1) for part in parts]
        return files_called(each, ending)
    if set("*?[") & set(str(source)):
        find = tf.io.gfile.glob if "://" in str(source) else glob.glob  # Names in any encoding.
        return sorted(filter(fits, find(str(source))))
    return [str(source)] if fits(str(source)) else []


def read_shards(
    files: Sequence[str],
    image_key: str | None = None,
    text_key: str | None = None,
    group_key: str | None = None,
    skipped: set[str] | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    reader: Callable[[str], Iterator[tuple[str, dict[str, Any]]]] | None = None,
) -> tf.data.Dataset:
    """{"image", "text": [captions], "name"} of the records of shards, some shards at a time.

    The key of an image, a text or a "group" (there with `group_key` alone) is an extension, a
    feature or a key of the .json. To `skipped` go bad records (half a pair, text that is empty or
    not UTF-8) and shards that cannot be read to their end; without it the first of them comes as a
    record without captions, whose "name" is the error. (A TFRecord that was cut off between two
    records looks whole.)
    """

    def records(file: bytes) -> Iterator[dict[str, Any]]:
        path = os.fsdecode(file)
        by_name = tar_records if re.search(_IS_TAR + "$", path) else _example_records
        count = 0
        try:
            for key, entries in (reader or by_name)(path):
                count += 1
                try:
                    image, texts = _pair(entries, image_key, text_key)
                    row = {"image": image, "text": texts, "name": os.fsencode(f"{path}/{key}")}
                    if group_key:
                        row["group"] = as_group(_value(entries, group_key))
                except ValueError as error:
                    note_bad(f"{path}/{key}: {error}", skipped)
                    continue
                yield row
        except (*_UNREADABLE, tf.errors.OpError) as error:
            what = f"{type(error).__name__} {error}".split("\n")[0]
            what = re.sub(r"\{\{.*?\}\} ?| \[Op:\w+\] name: ", "", what)  # TensorFlow's own names.
            note_bad(f"{path}: cannot be read further after {count} records: {what}", skipped)

    def told(file: bytes) -> Iterator[dict[str, Any]]:
        # Raised, TensorFlow would bury the reason in a traceback.
        try:
            yield from records(file)
        except ValueError as error:
            yield {"image": b"", "text": [], "name": str(error), **no_group}

    string = tf.TensorSpec([], tf.string)
    signature = {"image": string, "text": tf.TensorSpec([None], tf.string), "name": string}
    no_group = {"group": ""} if group_key else {}
    signature |= dict.fromkeys(no_group, string)
    paths = tf.data.Dataset.from_tensor_slices(list(map(os.fsencode, files)))
    if shuffle:
        paths = paths.shuffle(len(files), seed=seed)
    return paths.interleave(
        lambda path: tf.data.Dataset.from_generator(told, args=(path,), output_signature=signature),
        cycle_length=min(_PARALLEL, len(files)),
    )


def tar_records(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: content}) of neighbouring files with the same key.

    Of a record with an extension twice nothing is there but its name, with "(there twice)"; of a
    link, whose file may stand anywhere, its name with "(a link)".
    """
    with open(path, "rb") as head:
        start = head.read(2)
    # Of several compressed parts, one behind the other, tarfile by itself reads the first.
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with (
        openers.get(start, open)(path, "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member, ignore_zeros=True) as tar,
    ):
        for key, files in itertools.groupby(_files(tar), lambda file: file[0]):
            entries: dict[str, bytes] = {}
            twice = ""
            for _, extension, file in files:
                twice = extension if extension in entries else twice
                entries[extension] = file.read() if file else b""
                if file is None:
                    entries[f"{extension} (a link: make the tar with --hard-dereference -h)"] = b""
            yield key, {f"{twice} (there twice)": b""} if twice else entries


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, str, IO[bytes] | None]]:
    """(key, extension, file or None for a link), to be read before the next; no hidden ones."""
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        is_link = member.issym() or member.islnk()
        if (member.isfile() or is_link) and not re.search(r"(^|/)\.[^./]", member.name):
            stem, _, extension = name.partition(".")
            if extension or not is_link:  # Without one it is rather the link to a folder.
                file = None if is_link else tar.extractfile(member)
                yield os.path.join(folder, stem), extension.lower(), file


class _Member(tarfile.TarInfo):
    """Ends a tar at the file's end behind an end mark: another tar may follow, joined by cat.

    tarfile would end it at the first mark, and at any damaged header.
    """

    @classmethod
    def fromtarfile(cls, tar: Any) -> "_Member":
        ended, tar.ended = getattr(tar, "ended", False), False
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            tar.ended = kind == "EOFHeaderError"
            if tar.ended or (ended and kind == "EmptyHeaderError"):
                raise
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}: {error}") from error


def _example_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with tf.io.gfile.GFile(path, "rb") as file:
        if file.read(3) == b"\x1f\x8b\x08":
            raise tf.errors.DataLossError(None, None, "it is compressed: unpack it by gzip -d")
    read = 0
    for number, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
        read += 16 + len(record)
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            features = {}
        entries = {name: list(value.bytes_list.value) for name, value in features.items()}
        key = entries.get("key") or entries.get("__key__")
        yield (key[0].decode("utf-8", "replace") if key else str(number)), entries
    # TensorFlow takes a few bytes after the last whole record for the end.
    if read != tf.io.gfile.stat(path).length:
        raise tf.errors.DataLossError(None, None, f"cut off at byte {read}")


def _pair(
    entries: dict[str, Any], image_key: str | None, text_key: str | None
) -> tuple[bytes, list[bytes]]:
    """The image and the captions, checked; ValueError says what is wrong."""
    text_keys = (text_key,) if text_key else TEXT_ENTRIES
    images = _first(entries, (image_key,) if image_key else IMAGE_ENTRIES)
    key = next((name for name in text_keys if entries.get(name)), "")
    texts = _first(entries, (key,))
    if not texts and "json" in entries:
        record = parse_json(entries["json"])
        texts = _first(record, text_keys) if isinstance(record, dict) else []
    for what, found in (("image", images), ("text", texts)):
        if not found:
            raise ValueError(f"no {what} among {', '.join(sorted(entries))}")
    for which, wanted, names in (
        ("image_key", image_key, IMAGE_ENTRIES),
        ("text_key", text_key, ("txt", "caption")),
    ):
        several = [name for name in names if entries.get(name)]
        if wanted is None and len(several) > 1:
            raise ValueError(f"both {' and '.join(several)}: choose one by `{which}`")
    if len(images) > 1:
        raise ValueError(f"{len(images)} images, where one is expected")
    captions = []
    for text in texts:
        try:
            text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise ValueError(f"the text is not UTF-8: {text[:40]!r}") from error
        if not isinstance(text, str):
            raise ValueError(f"the text is no string: {text!r}")
        if "\0" in text:
            raise ValueError(f"the text is not UTF-8, but perhaps UTF-16: {text[:40]!r}")
        if not text.strip():
            raise ValueError("the text is empty")
        # A .txt and a tar's .caption hold a caption a line, as in a folder.
        is_file = key == "txt" or (key == "caption" and isinstance(entries[key], bytes))
        found = captions_of(text) if is_file else [text.strip()]
        captions += [caption.encode() for caption in found]
    return images[0], captions


def _first(entries: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    for name in names:
        if value := entries.get(name):
            return value if isinstance(value, list) else [value]
    return []


def _value(entries: dict[str, Any], name: str) -> Any:
    """An entry, or a field of the .json, if it is there."""
    record = entries if name in entries or "json" not in entries else parse_json(entries["json"])
    found = record.get(name) if isinstance(record, dict) else None
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def as_group(value: Any) -> str:
    """The name of a group; ValueError if it has none."""
    name = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"expected a group, a string or an integer. Received: {value!r:.60}")
    return str(name).strip()


def note_bad(message: str, skipped: set[str] | None, error: type[Exception] = ValueError) -> None:
    """Raises the error, or adds its message to `skipped`."""
    if skipped is None:
        raise error(
            f"{shown(message)}. Mend it, or pass `skipped=set()` to leave such records out and "
            "count them."
        )
    skipped.add(shown(message))


def shown(message: str) -> str:
    """A message that can be printed, with file names in it that may not be UTF-8."""
    return os.fsencode(message).decode("utf-8", "replace")

"""TensorFlow Datasets: pairs of any of them, and CC12M and YFCC100M from files you downloaded.

Its import takes a second: not part of `import keras_lit`. Importing this registers keras_lit's own
datasets with it.
"""

import bz2
import contextlib
import importlib
import io
import itertools
import json
import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit.data.captions import is_utf8
from keras_lit.data.layouts import IMAGE_COLUMNS, TEXT_COLUMNS, column
from keras_lit.data.shards import IMAGE_ENTRIES, tar_records
from keras_lit.data.tables import NAME_COLUMNS
from keras_lit.data.yfcc import usable_title
from keras_lit.preprocessing.image import decodes

CC12M_ROWS_PER_SHARD = 10_000  # img2dataset's default
Found = tuple[str, dict[str, Any], bytes | None, str]  # name, texts, image, what is wrong

# By name rather than an import statement: the demo's room comes after this one.
TuxPaintStamps = importlib.import_module("keras_lit.demo.tux_paint").TuxPaintStamps
"""Tux Paint's stamps, as a tfds builder: see `keras_lit.demo.tux_paint.TuxPaintStamps`."""
importlib.import_module("keras_lit.demo.open_pictures")  # For its name, "open_pictures".


def builder(name: str, data_dir: Any = None) -> tfds.core.DatasetBuilder:
    """The builder of a dataset by name."""
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:  # Its own message lists all that there are.
        raise ValueError(f"There is no file, folder or dataset {name!r}.") from error


def is_name(source: str) -> bool:
    """Whether there is such a dataset; its configuration may follow a "/"."""
    return source.split("/")[0] in tfds.list_builders(with_community_datasets=False)


def pairs_of(
    builder: tfds.core.DatasetBuilder,
    split: Any,
    image_key: str | None,
    text_key: str | None,
    shard: tuple[int, int] | None,
    group_key: str | None = None,
) -> tf.data.Dataset:
    """{"image": encoded, "text": [captions] or [""], "name"} (and "group") of the rows."""
    builder.download_and_prepare()
    if shard is not None:
        split = tfds.even_splits(split, shard[1])[shard[0]]
    features = _flat(builder.info.features)
    image_key = column(features, image_key, IMAGE_COLUMNS, "image_key", builder.name)
    text_key = column(features, text_key, TEXT_COLUMNS, "text_key", builder.name)
    name_key = next((key for key in NAME_COLUMNS if key in features and key != image_key), None)
    if not isinstance(features[image_key], tfds.features.Image):
        raise ValueError(f"{builder.name}: {image_key!r} is no image. Pass `image_key`.")
    if group_key:
        column(features, group_key, (), "group_key", builder.name)
    dataset = builder.as_dataset(
        split=split, decoders={image_key: tfds.decode.SkipDecoding()}, shuffle_files=False
    )

    def pair(number: tf.Tensor, example: dict[str, Any]) -> dict[str, tf.Tensor]:
        name = tf.strings.as_string(_get(example, name_key) if name_key else number)
        if not name_key:
            name = f"{builder.name}/{split}/" + name
        texts = tf.reshape(_get(example, text_key), [-1])
        if texts.shape != [1]:  # An image without a caption is named where captions are checked.
            texts = tf.cond(tf.size(texts) > 0, lambda: texts, lambda: tf.constant([""]))
        found = {"image": example[image_key], "text": texts, "name": name}
        return {**found, "group": _get(example, group_key)} if group_key else found

    return dataset.enumerate().map(pair)


def _flat(features: Any, prefix: str = "") -> dict[str, Any]:
    """{"captions/text": feature, ...}; a list of features goes by the name of its content."""
    if isinstance(features, tfds.features.Sequence):
        return _flat(features.feature, prefix)
    if not isinstance(features, tfds.features.FeaturesDict):
        return {prefix: features}
    flat = {}
    for name, feature in features.items():
        flat.update(_flat(feature, f"{prefix}/{name}" if prefix else name))
    return flat


def _get(example: dict[str, Any], key: str) -> Any:
    for part in key.split("/") if key not in example else [key]:
        example = example[part]
    return example


class _ManualBuilder(  # type: ignore[call-arg]  # of tfds, which mypy does not read
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A folder of the user's; pairs that are left out are listed by name."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, manual_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._manual_dir = None if manual_dir is None else Path(manual_dir)
        super().__init__(**kwargs)

    @property
    def left_out(self) -> list[str]:
        """A line "name: what is wrong" for each pair that the prepared data lacks.

        Example: `keras_lit.data.CC12M(manual_dir="cc12m").left_out`.
        """
        files = sorted(Path(self.data_dir).glob("left_out-*.txt"))
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def _info_of(self, texts: dict[str, Any]) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "name": tfds.features.Text(), **texts}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
        )

    def _generate_examples(self) -> None:
        """Not called: each split has its own generator."""

    def _folder(self, dl_manager: tfds.download.DownloadManager) -> Path:
        folder = Path(dl_manager.manual_dir) if self._manual_dir is None else self._manual_dir
        if not folder.is_dir():
            raise FileNotFoundError(
                f"`manual_dir` should be a folder. Received: {str(folder)!r}, which does not "
                f"exist. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return folder

    def _examples(self, split: str, found: Iterable[Found]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The pairs that are whole; the others are written down beside the shards."""
        kept = left_out = 0
        with open(Path(self.data_dir) / f"left_out-{split}.txt", "w", encoding="utf-8") as file:
            for name, texts, image, wrong in found:
                if wrong:
                    pass
                elif not any(texts.values()):
                    wrong = "no text in UTF-8"
                elif image is None:
                    wrong = "no image file"
                elif not decodes(tf.constant(image)):
                    wrong = "the image does not decode"
                else:
                    kept += 1
                    yield name, {"image": image, "name": name, **texts}
                    continue
                left_out += 1
                file.write(f"{name}: {wrong}\n")
        print(f"{self.name}/{split}: {kept} pairs; {left_out} left out, named by `left_out`")


class CC12M(_ManualBuilder):
    """Conceptual 12M: web images and their alt-texts, as a tfds builder over your own files.

    Each example holds `image`, `caption` and `name` (nine digits: the row of cc12m.tsv). The split
    "minival" is the first 50,000 rows, as far as they could be downloaded, "train" the others.
    Images that are missing or do not decode and captions that are empty or not UTF-8 are left out,
    counted and named by `left_out`; so are images whose own caption (.txt or .json) differs from
    that of their row.

    Args:
        manual_dir: folder with cc12m.tsv (url, tab, caption; a line of titles does not count) and
            `images/`, what img2dataset makes of it with its default 10,000 rows a shard: 00000.tar,
            ... or folders 00000/000000000.jpg, ... None: tfds' own folder for manual downloads.
            What was prepared once stays: delete `builder.data_dir` to prepare again.
        **kwargs: arguments of every tfds builder: `data_dir`, ...

    Raises:
        FileNotFoundError: `manual_dir` or cc12m.tsv is missing.
        ValueError: no caption of a shard is its row's: another table numbered the images.

    Example:
        >>> builder = keras_lit.data.CC12M(manual_dir="cc12m")
        >>> pairs = keras_lit.data.image_text_pairs(builder, "train", shuffle_buffer=10_000)

    Reference: the LiT paper, Appendices D and E; Changpinyo et al. (arXiv 2102.08981).
    """

    name = "cc12m"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It should hold cc12m.tsv and images/, the shards that img2dataset makes of it."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self._info_of({"caption": tfds.features.Text()})

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = self._folder(dl_manager)
        rows = {"minival": (0, 50_000), "train": (50_000, None)}
        return {split: self._examples(split, _cc12m(folder, *part)) for split, part in rows.items()}


class YFCC100MCLIP(_ManualBuilder):
    """YFCC100M's subset of CLIP: Flickr photos with three texts each, over your own files.

    Each example holds `image`, `title` ("" where the paper's rule drops it, see
    `keras_lit.data.yfcc.usable_title`), `description` (raw), `tags` (a list) and `name` (the
    photo's identifier); `keras_lit.data.yfcc` makes texts to train on of them. Videos and what the
    subset does not list are no part of it. Photos that are missing or do not decode, and those
    with no text at all, are left out, counted and named by `left_out`.

    Args:
        manual_dir: folder with yfcc100m_dataset (.txt, .tsv or without ending; 25 columns that
            begin with line number, identifier, hash), yfcc100m_subset_data.tsv (CLIP's list), both
            also as .bz2, and `images/`: 012/345/012345...jpg by hash, as Multimedia Commons names
            them, or <identifier>.jpg. None: tfds' own folder for manual downloads. What was
            prepared once stays: delete `builder.data_dir` to prepare again.
        **kwargs: arguments of every tfds builder: `data_dir`, ...

    Raises:
        FileNotFoundError: `manual_dir` or one of the two tables is missing.

    Example:
        >>> builder = keras_lit.data.YFCC100MCLIP(manual_dir="yfcc100m")
        >>> builder.download_and_prepare()
        >>> encoded = {"image": tfds.decode.SkipDecoding()}
        >>> photos = builder.as_dataset(split="train", decoders=encoded)
        >>> pairs = keras_lit.data.yfcc.three_texts(photos)

    Reference: the LiT paper, section 4 and Appendix E; CLIP (arXiv 2103.00020), Appendix.
    """

    name = "yfcc100m_clip"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It should hold yfcc100m_dataset, yfcc100m_subset_data.tsv (of CLIP) and images/."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        tags = tfds.features.Sequence(text)
        return self._info_of({"title": text, "description": text, "tags": tags})

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._examples("train", _yfcc(self._folder(dl_manager)))}


def _open(folder: Path, stems: list[str]) -> TextIO:
    """The first of the files that exists, unpacked as it is read."""
    for name in (name for stem in stems for name in (stem, f"{stem}.bz2")):
        if (folder / name).is_file():
            binary: Any = (bz2.open if name.endswith(".bz2") else open)(folder / name, "rb")
            # A lone carriage return is part of a text, not the end of a row.
            return io.TextIOWrapper(binary, "utf-8", "surrogateescape", newline="\n")
    raise FileNotFoundError(f"There is no {stems[0]} in {str(folder)!r}, nor {stems[0]}.bz2.")


def _valid(text: str) -> str:
    """Without the blanks around it; "" if it is not UTF-8."""
    return text.strip() if is_utf8(text) else ""


def _unquote(text: str) -> str:
    """A text of YFCC100M's table, which is URL-encoded; "" if it is not UTF-8."""
    return _valid(urllib.parse.unquote_plus(text, errors="surrogateescape"))


def _read(*paths: Path) -> bytes | None:
    """The content of the first that is a file."""
    return next((path.read_bytes() for path in paths if path.is_file()), None)


def _cc12m(folder: Path, first: int, end: int | None) -> Iterator[Found]:
    """(name, {"caption"}, image) of the rows; of a tar in the order of its files."""
    images = folder / "images"
    with _open(folder, ["cc12m.tsv"]) as file:
        lines = itertools.filterfalse(lambda line: line.split("\t")[0] == "url", file)
        rows = itertools.islice(enumerate(lines), first, end)
        for shard, of_shard in itertools.groupby(rows, lambda row: row[0] // CC12M_ROWS_PER_SHARD):
            captions = {f"{row:09d}": _valid(line.partition("\t")[2]) for row, line in of_shard}
            yield from _checked(captions, images / f"{shard:05d}")


def _checked(captions: dict[str, str], shard: Path) -> Iterator[Found]:
    """The rows of a shard, whose images should have the captions of the table."""
    agree, another = False, ""
    for name, entries in itertools.chain(_of_tar(shard), _of_folder(shard, list(captions))):
        if name not in captions:
            continue
        caption, own = captions.pop(name), _caption(entries)
        wrong = ""
        if own and caption and _letters(own) != _letters(caption):
            wrong = f"the caption beside the image is {own[:60]!r}, in the table {caption[:60]!r}"
            another = another or f"{name}: {wrong}"
        agree |= bool(own and not wrong)
        image = next((entries[key] for key in IMAGE_ENTRIES if key in entries), None)
        yield name, {"caption": caption}, image, wrong
    if another and not agree:
        raise ValueError(
            f"{shard}: no caption is that of its row in cc12m.tsv; {another}. Pass the table that "
            f"img2dataset read, and its images with {CC12M_ROWS_PER_SHARD:,} rows a shard."
        )
    for name, caption in captions.items():
        yield name, {"caption": caption}, None, ""


def _of_tar(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name, {ending: content}); of a damaged tar what comes before the damage."""
    with contextlib.suppress(OSError, tarfile.TarError):  # There may be none.
        for name, entries in tar_records(f"{shard}.tar"):
            yield os.path.normpath(name), entries  # Some are called "./000000000.jpg".


def _of_folder(shard: Path, names: list[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    for name in names if shard.is_dir() else ():
        files = {ending: _read(shard / f"{name}.{ending}") for ending in ("jpg", "txt", "json")}
        if files["jpg"] is not None:
            yield name, {ending: x for ending, x in files.items() if x is not None}


def _caption(entries: dict[str, bytes]) -> str:
    """What img2dataset wrote beside an image, if anything."""
    if "txt" in entries:
        return entries["txt"].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(entries.get("json", b"")).get("caption") or "")
    return ""


def _letters(text: str) -> str:
    """Letters and digits: img2dataset takes quotes off, as of a field of a table."""
    return re.sub(r"[\W_]+", "", text)


def _yfcc(folder: Path) -> Iterator[Found]:
    """(identifier, {"title", "description", "tags"}, image) of the photos that CLIP listed."""
    with _open(folder, ["yfcc100m_subset_data.tsv"]) as file:
        listed = np.fromiter((int(line.split("\t")[0]) for line in file), np.int64)
    wanted = np.zeros(listed.max(initial=0) + 1, bool)
    wanted[listed] = True
    names = ["yfcc100m_dataset", "yfcc100m_dataset.txt", "yfcc100m_dataset.tsv"]
    with _open(folder, names) as file:
        for line in file:
            columns = line.rstrip("\r\n").split("\t")
            row = int(columns[0])
            if row >= len(wanted) or not wanted[row] or columns[-1] != "0":
                continue
            name, photo = columns[1:3]
            title, description = map(_unquote, columns[8:10])
            texts = {
                "title": title if usable_title(title) else "",
                "description": description,
                # A comma within a tag is encoded.
                "tags": [tag for tag in map(_unquote, columns[10].split(",")) if tag],
            }
            paths = (f"{photo[:3]}/{photo[3:6]}/{photo}.jpg", f"{name}.jpg")
            yield name, texts, _read(*(folder / "images" / path for path in paths)), ""

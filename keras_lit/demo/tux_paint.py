"""Tux Paint's stamps: about 950 real pictures with captions in up to 78 languages, with no hub."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit import files
from keras_lit.demo import drawing, packages

PACKAGE = "tuxpaint-stamps-default"
SYSTEM_STAMPS = Path("/usr/share/tuxpaint/stamps")
SVG_SIZE = 256
_FOLDERS = (
    "animals clothes food hobbies household medical military naturalforces people plants "
    "seasonal space sports symbols town vehicles"
)
CATEGORIES = tuple(_FOLDERS.split())


class TuxPaintStamps(tfds.core.GeneratorBasedBuilder):
    """Pictures and captions of Debian's package `tuxpaint-stamps-default`, as a tfds builder.

    Each example holds `image` (uint8 `[height, width, 4]`: the transparency is kept), `caption`
    (English), `captions` (`language` and `text` of every translation, "en" included), `category`
    (the top-level folder) and `path` (the file's relative path without its extension). The split
    depends on the path alone, so it is the same on every machine: about 20% are "test".

    Without `stamps_dir` the stamps come from `/usr/share/tuxpaint/stamps` where Tux Paint is
    installed; elsewhere `download_and_prepare` fetches the package (up to 160 MB) with
    `apt-get download`, which needs no root. SVG stamps need the extra `keras_lit[demo]`.

    Args:
        stamps_dir: folder that holds the stamps, for systems without apt-get. None: see above.
        **kwargs: arguments of every tfds builder: `data_dir`, `file_format`, ...

    Raises:
        ValueError: `data_dir` was prepared from another folder than `stamps_dir`.

    Example:
        >>> builder = keras_lit.data.TuxPaintStamps()
        >>> builder.download_and_prepare()
        >>> train = builder.as_dataset(split="train")

        Or by name, which `import keras_lit.data.builders` registers:

        >>> train = tfds.load("tux_paint_stamps", split="train",
        ...                   builder_kwargs={"stamps_dir": "/path/to/stamps"})
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, stamps_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._stamps_dir = None if stamps_dir is None else Path(stamps_dir).resolve()
        super().__init__(**kwargs)
        # tfds would silently return what an earlier run prepared from other stamps.
        prepared_from = (self.info.metadata or {}).get("stamps_dir")
        if self._stamps_dir is not None and prepared_from != str(self._stamps_dir):
            raise ValueError(
                f"{self.data_dir} was prepared from {prepared_from or PACKAGE}. Received: "
                f"stamps_dir={str(stamps_dir)!r}. Pass another `data_dir`, or leave out "
                "`stamps_dir` to read what is there."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(shape=(None, None, 4), encoding_format="png"),
            "caption": text,
            "captions": tfds.features.Sequence({"language": text, "text": text}),
            "category": tfds.features.ClassLabel(names=CATEGORIES),
            "path": text,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pictures and translated captions of the drawing program Tux Paint.",
            homepage="https://tuxpaint.org/stamps/",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "caption"),
            metadata=tfds.core.MetadataDict(
                stamps_dir=None if self._stamps_dir is None else str(self._stamps_dir)
            ),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        stamps_dir = self._stamps_dir or SYSTEM_STAMPS
        if self._stamps_dir is None and not stamps_dir.is_dir():
            remedy = f"Pass stamps_dir=<...>{SYSTEM_STAMPS}."
            [root] = packages.debian_packages([PACKAGE], Path(dl_manager.download_dir), remedy)
            stamps_dir = root / SYSTEM_STAMPS.relative_to("/")
        splits: dict[str, list[str]] = {"train": [], "test": []}
        for stamp in find_stamps(stamps_dir):
            # By a hash that stays the same over processes and machines.
            is_test = files.name_number(stamp.encode()) % 5 == 0
            splits["test" if is_test else "train"].append(stamp)
        return {
            split: self._generate_examples(stamps_dir, stamps) for split, stamps in splits.items()
        }

    def _generate_examples(
        self, stamps_dir: Path, stamps: list[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for stamp in stamps:
            captions = read_captions(stamps_dir / f"{stamp}.txt")
            example = {
                "image": _read_png(stamps_dir / stamp),
                "caption": captions["en"],
                "captions": [{"language": key, "text": text} for key, text in captions.items()],
                "category": stamp.split("/")[0],
                "path": stamp,
            }
            yield stamp, example


def find_stamps(stamps_dir: Path) -> list[str]:
    """Sorted relative paths, without extension, of the pictures that have an English caption."""
    stamps = [
        text.relative_to(stamps_dir).with_suffix("").as_posix()
        for text in sorted(stamps_dir.rglob("*.txt"))
        if (text.with_suffix(".png").is_file() or text.with_suffix(".svg").is_file())
        and "en" in read_captions(text)
    ]
    if not stamps:
        raise ValueError(
            f"`stamps_dir` should hold Tux Paint stamps (animals/birds/tucan.png with tucan.txt "
            f"beside it, ...). Received: {str(stamps_dir)!r}, which holds none. Pass the folder "
            f"usr/share/tuxpaint/stamps of the Debian package {PACKAGE}."
        )
    for stamp in stamps:
        if "/" not in stamp or stamp.split("/")[0] not in CATEGORIES:
            raise ValueError(
                f"Every stamp should lie in one of the folders {', '.join(CATEGORIES)}. "
                f"Received: {stamp!r} in {str(stamps_dir)!r}. Move or remove it."
            )
    return stamps


def read_captions(path: Path) -> dict[str, str]:
    """Captions by language, the first line's English first; empty without one.

    Other lines read `fr.utf8=Un toucan.`; the rest is ignored, as Tux Paint does.
    """
    try:
        english, *lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be UTF-8 text. Received: {error}.") from error
    if not english.strip():
        return {}
    captions = {"en": english.strip()}
    for line in lines:
        locale, _, caption = line.partition("=")
        if locale.strip().endswith(".utf8") and caption.strip():
            captions.setdefault(locale.strip().removesuffix(".utf8"), caption.strip())
    return captions


def _read_png(stamp: Path) -> bytes:
    """PNG bytes of a stamp given without extension; from its SVG only where it has no PNG."""
    # Not with_suffix: a name may hold a dot.
    png, svg = Path(f"{stamp}.png"), Path(f"{stamp}.svg")
    if not png.is_file():
        return drawing.render(svg, SVG_SIZE)
    content = png.read_bytes()
    try:
        tf.io.decode_png(content, channels=4)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"{png} should be a PNG picture, but it does not decode: {error.message} "
            "Repair or remove it."
        ) from error
    return content

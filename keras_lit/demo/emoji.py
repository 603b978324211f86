"""Emoji: their names in many languages, and the drawings of two styles.

An emoji is known by its code points without the variation selector U+FE0F, which says only that
a picture is meant: "❤" for "❤\\ufe0f".
"""

import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

SELECTOR = "\ufe0f"
SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
# A language counts with that many names; the others hold some corrections of a regional variety.
MIN_NAMES = 1_000
# Of a country by two letters, or of a part of one by a black flag with its code.
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0061-\U000e007a]")
_INHERITED = "↑↑↑"

Names = dict[str, dict[str, str]]  # emoji -> language -> name


def cldr_names(cldr: Path) -> tuple[Names, dict[str, list[str]]]:
    """Names in all languages and English keywords, of Unicode's Common Locale Data Repository.

    `cldr` is its folder "common". Skin tones are left out.
    """
    names: Names = {}
    keywords: dict[str, list[str]] = {}
    for path in sorted((cldr / "annotations").glob("*.xml")):
        language = path.stem
        of_language: dict[str, str] = {}
        for file in (path, cldr / "annotationsDerived" / path.name):
            for entry in ET.parse(file).iter("annotation") if file.is_file() else ():
                emoji, text = entry.get("cp", "").replace(SELECTOR, ""), (entry.text or "").strip()
                if SKIN_TONES.search(emoji) or text in ("", _INHERITED):
                    continue
                if entry.get("type") == "tts":
                    of_language[emoji] = text
                elif language == "en":
                    keywords[emoji] = [word.strip() for word in text.split("|")]
        if len(of_language) >= MIN_NAMES or language == "en":
            for emoji, name in of_language.items():
                names.setdefault(emoji, {})[language] = name
    return names, keywords


def package_names(folder: Path) -> Names:
    """Names in the languages of PyPI's package `emoji`, from its folder `unicode_codes`."""
    names: Names = {}
    for path in sorted(folder.glob("emoji*.json")):
        language = path.stem.partition("_")[2] or "en"
        for emoji, entry in json.loads(path.read_text(encoding="utf-8")).items():
            name = (entry["en"] if language == "en" else entry).strip(":").replace("_", " ")
            if language == "en" and _FLAG.match(emoji):
                name = f"flag: {name}"  # As CLDR has it; here it is the country alone.
            if not SKIN_TONES.search(emoji):
                names.setdefault(emoji.replace(SELECTOR, ""), {})[language] = name
    return names


def openmoji(folder: Path) -> Iterator[tuple[str, Path]]:
    """(emoji, SVG file) of OpenMoji's folder `svg`: 1F468-200D-1F680.svg is an astronaut."""
    for path in sorted(folder.glob("*.svg")):
        if re.fullmatch("[0-9A-F]{4,5}(-[0-9A-F]{4,5})*", path.stem):
            emoji = "".join(chr(int(code, 16)) for code in path.stem.split("-"))
            yield emoji.replace(SELECTOR, ""), path


def bitmaps(font: Path) -> Iterator[tuple[str, bytes]]:
    """(emoji, PNG bytes) of a font of bitmaps (tables CBDT and GSUB), as Noto Color Emoji is."""
    from fontTools.ttLib import TTFont

    with TTFont(io.BytesIO(font.read_bytes()), lazy=True) as opened:
        pictures = opened["CBDT"].strikeData[0]
        glyphs = {chr(code): glyph for code, glyph in opened.getBestCmap().items()}
        # Code points for private use name the glyphs of sequences, too.
        letters = {glyph: letter for letter, glyph in reversed(sorted(glyphs.items()))}
        # Sequences are ligatures of glyphs: man, joiner, rocket.
        for lookup in opened["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                table = getattr(table, "ExtSubTable", table)
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    for ligature in ligatures:
                        parts = [first, *ligature.Component]
                        if all(part in letters for part in parts):
                            glyphs["".join(letters[part] for part in parts)] = ligature.LigGlyph
        found = {emoji.replace(SELECTOR, ""): glyph for emoji, glyph in sorted(glyphs.items())}
        for emoji, glyph in found.items():
            if glyph in pictures:
                yield emoji, pictures[glyph].imageData

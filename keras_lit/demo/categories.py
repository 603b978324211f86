"""One set of categories for emoji, clip art and stamps."""

import re

# Of an emoji decides the first code point; it comes by Unicode's groups. The others are symbols.
_EMOJI = {
    "animals": "🐀-🐿🕊🕷🕸🦀-🦮🪰-🪳🪶🪸-🪺🪼🪽🪿🫍-🫏",
    "clothes": "⛑🎒🎓🎩👑-👢💄💍💎📿🕶🛍🥻-🥿🦺🧢-🧦🩰-🩴🪖",
    "electronics": "⌨☎🎞🎥🎬🏮💡💻💽-📀📞-📠📱📲📷-📺📼📽🔋-🔎🔦🕯🖥-🖲🧮🪫",
    "faces": "☠☹☺👹-👻👽-💀💩😀-🙄🙈-🙊🤐-🤗🤠-🤥🤧-🤯🥰-🥶🥸-🥺🧐🫠-🫥🫨-🫪",
    "flags": "🇦-🇿🎌🏁🏳🏴🚩",
    "food": "☕🌭-🌰🌶🌽🍄-🍿🎂🏺🔪🥂-🥄🥐-🥯🧀-🧋🫐-🫜",
    "holidays": "✨🎀🎁🎃🎄🎆-🎋🎍-🎑🎗🎟🎫🧧🧨🪅🪩",
    "music": "🎙-🎛🎤🎧🎵-🎼📢📣📯📻🔇-🔊🔔🔕🥁🪇-🪊🪕🪗🪘",
    "office": "✂✉✏✒🏷💰-💹💼📁-📚📜📝📤-📮📰🔖🖇-🖍🗂-🗓🗞🗳🧾",
    "people": "☝⛷⛹✊-✍🎅🏂-🏄🏇🏊-🏎👀-👐👣-👸👼💁-💃💅-💇💏💑💪🕴🕵🕺🖐-🖖🗣"
    "🙅-🙇🙋-🙏🚣🚴-🚶🛀🛌🤌🤏🤘-🤟🤦🤰-🤾🥷🦰-🦹🦻🦾🦿🧌-🧏🧑-🧠🩸🫀-🫈🫦🫰-🫸",
    "places": "♨⛩-⛰⛲⛺🌁🌃-🌇🌉🌋-🌐🎠-🎢🎪🏔-🏦🏨-🏭🏯🏰💈💒🕋-🕍🗺-🗾🛕🛖🛘🛝🧭🧱",
    "plants": "☘🌱-🌵🌷-🌼🌾-🍃🏵💐💮🥀🪴🪷🪻🪾",
    "sky": "☀-☄☔⚡⛄-⛈⛱❄⭐🌀🌂🌈🌊🌑-🌬💧🔥🪐",
    "sports": "♟-♦⚽⚾⛳⛸🀄🃏🎖🎣🎮-🎴🎽-🏀🏅🏆🏈🏉🏏-🏓🏸🔮🕹🛷🛼🤿🥅-🥏🧩🧸🧿🪀-🪃🪆",
    "tools": "⌚⌛⏰-⏳⚒⚔⚖-⚙⚰⚱⛏⛓🎨🎭🏹💉💊📡🔏-🔓🔗🔧-🔩🔫-🔭🕐-🕧🕰🖼🗜🗝🗡"
    "🗿🚪🚬🚽🚿🛁🛋🛎🛏🛒🛗🛟-🛡🦯🧪-🧬🧯🧰🧲-🧷🧹-🧽🩹-🩼🪄🪎🪏🪑-🪔🪙-🪨🪪🪬-🪮🪵",
    "vehicles": "⚓⛴⛵⛽✈💺🚀-🚢🚤-🚨🚲🛑🛞🛢-🛶🛸-🛻🦼🦽",
}
# Of a file decides the longest folder.
_FOLDERS = {
    "animals": "animals",
    "buildings": "places",
    "clothes": "clothes",
    "computer": "electronics",
    "containers": "tools",
    "decorations": "symbols",
    "education": "office",
    "electronics": "electronics",
    "food": "food",
    "geography": "places",
    "geography/astronomy": "sky",
    "hobbies": "sports",
    "hobbies/music": "music",
    "household": "tools",
    "household/arttools": "office",
    "household/electronics": "electronics",
    "medical": "tools",
    "military": "tools",
    "military/vehicles": "vehicles",
    "naturalforces": "sky",
    "office": "office",
    "people": "people",
    "people/clothing": "clothes",
    "people/smilies": "faces",
    "plants": "plants",
    "recreation": "sports",
    "recreation/holiday": "holidays",
    "recreation/music": "music",
    "recreation/party": "holidays",
    "recreation/religion": "symbols",
    "science": "tools",
    "science/astronomy": "sky",
    "seasonal": "holidays",
    "signs_and_symbols/clocks": "tools",
    "signs_and_symbols/flags": "flags",
    "signs_and_symbols/money": "office",
    "signs_and_symbols/weather": "sky",
    "space": "sky",
    "sports": "sports",
    "tools": "tools",
    "town": "places",
    "town/flags": "flags",
    "town/roadsigns": "symbols",
    "transportation": "vehicles",
    "transportation/roadsigns": "symbols",
    "vehicles": "vehicles",
}
CATEGORIES = (*_EMOJI, "symbols")
_PATTERNS = {category: re.compile(f"[{ranges}]") for category, ranges in _EMOJI.items()}


def of_emoji(emoji: str) -> str:
    """The category of an emoji: "animals" of "🐈"."""
    return next((name for name, found in _PATTERNS.items() if found.match(emoji)), "symbols")


def of_file(name: str) -> str:
    """The category of a file: "music" of "recreation/music/cello"."""
    while name:
        name = name.rpartition("/")[0]
        if name in _FOLDERS:
            return _FOLDERS[name]
    return "symbols"

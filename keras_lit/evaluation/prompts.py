"""Prompt templates and class names for zero-shot classification."""

import functools
import importlib.resources
import json
import re
import string
from collections.abc import Sequence
from typing import Any

from keras_lit import checks
from keras_lit.data.class_folders import in_words

__all__ = ["class_names", "templates"]

_IDENTIFIER = re.compile(r"n\d{8}")
_PLAIN = {"name": ["{}"], "photo": ["A photo of a {}"]}


def templates(name: str = "clip_80", canonical: bool = False) -> list[str]:
    """A set of prompt templates by name.

    Args:
        name: "clip_80" (all of CLIP's for ImageNet), "clip_best_7" (those that CLIP's authors
            chose among them), "name" (the class name alone), "photo" ("A photo of a CLASS"), or
            the name of a dataset that has its own, such as "cifar100"; the error for another name
            lists all. big_vision's "clip_paper" and "clip_best" are the first two and "name".
        canonical: bool, whether to lower-case them and remove punctuation, as big_vision does.

    Returns:
        A list of strings with one `{}`.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> keras_lit.evaluation.prompts.templates("clip_best_7")[:2]
    ['itap of a {}.', 'a bad photo of the {}.']

    Reference: the LiT paper, Appendix I.1 and I.2. Source: see `data/LICENCES.txt`.
    """
    sets = template_sets()
    checks.check_one_of(name, sets, "name")
    return [canonicalize(text, keep="{}") if canonical else text for text in sets[name]]


def template_sets() -> dict[str, list[str]]:
    """What `templates` knows."""
    return _PLAIN | _read("templates")["sets"]


def class_names(name: str = "imagenet2012", canonical: bool = False) -> list[str]:
    """Class names in the order of the labels.

    Args:
        name: "imagenet2012" (CLIP's names of ImageNet's classes, but "projectile missile" and
            "sunglass" for its second "missile" and first "sunglasses"), "imagenet_a", "imagenet_r"
            (200 of these), or another dataset whose own names are no words, such as "eurosat"; the
            error for another name lists all.
        canonical: bool, as for `templates`; commas, which separate aliases, stay.

    Returns:
        A list of strings.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> keras_lit.evaluation.prompts.class_names("imagenet2012")[:3]
    ['tench', 'goldfish', 'great white shark']
    """
    sets = class_name_sets()
    checks.check_one_of(name, sets, "name")
    return [canonicalize(text, keep=",") if canonical else text for text in sets[name]]


def class_name_sets() -> dict[str, list[str]]:
    """What `class_names` knows."""
    known = _read("class_names")
    imagenet = known["names"]["imagenet2012"]
    subsets = {name: [imagenet[i] for i in rows] for name, rows in known["subsets"].items()}
    return known["names"] | subsets


def imagenet_subset(name: str) -> list[int]:
    """The labels, among ImageNet's 1000, of the 200 classes of "imagenet_a" or "imagenet_r"."""
    subsets = _read("class_names")["subsets"]
    checks.check_one_of(name, subsets, "name")
    return list(subsets[name])


def canonicalize(text: str, keep: str = "") -> str:
    """Lower-cases, makes spaces of underscores, removes punctuation and double spaces.

    `keep` stays, "{}" for the slot of a template. As big_vision's `discriminative_classifier`.

    >>> canonicalize("A photo of a (big) {}!", keep="{}")
    'a photo of a big {}'
    """
    remove = str.maketrans("_", " ", string.punctuation.replace("_", ""))
    parts = text.split(keep) if keep else [text]
    return " ".join(keep.join(part.translate(remove) for part in parts).lower().split())


def as_words(names: Sequence[str]) -> list[str]:
    """Names of files or folders as words; WordNet's identifiers become ImageNet's names.

    >>> as_words(["/c/church/indoor", "n02085620-japanese_spaniel", "001.Laysan_Albatross"])
    ['church indoor', 'japanese spaniel', 'Laysan Albatross']
    >>> as_words(["SeaLake", "pink dahlia?"]), as_words(["n01440764"])
    (['Sea Lake', 'pink dahlia'], ['tench'])
    """
    if not all(_IDENTIFIER.fullmatch(name) for name in names):
        return [in_words(name) for name in names]
    from keras_lit.data import builders  # Imported lazily: takes a second.

    identifiers = builders.builder("imagenet2012").info.features["label"].names
    of_imagenet = dict(zip(identifiers, class_names("imagenet2012"), strict=True))
    unknown = [name for name in names if name not in of_imagenet]
    if unknown:
        raise ValueError(
            "Class names that are WordNet's identifiers should be among the 1000 of ImageNet. "
            f"Received: {', '.join(unknown[:5])}. Name the classes in words."
        )
    return [of_imagenet[name] for name in names]


@functools.cache
def _read(name: str) -> dict[str, Any]:
    path = importlib.resources.files("keras_lit.evaluation") / "data" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))

"""Prompt templates and class names for zero-shot classification."""

import functools
import importlib.resources
import json
import re
import string
from typing import Any

from keras_lit import checks

__all__ = [
    "canonicalize",
    "class_name_sets",
    "class_names",
    "imagenet_subset",
    "template_sets",
    "templates",
]

_PLAIN = {
    "name": ["{}"],
    "photo": ["A photo of a {}"],
}


def templates(name: str = "clip_80", canonical: bool = False) -> list[str]:
    """A set of prompt templates by name.

    Args:
        name: "clip_80" (all of CLIP's for ImageNet), "clip_best_7" (those that CLIP's authors
            chose among them), "name" (the class name alone), "photo" ("A photo of a CLASS"), or
            the name of a dataset that has its own, such as "cifar100". `template_sets` lists all.
            big_vision's "clip_paper" and "clip_best" are the first two and "name".
        canonical: bool, whether to apply `canonicalize`.

    Returns:
        A list of strings with one `{}`.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> keras_lit.evaluation.prompts.templates("clip_best_7")[:2]
    ['itap of a {}.', 'a bad photo of the {}.']

    Reference: the LiT paper, Appendix I.1 and I.2. Source: see `data/LICENCES.txt`.
    """
    checks.check_one_of(name, template_sets(), "name")
    found = list((_PLAIN | _read("templates")["sets"])[name])
    return [canonicalize(template, keep="{}") for template in found] if canonical else found


def template_sets() -> list[str]:
    """The names that `templates` knows.

    Returns:
        A list of str.

    Example:

    >>> "clip_80" in keras_lit.evaluation.prompts.template_sets()
    True
    """
    return [*_PLAIN, *_read("templates")["sets"]]


def class_names(name: str = "imagenet2012", canonical: bool = False) -> list[str]:
    """Class names in the order of the labels.

    Args:
        name: "imagenet2012" (CLIP's names of ImageNet's classes), "imagenet_a", "imagenet_r" (200
            of these), or another dataset whose own names are no words, such as "eurosat".
            `class_name_sets` lists all.
        canonical: bool, whether to apply `canonicalize` (commas, which separate aliases, stay).

    Returns:
        A list of strings.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> keras_lit.evaluation.prompts.class_names("imagenet2012")[:3]
    ['tench', 'goldfish', 'great white shark']
    """
    checks.check_one_of(name, class_name_sets(), "name")
    data = _read("class_names")
    if name in data["subsets"]:
        found = [data["names"]["imagenet2012"][label] for label in data["subsets"][name]]
    else:
        found = list(data["names"][name])
    return [canonicalize(text, keep=",") for text in found] if canonical else found


def class_name_sets() -> list[str]:
    """The names that `class_names` knows.

    Returns:
        A list of str.

    Example:

    >>> "imagenet2012" in keras_lit.evaluation.prompts.class_name_sets()
    True
    """
    data = _read("class_names")
    return [*data["names"], *data["subsets"]]


def imagenet_subset(name: str) -> list[int]:
    """The labels, among ImageNet's 1000, of the 200 classes of "imagenet_a" or "imagenet_r".

    Args:
        name: "imagenet_a" or "imagenet_r".

    Returns:
        A list of 200 ints.

    Raises:
        ValueError: another name.

    Example:

    >>> len(keras_lit.evaluation.prompts.imagenet_subset("imagenet_a"))
    200
    """
    subsets = _read("class_names")["subsets"]
    checks.check_one_of(name, subsets, "name")
    return list(subsets[name])


def canonicalize(text: str, keep: str = "") -> str:
    """Lower-cases, makes spaces of underscores, removes punctuation and double spaces.

    Args:
        text: a class name or template.
        keep: str, punctuation to leave as it is, "{}" for the slot of a template.

    Returns:
        The text as big_vision's `discriminative_classifier` has it by default.

    Example:

    >>> keras_lit.evaluation.prompts.canonicalize("A photo of a (big) {}!", keep="{}")
    'a photo of a big {}'
    """
    remove = str.maketrans("", "", string.punctuation)
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    text = keep.join(part.translate(remove) for part in parts).lower()
    return re.sub(r"\s+", " ", text).strip()


@functools.cache
def _read(name: str) -> dict[str, Any]:
    path = importlib.resources.files("keras_lit.evaluation") / "data" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))

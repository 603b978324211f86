"""Every public name is listed, and says what it takes, gives and raises."""

import pathlib
import re

import pytest

from tests import api

LIST = pathlib.Path(__file__).parent.parent / "docs" / "public_names.txt"


def test_the_list_is_what_is_public():
    """A name that comes, goes or changes what it takes shows in a commit."""
    assert api.listing() == LIST.read_text(), "python -m tests.api > docs/public_names.txt"


def test_every_public_name_is_documented():
    missing = {}
    for name, value in api.public():
        parts = re.sub(r"^keras_lit\.", "", name).split(".")
        is_method = len(parts) > 1 and parts[-2][:1].isupper()
        if found := api.sections_missing(value, is_method):
            missing[name] = found
    assert not missing


def undocumented(width: int) -> int:
    """Takes, gives and raises."""
    if width < 0:
        raise ValueError("negative")
    return width


class Undocumented:
    """Takes and raises."""

    def __init__(self, width):
        if width < 0:
            raise ValueError("negative")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (undocumented, ["Args", "Returns", "Raises", "Example"]),
        (Undocumented, ["Example", "Raises", "Args"]),
        (lambda: 0, ["a docstring"]),
    ],
)
def test_a_gap_is_found(value, expected):
    assert api.sections_missing(value, is_method=False) == expected

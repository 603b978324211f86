"""Every public name is listed, and says what it takes, gives and raises, with an example."""

import pathlib

import numpy as np
import pytest

from tests import api

LIST = pathlib.Path(__file__).parent.parent / "docs" / "public_names.txt"


def test_the_list_is_what_is_public():
    """A name that comes, goes or changes what it takes shows in a commit."""
    assert api.listing() == LIST.read_text(), "python -m tests.api > docs/public_names.txt"


def test_every_public_name_is_documented():
    found = {name: api.sections_missing(value) for name, value in api.public()}
    assert not {name: missing for name, missing in found.items() if missing}


def undocumented(width: int) -> np.ndarray:
    """Takes, gives and raises."""
    if width < 0:
        raise ValueError("negative")
    return np.zeros(width)


def documented(width: int) -> np.ndarray:
    """Takes and gives.

    Args:
        width: int.

    Returns:
        [width] float array.

    Example: `documented(3)`.
    """
    return np.zeros(width)


class Undocumented:
    """Takes and raises."""

    def __init__(self, width):
        if width < 0:
            raise ValueError("negative")

    @property
    def width(self):
        """No example."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (undocumented, ["Args", "Returns", "Raises", "shapes", "an example"]),
        (Undocumented, ["Args", "Raises", "an example"]),
        (Undocumented.width, ["an example"]),
        (documented, []),
        (lambda: 0, ["a docstring"]),
    ],
)
def test_a_gap_is_found(value, expected):
    assert api.sections_missing(value) == expected

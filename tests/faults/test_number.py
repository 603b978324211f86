"""How many faults CI injects."""

from tests.faults.faults import NUMBERS
from tests.faults.test_kills import KILLS


def test_numbers():
    assert sum(NUMBERS.values()) >= 200
    assert sum(KILLS.values()) + 2 >= 30  # with those of tests/export/test_publishing.py

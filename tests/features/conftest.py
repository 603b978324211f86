"""What several tests of features read."""

import pytest

from tests.small import precompute


@pytest.fixture(scope="package")
def whole(tmp_path_factory):
    """The directory of an uninterrupted run; only read."""
    directory = tmp_path_factory.mktemp("whole")
    precompute(directory)
    return directory

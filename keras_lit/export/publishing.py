"""Versions in a directory that a server polls: complete when they appear, whole until they go."""

import functools
import os
import pathlib
import tempfile
from collections.abc import Callable

from keras_lit import checks

_HIGHEST = 2**63 - 1  # TF Serving passes over a folder with a higher number.
# Servers look at folders with integer names only. A process that is killed leaves its `tmp-...`
# behind, which anyone may delete.
_working_folder = functools.partial(
    tempfile.TemporaryDirectory, prefix="tmp-", ignore_cleanup_errors=True
)


def publish(
    directory: str | os.PathLike, version: int | None, write: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """Has `write` make `directory/<version>/` under another name, renames it, returns its path.

    A `version` of None is the one after the highest, also when others publish at the same time.
    Not `files.whole_folder`, for the name is known only when all is written.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if version is not None:
        checks.check_count(version, "version")
        if version > _HIGHEST:
            raise ValueError(
                f"`version` should be at most {_HIGHEST}, or no server takes it. Received: "
                f"{version}."
            )
        _check_free(directory, version)
    with _working_folder(dir=directory) as working:
        unnamed = pathlib.Path(working, "version")
        write(unnamed)
        while True:
            path = directory / str(max(versions(directory), default=0) + 1)
            if version is not None:
                path = directory / str(int(version))
                _check_free(directory, version)
            try:
                return unnamed.rename(path)
            except OSError:  # Another process took the name meanwhile.
                if not path.exists():
                    raise


def prune(directory: str | os.PathLike, keep: int = 2) -> list[int]:
    """Deletes all but the newest versions, each at once for a server that polls.

    Args:
        directory: where the versions live.
        keep: int, how many of the newest to keep. A server may still be loading the newest but
            one when a new version appears, so 2 is safe.

    Returns:
        The versions that are gone, in order.

    Raises:
        ValueError: `keep` is not positive.

    Example:

    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> for version in "1 2 10".split():
    ...     (directory / version).mkdir()
    >>> prune(directory)
    [1]
    """
    checks.check_positive(keep, "keep")
    directory = pathlib.Path(directory)
    gone = versions(directory)[: -int(keep)]
    for version in gone:
        with _working_folder(dir=directory) as working:
            (directory / str(version)).rename(pathlib.Path(working, "version"))
    return gone


def versions(directory: pathlib.Path) -> list[int]:
    """The numbers of the versions in a directory, in order."""
    found = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    return sorted(x for x in found if x <= _HIGHEST)


def _check_free(directory: pathlib.Path, version: int) -> None:
    if int(version) in versions(directory):
        raise ValueError(
            f"`version` should be a number that {directory} does not hold yet. Received: "
            f"{version}. Pass None for the next free one."
        )

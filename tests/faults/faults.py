"""Faults at random (seeded) moments: this process dies, its disk is full, its files are damaged.

A fault is aimed at the n-th operation on files below a directory (what Python's audit events
tell: opened for writing, renamed, made, removed) or at a `point` that a test has marked.
"""

import contextlib
import errno
import os
import pathlib
import resource
import sys

import tensorflow as tf

# How many faults each test injects.
NUMBERS = {
    "precompute killed": 40,
    "precompute starved": 15,
    "unfinished features damaged": 25,
    "features damaged": 40,
    "training killed": 25,
    "training starved": 10,
    "checkpoint damaged": 25,
    "publishing killed": 40,
    "publishing starved": 10,
    "pruning killed": 12,
    "export starved": 4,
    "preparing killed": 12,
    "preparing starved": 4,
    "tars damaged": 15,
    "TFRecords damaged": 20,
    "saved files killed": 12,
}


class Killed(BaseException):
    """Stands for kill -9: from then on the process can do nothing on its disk."""


class Fault:
    """Counts operations below `directory`; raises `error(path)` at number `at` and ever after."""

    def __init__(self, directory, at, error):
        self.directory, self.at, self.error = str(directory), at, error
        self.count, self.happened = 0, False

    def point(self, path=None, takes_room=False):
        """A process may die anywhere; a full disk is noticed by what takes room."""
        self.count += 1
        if self.count == self.at:
            self.happened = True
        if self.happened and (takes_room or self.error is Killed):
            raise self.error(path)

    def see(self, event, args):
        if event == "open":
            _, mode, flags = args
            writes = any(c in (mode or "") for c in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
            if not writes:
                return
        elif event not in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            return
        paths = args[:2] if event == "os.rename" else args[:1]
        # `rmtree` names files by the descriptor of their directory.
        by_descriptor = event in ("os.remove", "os.rmdir") and args[-1] != -1
        if by_descriptor or any(self.directory in str(path) for path in paths):
            self.point(paths[0], takes_room=event not in ("os.remove", "os.rmdir"))


_active = None


def _hook(event, args):
    if _active is not None:
        _active.see(event, args)


sys.addaudithook(_hook)


@contextlib.contextmanager
def _armed(fault):
    global _active
    _active = fault
    try:
        yield fault
    finally:
        _active = None


def count(directory, run):
    """How many operations a whole run takes."""
    with _armed(Fault(directory, 0, Killed)) as fault:
        run(fault)
    return fault.count


def killed(directory, at, run):
    """Runs until operation `at`; whether it came so far. Each run is another process."""
    with _armed(Fault(directory, at, Killed)) as fault, _other_process():
        try:
            run(fault)
        except Killed:
            assert fault.happened
    return fault.happened


def full(directory, at, run):
    """Runs with a disk that is full from operation `at` on; the OSError, or None if all went."""

    def error(path):
        return OSError(errno.ENOSPC, "No space left on device", str(path))

    with _armed(Fault(directory, at, error)) as fault:
        try:
            run(fault)
        except OSError as found:
            assert fault.happened
            return found
    return None


def limited(size, run):
    """Runs with a file system that takes files of `size` bytes; the error, or None."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        run()
    except (OSError, tf.errors.OpError) as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return None


@contextlib.contextmanager
def _other_process():
    """Names of working files hold the number of the process, which a new one does not share."""
    getpid = os.getpid
    _other_process.number = getattr(_other_process, "number", 10**7) + 1
    os.getpid = lambda: _other_process.number
    try:
        yield
    finally:
        os.getpid = getpid


def damage(directory, chance, pattern="*", kinds=("flip", "cut", "zero", "delete")):
    """Damages one file below a directory; says which and how."""
    paths = sorted(p for p in pathlib.Path(directory).rglob(pattern) if p.is_file())
    path = chance.choice([p for p in paths if p.stat().st_size])
    kind, content = chance.choice(kinds), bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "zero":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    path.write_bytes(content)
    if kind == "delete":
        path.unlink()
    return f"{kind} {path.relative_to(directory)} at {place}"

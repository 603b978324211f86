"""Reads `.npz` files of weights as data: no pickle, nothing that is larger than it may be."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Weights hardly compress; a file that claims to unpack to more than this is not weights.
LARGEST_RATIO = 16
FREE_BYTES = 2**24
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """What an array's header says."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int  # Of the header itself, in bytes.


class Archive:
    """The arrays of an `.npz` file: shapes at once, numbers one array at a time.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or not an `.npz`; an array is not of floats (a pickled
            object, say), is shorter or longer than its header says, or unpacks to far more bytes
            than the file has. The message names the file and the array.

    Example:

    >>> path = tempfile.mkdtemp() + "/weights.npz"
    >>> np.savez(path, kernel=np.ones([2, 3], "float32"))
    >>> archive = Archive(path)
    >>> archive.shapes
    {'kernel': (2, 3)}
    >>> archive.read("kernel").sum()
    np.float32(6.0)
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"There is no checkpoint {self.path}.")
        with self._refusing("the file"):
            self._file = zipfile.ZipFile(self.path)
            infos = self._file.infolist()
            self._members = {info.filename.removesuffix(".npy"): info for info in infos}
            if len(self._members) != len(infos):
                raise ValueError("an array is in it twice")
            self._check_total()
        self._headers = {name: self._header(name) for name in self._members}
        self.shapes = {name: header.shape for name, header in self._headers.items()}

    def read(self, name: str) -> np.ndarray:
        """The array `name`.

        Raises:
            ValueError: its bytes are corrupt, or it holds NaN or infinity.
        """
        header = self._headers[name]
        with self._refusing(name):
            with self._file.open(self._members[name]) as member:
                member.read(header.size)
                array = np.empty(math.prod(header.shape), header.dtype)
                # To its end, where zipfile compares the checksum.
                _fill(member, array.view("uint8").data)
            if array.dtype.kind == "V":  # How NumPy writes bfloat16.
                array = array.view(tf.bfloat16.as_numpy_dtype).astype("float32")
            if not np.isfinite(array).all():
                raise ValueError("its numbers should be finite, and some are NaN or infinite")
        return array.reshape(header.shape, order="F" if header.fortran_order else "C")

    def _check_total(self) -> None:
        limit = LARGEST_RATIO * os.path.getsize(self.path) + FREE_BYTES
        total = 0
        for name, info in self._members.items():
            total += info.file_size
            if total > limit:
                raise ValueError(
                    f"it should unpack to at most {limit} bytes, {LARGEST_RATIO} times its size, "
                    f"and with {name!r} comes to {total}"
                )

    def _header(self, name: str) -> Header:
        info = self._members[name]
        with self._refusing(name), self._file.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in _HEADERS:
                raise ValueError(f"its format version {version} is unknown")
            shape, fortran_order, dtype = _HEADERS[version](member)
            if dtype.hasobject:
                raise ValueError("it is a pickled object, which is a program and not data")
            if dtype.kind != "f" and dtype != np.dtype("V2"):
                raise ValueError(f"it should hold floats. Received: {dtype}")
            size = info.file_size - member.tell()
            if size != math.prod(shape) * dtype.itemsize:
                raise ValueError(
                    f"its header says {dtype} of shape {shape}, but {size} bytes follow"
                )
            return Header(shape, fortran_order, dtype, member.tell())

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Names the file and the array in whatever goes wrong."""
        try:
            yield
        except Exception as error:  # zipfile, zlib, NumPy and tokenize have one each.
            raise ValueError(
                f"The checkpoint {self.path} is refused at {what!r}: {error}. Expected the weights "
                "as an `.npz` of float arrays; fetch or write the file again."
            ) from error


def _fill(member: Any, buffer: memoryview) -> None:
    done = 0
    while count := member.readinto(buffer[done : done + 2**24]):
        done += count
    if done < len(buffer) or member.read(1):
        raise ValueError(f"{len(buffer)} bytes should follow its header. Received: {done}")

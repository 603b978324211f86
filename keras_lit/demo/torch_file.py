"""Reads legacy PyTorch checkpoints as NumPy arrays: without PyTorch, without trusting the pickle.

Until version 1.5 `torch.save` wrote five pickles (magic number, protocol, system, the object, the
storage keys) and after them each storage: its number of elements and its raw little-endian values.
A pickle is a program; ours may call nothing but what builds tensors and ordered dictionaries.
"""

import collections
import math
import os
import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def load_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a legacy (not zip) state dict by name, in the order of the file.

    It is what `torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)` writes;
    pickle.UnpicklingError for anything else, for a damaged file, or a tensor outside its storage.
    """
    with open(path, "rb") as file:
        try:
            return _load(file)
        except _Refusal as error:
            raise pickle.UnpicklingError(f"{os.fspath(path)}: {error}") from None
        except Exception as error:  # A damaged pickle can raise anything.
            raise pickle.UnpicklingError(
                f"{os.fspath(path)} is truncated, damaged or not a legacy PyTorch file: {error!r}. "
                "Fetch it again."
            ) from error


class _Refusal(pickle.UnpicklingError):
    """An error found by this module, as opposed to one raised by `pickle`."""


@dataclass(frozen=True)
class _Storage:
    """A one-dimensional array whose values follow later in the file."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: a pickle can set attributes of what it gets.
            return lambda storage, offset, size, stride, *_: _Tensor(storage, offset, size, stride)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise _Refusal(
            f"expected only tensors and ordered dictionaries, refused the global "
            f"`{module}.{name}`. Load such a file with PyTorch, if you trust it, and save its "
            "state_dict() alone."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel, view = pid
        if kind != "storage" or dtype not in DTYPES.values() or view is not None:
            raise _Refusal(f"expected a storage, received {pid!r}.")
        return _Storage(key, dtype, _natural(numel))


def _load(file: BinaryIO) -> dict[str, np.ndarray]:
    start = file.read(2)
    file.seek(0)
    if start == b"PK":
        raise _Refusal(
            "expected PyTorch's legacy format, received its zip format. Save it again with "
            "torch.save(..., _use_new_zipfile_serialization=False)."
        )
    for name, expected in (("magic number", MAGIC_NUMBER), ("protocol", PROTOCOL_VERSION)):
        if (received := _Unpickler(file).load()) != expected:
            raise _Refusal(f"expected the {name} {expected}, received {received!r}.")
    if not _Unpickler(file).load()["little_endian"]:
        raise _Refusal("expected little-endian values, received big-endian ones.")

    tensors = _Unpickler(file).load()
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise _Refusal("expected one dictionary of tensors. Save the model's state_dict() alone.")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    values = {}
    for key in _Unpickler(file).load():
        if key not in storages:
            raise _Refusal(f"received the storage {key!r}, which no tensor uses.")
        values[key] = _read_storage(file, storages[key])
    return {name: _view(name, tensor, values) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    numel = int.from_bytes(file.read(8), "little", signed=True)
    if numel != storage.numel:
        raise _Refusal(
            f"expected {storage.numel} values in storage {storage.key!r}, received {numel}: the "
            "file is truncated or damaged. Fetch it again."
        )
    # Ask the file for its size before asking the machine for the memory.
    size = numel * np.dtype(storage.dtype).itemsize
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left < size:
        raise _Refusal(
            f"expected {size} bytes in storage {storage.key!r}, received {left}: the file is "
            "truncated. Fetch it again."
        )
    return np.frombuffer(file.read(size), storage.dtype)


def _view(name: str, tensor: _Tensor, values: dict[str, np.ndarray]) -> np.ndarray:
    storage = values[tensor.storage.key]
    offset = _natural(tensor.offset)
    size = tuple(map(_natural, tensor.size))
    stride = tuple(map(_natural, tensor.stride))
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # More elements than the storage has (a stride of 0) could ask for any amount of memory.
    if numel > storage.size or (numel and last >= storage.size):
        raise _Refusal(
            f"expected the tensor {name!r} to lie in its storage of {storage.size} values, received"
            f" offset {offset}, size {size}, stride {stride}: the file is damaged. Fetch it again."
        )
    strides = [step * storage.itemsize for step in stride]
    # The offset of an empty tensor may lie anywhere; reading nothing needs no place.
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def _natural(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise _Refusal(f"expected a whole number from 0, received {number!r}.")
    return number

"""Reads the arrays of an `.npz` file: as data, and under the names big_vision gives them now."""

import contextlib
import functools
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

T = TypeVar("T")

# Weights hardly compress; a file that claims to unpack to more than this is not weights.
LARGEST_RATIO = 16
FREE_BYTES = 2**24
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Training checkpoints hold the optimizer's state, counters and clocks beside the model.
_MODEL_PREFIXES = ("params/", "opt/target/")
# `nn.scan` stacks the arrays of all blocks along a leading axis (SigLIP 2).
_SCANNED = re.compile(r"(.*/encoderblock)/(.*)")
_RENAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        # Positions were once a module of the encoder, then the encoder's own.
        (r"^(img/|)Transformer/(posembed_input/|)pos_embedding$", r"\1pos_embedding"),
        # Before flax.linen all modules of a block were counted together: 0, 1, 2, 3.
        (r"(encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
        (r"(encoderblock_\d+)/(MlpBlock|MultiHeadDotProductAttention)_\d+/", r"\1/\2_0/"),
        # BiT's own files.
        (r"/standardized_conv2d(_\d+|)/", "/"),
        (r"^(img/|)resnet/root_block/kernel$", r"\1root_block/conv_root/kernel"),
        (r"^(img/|)resnet/head/conv2d/", r"\1head/"),
        (r"^(img/|)resnet/group_norm/", r"\1norm-pre-head/"),
        (r"^(img/|)resnet/(block\d+/unit\d+)/a/proj/", r"\1\2/conv_proj/"),
        *(
            (rf"^(img/|)resnet/(block\d+/unit\d+)/{letter}/{old}", rf"\1\2/{new}{i}/")
            for i, letter in enumerate("abc", 1)
            for old, new in (("group_norm/", "gn"), ("", "conv"))
        ),
        (r"(/gn\d|norm-pre-head)/gamma$", r"\1/scale"),
        (r"(/gn\d|norm-pre-head)/beta$", r"\1/bias"),
        # ViT-g's attention pooling was once part of the model itself.
        (
            r"^(img/|)(probe$|(?:MlpBlock|MultiHeadDotProductAttention|LayerNorm)_0/)",
            r"\1MAPHead_0/\2",
        ),
    )
]
_SCALARS = ("t", "b")
_BLOCK = re.compile(r"encoderblock_\d+/")
_GROUP_NORM = re.compile(r"(/gn\d|norm-pre-head)/(scale|bias)$")


class Header(NamedTuple):
    """What an array's header says."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int  # Of the header itself, in bytes.


class Archive:
    """The arrays of an `.npz` file: shapes at once, numbers one array at a time.

    Refuses a file that is truncated or not an `.npz`, and an array that is a pickled object, is
    shorter or longer than its header says, or unpacks to far more bytes than the file has; reading
    refuses what is not of floats, or of the given `kinds` of dtypes. The message names the file and
    the array.
    """

    def __init__(self, path: str | os.PathLike, kinds: str = "f"):
        self._kinds = kinds
        self.path = os.fspath(path)
        if os.path.isdir(self.path):
            raise FileNotFoundError(
                f"The checkpoint should be an `.npz` file. Received a folder: {self.path}. A "
                "SavedModel is read by `tf.saved_model.load`; of an orbax or tensorstore "
                "checkpoint save the arrays by `numpy.savez`."
            )
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"There is no checkpoint {self.path}.")
        with self._refusing("the file"):
            check_start(self.path)
            self._file = zipfile.ZipFile(self.path)
            infos = self._file.infolist()
            _check_kind({info.filename for info in infos})
            self._members = {info.filename.removesuffix(".npy"): info for info in infos}
            if len(self._members) != len(infos):
                raise ValueError("an array is in it twice")
            self._check_total()
        self._headers = {name: self._header(name) for name in self._members}
        self.shapes = {name: header.shape for name, header in self._headers.items()}

    def read(self, name: str) -> np.ndarray:
        """The array `name`; ValueError where its bytes are corrupt or not all are finite."""
        header = self._headers[name]
        self.check_floats(name)
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

    def check_floats(self, name: str) -> None:
        """Refuses an array of another dtype."""
        dtype = self._headers[name].dtype
        with self._refusing(name):
            if dtype.kind not in self._kinds and dtype != np.dtype("V2"):
                raise ValueError(f"it should hold floats. Received: {dtype}")

    def counts(self, name: str) -> bool:
        """Whether the array is a counter, such as a training checkpoint's "step"."""
        header = self._headers[name]
        return header.dtype.kind in "iu" and math.prod(header.shape) == 1

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


def check_start(path: str) -> None:
    """Raises for files of other kinds, by what they begin with."""
    with open(path, "rb") as file:
        start = file.read(64)
    for begins, kind in (
        (b"version https://git-lfs", "it is a Git LFS pointer: `git lfs pull` fetches the file"),
        (b"<", "it is a web page, as a server sends for an address that needs a login"),
        (b"\x89HDF", "it is HDF5, such as Keras' .weights.h5, which `model.load_weights` reads"),
        (b"\x93NUMPY", "it is one array (.npy)"),
    ):
        if start.lstrip().startswith(begins):
            raise ValueError(kind)
    if start[8:10] == b'{"':
        raise ValueError("it is safetensors: save its arrays by `numpy.savez`, in this layout")
    if not zipfile.is_zipfile(path):
        raise ValueError("File is not a zip file")


def _check_kind(members: set[str]) -> None:
    """Raises for zip files of other programs."""
    if "model.weights.h5" in members:
        raise ValueError("it is a model saved by Keras, which `keras.saving.load_model` reads")
    if "about.npy" in members:
        raise ValueError("it is of `save_adapters`, which `load_adapters` reads into a model")
    if any(name.endswith("/data.pkl") for name in members):
        raise ValueError("it is a file of PyTorch, which is a program and not data")


def _fill(member: Any, buffer: memoryview) -> None:
    done = 0
    while count := member.readinto(buffer[done : done + 2**24]):
        done += count
    if done < len(buffer) or member.read(1):
        raise ValueError(f"{len(buffer)} bytes should follow its header. Received: {done}")


class Array(NamedTuple):
    """An array of a checkpoint, which `read` makes."""

    name: str  # In the file, for messages.
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def canonical(archive: Archive) -> dict[str, Array]:
    """The model's arrays under the names that big_vision gives them now, "img/pos_embedding", say.

    Reference: big_vision's `models/vit.py` and `models/proj/image_text/text_transformer.py`.
    """
    prefixes = [p for p in _MODEL_PREFIXES if any(name.startswith(p) for name in archive.shapes)]
    prefix = prefixes[0] if prefixes else ""
    arrays: dict[str, Array] = {}

    def add(name: str, array: Array) -> None:
        if name in arrays:
            raise ValueError(
                f"{archive.path} holds {arrays[name].name!r} and {array.name!r}, which are the "
                "same array in different layouts. Expected one layout."
            )
        arrays[name] = array

    # Of a stacked array the blocks are read one after the other.
    read = functools.lru_cache(maxsize=1)(archive.read)
    for name, shape in archive.shapes.items():
        new = name.removeprefix(prefix)
        if not name.startswith(prefix) or (archive.counts(name) and new not in _SCALARS):
            continue
        archive.check_floats(name)
        for pattern, replacement in _RENAMES:
            new = pattern.sub(replacement, new)
        scanned = _SCANNED.fullmatch(new)
        if scanned and shape:
            for i in range(shape[0]):
                block = functools.partial(_block, read, name, i)
                add(f"{scanned[1]}_{i}/{scanned[2]}", Array(name, shape[1:], block))
            continue
        shape = _shape_now(new, shape)
        add(new, Array(name, shape, functools.partial(_read, archive, name, shape)))
    return _with_single_positions(arrays)


def stacked(arrays: Mapping[str, T]) -> dict[str, list[T]]:
    """{name: [what it is]}: as `nn.scan` has it, one name for all blocks, in their order."""
    together: dict[str, list[T]] = {}
    for name, array in arrays.items():
        together.setdefault(_BLOCK.sub("encoderblock/", name), []).append(array)
    return together


def _read(archive: Archive, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return archive.read(name).reshape(shape)


def _block(read: Callable[[str], np.ndarray], name: str, block: int) -> np.ndarray:
    return read(name)[block]


def _shape_now(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """BiT's own files have group norms without the leading axes, and a convolution as head.

    The temperature and the bias of a LiT have one axis.
    """
    if name in _SCALARS and shape == ():
        return (1,)
    if len(shape) == 1 and _GROUP_NORM.search(name):
        return (1, 1, 1, *shape)
    if len(shape) == 4 and shape[:2] == (1, 1) and name.removeprefix("img/") == "head/kernel":
        return shape[2:]
    return shape


def _with_single_positions(arrays: dict[str, Array]) -> dict[str, Array]:
    """Some old text towers added two tables of positions: their sum is equivalent."""
    second = arrays.pop("txt/Encoder_0/pos_embedding", None)
    if second is None or (first := arrays.setdefault("txt/pos_embedding", second)) is second:
        return arrays
    if first.shape != second.shape:
        raise ValueError(
            f"{first.name!r} and {second.name!r} should have the same shape, as both are added to "
            f"the tokens. Received: {first.shape} and {second.shape}."
        )
    both = Array(first.name, first.shape, lambda: first.read() + second.read())
    return {**arrays, "txt/pos_embedding": both}

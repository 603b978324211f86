"""Legacy PyTorch files, assembled here opcode by opcode from the pickle and torch.save formats."""

import pickle
import struct

import numpy as np
import pytest

from keras_lit.demo.torch_file import load_tensors

MAGIC = 119547037146038801333356  # torch.serialization.MAGIC_NUMBER


def value(thing) -> bytes:
    """The opcodes that push a plain value: its pickle without PROTO and STOP."""
    return pickle.dumps(thing, protocol=2)[2:-1]


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """The opcodes that call a global: GLOBAL, MARK ... TUPLE, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(key: str, numel: int, kind: str = "FloatStorage") -> bytes:
    """A persistent id: ("storage", class, key, location, numel, no view of another storage)."""
    kind_opcodes = f"ctorch\n{kind}\n".encode()
    rest = value(key) + value("cpu") + value(numel) + b"N"
    return b"(" + value("storage") + kind_opcodes + rest + b"tQ"


def tensor(stored: bytes, offset: int, size: tuple, stride: tuple) -> bytes:
    hooks = call("collections", "OrderedDict")
    parts = (stored, value(offset), value(size), value(stride), value(False), hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *parts)


def dictionary(**items: bytes) -> bytes:
    """An OrderedDict with the attribute `_metadata`, as state_dict() returns."""
    pairs = b"".join(value(name) + item for name, item in items.items())
    metadata = b"}" + value("_metadata") + call("collections", "OrderedDict") + b"s"
    return call("collections", "OrderedDict") + b"(" + pairs + b"u" + metadata + b"b"


def legacy_file(opcodes: bytes, storages: dict[str, bytes], magic=MAGIC, protocol=1001) -> bytes:
    """`storages`: raw values by key, each behind its number of elements."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    return (
        pickle.dumps(magic, protocol=2)
        + pickle.dumps(protocol, protocol=2)
        + pickle.dumps(system, protocol=2)
        + b"\x80\x02"
        + opcodes
        + b"."
        + pickle.dumps(list(storages), protocol=2)
        + b"".join(storages.values())
    )


def floats(*values: float) -> bytes:
    return struct.pack(f"<q{len(values)}f", len(values), *values)


@pytest.fixture
def load(tmp_path):
    def write_and_load(content: bytes):
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        return load_tensors(path)

    return write_and_load


def test_reads_views_and_dtypes(load):
    opcodes = dictionary(
        whole=tensor(storage("7", 6), 0, (2, 3), (3, 1)),
        transposed=tensor(storage("7", 6), 0, (3, 2), (1, 3)),
        part=tensor(storage("7", 6), 1, (2, 2), (3, 1)),
        count=tensor(storage("8", 1, "LongStorage"), 0, (), ()),
        halves=tensor(storage("9", 2, "HalfStorage"), 0, (2,), (1,)),
        empty=tensor(storage("10", 0), 0, (0,), (1,)),
    )
    content = legacy_file(
        opcodes,
        {
            "10": floats(),
            "7": floats(1, 2, 3, 4, 5, 6.5),
            "8": struct.pack("<qq", 1, -(2**40)),
            "9": struct.pack("<q2e", 2, 0.5, -4),
        },
    )
    tensors = load(content)
    assert list(tensors) == ["whole", "transposed", "part", "count", "halves", "empty"]
    np.testing.assert_array_equal(tensors["whole"], [[1, 2, 3], [4, 5, 6.5]])
    np.testing.assert_array_equal(tensors["transposed"], [[1, 4], [2, 5], [3, 6.5]])
    np.testing.assert_array_equal(tensors["part"], [[2, 3], [5, 6.5]])
    assert tensors["count"] == -(2**40) and tensors["count"].shape == ()
    np.testing.assert_array_equal(tensors["halves"], [0.5, -4])
    assert [tensors[name].dtype for name in ("whole", "count", "halves", "empty")] == [
        np.float32,
        np.int64,
        np.float16,
        np.float32,
    ]
    assert tensors["empty"].shape == (0,)
    tensors["whole"][0, 0] = 9  # Each owns its memory.
    assert tensors["part"][0, 0] == 2 and tensors["transposed"][0, 0] == 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_parameter"),
        ("collections", "deque"),
        ("numpy", "FloatStorage"),
    ],
)
def test_refuses_other_globals(load, tmp_path, module, name):
    proof = tmp_path / "executed"
    content = legacy_file(call(module, name, value(f"touch {proof}")), {})
    with pytest.raises(pickle.UnpicklingError, match=rf"refused the global `{module}\.{name}`"):
        load(content)
    assert not proof.exists()


def test_refuses_a_global_in_any_of_the_pickles(load):
    evil = b"\x80\x02" + call("posix", "system", value("true")) + b"."
    whole = legacy_file(dictionary(a=tensor(storage("0", 1), 0, (1,), (1,))), {"0": floats(1)})
    assert load(whole)["a"] == 1
    keys = pickle.dumps(["0"], protocol=2)
    for content in (evil, whole.replace(keys, evil)):
        with pytest.raises(pickle.UnpicklingError, match="refused the global"):
            load(content)


def test_refuses_every_truncation(load):
    opcodes = dictionary(a=tensor(storage("0", 3), 0, (3,), (1,)))
    content = legacy_file(opcodes, {"0": floats(1, 2, 3)})
    np.testing.assert_array_equal(load(content)["a"], [1, 2, 3])
    for length in range(len(content)):
        with pytest.raises(pickle.UnpicklingError, match=r"model\.pth.*(truncated|damaged)"):
            load(content[:length])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),  # longer than the storage
        (1, (2, 3), (3, 1)),  # ends one behind it
        (0, (2, 3), (4, 1)),
        (6, (1,), (1,)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),  # fewer strides than sizes
        (0, (7,), (0,)),  # one value, repeated: such a tensor could be of any size
        (0, (2.0,), (1,)),
        (10**30, (1,), (1,)),
    ],
)
def test_refuses_views_outside_their_storage(load, offset, size, stride):
    opcodes = dictionary(a=tensor(storage("0", 6), offset, size, stride))
    with pytest.raises(pickle.UnpicklingError, match="damaged|expected a whole number"):
        load(legacy_file(opcodes, {"0": floats(1, 2, 3, 4, 5, 6)}))


def test_refuses_wrong_counts_and_keys(load):
    opcodes = dictionary(a=tensor(storage("0", 3), 0, (1,), (1,)))
    with pytest.raises(
        pickle.UnpicklingError, match="expected 3 values in storage '0', received 2"
    ):
        load(legacy_file(opcodes, {"0": floats(1, 2)}))
    with pytest.raises(pickle.UnpicklingError, match="storage '1', which no tensor uses"):
        load(legacy_file(opcodes, {"1": floats(1, 2, 3)}))
    with pytest.raises(pickle.UnpicklingError, match="damaged"):
        load(legacy_file(opcodes, {}))
    # A file that promises a terabyte is refused before anything that large is asked for.
    opcodes = dictionary(a=tensor(storage("0", 2**38), 0, (1,), (1,)))
    with pytest.raises(pickle.UnpicklingError, match="expected 1099511627776 bytes"):
        load(legacy_file(opcodes, {"0": struct.pack("<qf", 2**38, 1)}))


def test_refuses_other_formats(load):
    with pytest.raises(pickle.UnpicklingError, match="_use_new_zipfile_serialization=False"):
        load(b"PK\x03\x04 and more")
    with pytest.raises(pickle.UnpicklingError, match="expected the magic number .* received 5"):
        load(legacy_file(dictionary(), {}, magic=5))
    with pytest.raises(pickle.UnpicklingError, match="expected the protocol 1001, received 1002"):
        load(legacy_file(dictionary(), {}, protocol=1002))
    with pytest.raises(pickle.UnpicklingError, match="one dictionary of tensors"):
        load(legacy_file(value([1, 2]), {}))
    with pytest.raises(pickle.UnpicklingError, match="one dictionary of tensors"):
        load(legacy_file(dictionary(epoch=value(3)), {}))
    with pytest.raises(pickle.UnpicklingError, match="not a legacy PyTorch file"):
        load(b"certainly not a pickle")

"""Damaged and hostile files are refused by name, before or instead of a model."""

import io
import time
import zipfile

import numpy as np
import pytest

from keras_lit import checkpoints
from keras_lit.checkpoints.npz import Archive
from tests.checkpoints.files import GOLDEN, arrays_of

NAME = "lit_text_transformer"
KERNEL = "txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"


def member(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(f"{name}.npy", content)


def header(shape, dtype="<f4"):
    file = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def changed(change):
    """A golden file's members after a change to the dict of its arrays."""
    arrays = arrays_of(NAME)
    change(arrays)
    return [
        (name, array if isinstance(array, bytes) else member(array))
        for name, array in arrays.items()
    ]


def rename(arrays):
    arrays[KERNEL.replace("Dense_0", "Dense_7")] = arrays.pop(KERNEL)


def add(arrays):
    arrays["img/pre_logits/kernel"] = np.ones([40, 40], "f")


def rename_block(arrays):
    for name in list(arrays):
        if "img/Transformer/encoderblock_1/" in name:
            arrays[name.replace("block_1/", "block_3/")] = arrays.pop(name)


def drop(arrays):
    del arrays["img/embedding/kernel"]


def reshape(arrays):
    arrays[KERNEL] = arrays[KERNEL].T


def rank(arrays):
    arrays["txt/pos_embedding"] = arrays["txt/pos_embedding"][0]


def nan(arrays):
    arrays[KERNEL][3, 4] = np.nan


def infinity(arrays):
    arrays["t"][0] = np.inf


def pickled(arrays):
    arrays[KERNEL] = np.array([{"a": 1}], dtype=object)


def integers(arrays):
    arrays[KERNEL] = arrays[KERNEL].astype(int)


def short(arrays):
    arrays[KERNEL] = member(arrays[KERNEL])[:-8]


def huge_header(arrays):
    arrays[KERNEL] = header((50_000, 50_000)) + b"\0" * 64


def bad_header(arrays):
    arrays[KERNEL] = b"\x93NUMPY\x01\x00\x10\x00__import__('os')"


def not_an_array(arrays):
    arrays[KERNEL] = b"GIF89a" * 99


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (rename, rf"Missing: '{KERNEL}'. Left over: '.*Dense_7/kernel'"),
        (add, "Missing: none. Left over: 'img/pre_logits/kernel'"),
        (rename_block, r"'img/Transformer/encoderblock_\*' should be numbered.*Received: \[0, 3\]"),
        (drop, "lacks 'img/embedding/kernel'"),
        (reshape, rf"'{KERNEL}' of .* should have the shape \(24, 48\).*Received: \(48, 24\)"),
        (rank, r"'txt/pos_embedding' should have 3 dimensions.*Received shape: \(16, 24\)"),
        (nan, rf"refused at '{KERNEL}': its numbers should be finite"),
        (infinity, "refused at 't': its numbers should be finite"),
        (pickled, rf"refused at '{KERNEL}': it is a pickled object"),
        (integers, rf"refused at '{KERNEL}': it should hold floats. Received: int64"),
        (short, rf"refused at '{KERNEL}': its header says float32 of shape \(24, 48\), but 4600"),
        (huge_header, rf"refused at '{KERNEL}': .* shape \(50000, 50000\), but 64 bytes follow"),
        (bad_header, rf"refused at '{KERNEL}'"),
        (not_an_array, rf"refused at '{KERNEL}': the magic string is not correct"),
    ],
)
def test_refused_by_name(change, named, tmp_path):
    write(tmp_path / "lit.npz", changed(change))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=named):
        checkpoints.load_lit(tmp_path / "lit.npz")
    assert time.perf_counter() - start < 10


def test_a_bomb_is_not_unpacked(tmp_path):
    """256 MB of zeros in 260 kB: what the directory says is enough to refuse it."""
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open(f"{KERNEL}.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header((2**26,)) + bytes(2**28))
    content = path.read_bytes()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"at most \d+ bytes.*with '{KERNEL}' comes to 2684"):
        checkpoints.load_lit(path)
    assert time.perf_counter() - start < 1
    assert len(content) < 2**20


def test_a_directory_that_lies_about_sizes(tmp_path):
    """The stream goes on after the size that the directory tells."""
    path = tmp_path / "lit.npz"
    content = member(np.zeros([4], "f"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("t.npy", content + bytes(2**20))
    data = path.read_bytes()
    size = (len(content) + 2**20).to_bytes(4, "little")
    path.write_bytes(data.replace(size, len(content).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="refused at 't': Bad CRC-32"):
        Archive(path).read("t")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated(part, tmp_path):
    content = (GOLDEN / f"{NAME}.npz").read_bytes()
    (tmp_path / "lit.npz").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"lit\.npz is refused at 'the file': File is not a zip"):
        checkpoints.load_lit(tmp_path / "lit.npz")


def test_flipped_bits_are_named(tmp_path):
    """Any changed byte is an error that names the file, or changes nothing that is read."""
    content = bytearray((GOLDEN / f"{NAME}.npz").read_bytes())
    expected = {name: array.tobytes() for name, array in arrays_of(NAME).items()}
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(content), 300):
        damaged = content.copy()
        damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "lit.npz").write_bytes(damaged)
        try:
            archive = Archive(tmp_path / "lit.npz")
            found = {name: archive.read(name).tobytes() for name in archive.shapes}
        except ValueError as error:
            assert "lit.npz is refused at" in str(error)
            refused += 1
        else:
            assert sorted(found.values()) == sorted(expected.values())
    assert refused > 250


def test_the_same_name_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "lit.npz", [("t", member(np.ones(1, "f")))] * 2)
    with pytest.raises(ValueError, match="an array is in it twice"):
        Archive(tmp_path / "lit.npz")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"\n<!DOCTYPE html>", "it is a web page"),
        (b"\x89HDF\r\n\x1a\n", "it is HDF5.*`model.load_weights`"),
        (member(np.zeros(3)), "it is one array"),
        (b"\x10" + bytes(7) + b'{"a": {}}', "it is safetensors"),
    ],
)
def test_files_of_other_kinds_say_what_they_are(content, kind, tmp_path):
    (tmp_path / "lit.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"lit.npz is refused at 'the file': {kind}"):
        checkpoints.load_lit(tmp_path / "lit.npz")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint .*nothing.npz"):
        checkpoints.load_image_tower(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match="Received a folder: .*tf.saved_model.load"):
        checkpoints.load_lit(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(save, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/kernel": rng.normal(size=[3, 4]).astype("float32"),
        "fortran": np.asfortranarray(rng.normal(size=[3, 4]).astype("float32")),
        "big_endian": rng.normal(size=[5]).astype(">f4"),
        "double": rng.normal(size=[2, 3, 4]),
        "scalar": np.array(2.5, "float16"),
        "empty": np.zeros([0, 3], "f"),
    }
    save(tmp_path / "a.npz", **arrays)
    archive = Archive(tmp_path / "a.npz")
    assert archive.shapes == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(archive.read(name), array)


def test_bfloat16_as_numpy_writes_it(tmp_path):
    bits = np.array([0x3F80, 0xC040, 0x0000], "uint16")  # 1, -3, 0
    np.savez(tmp_path / "a.npz", x=bits.view("V2"))
    np.testing.assert_array_equal(Archive(tmp_path / "a.npz").read("x"), [1, -3, 0])

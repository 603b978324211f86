"""Parquet files as Hugging Face and img2dataset write them, and tables of file names."""

import pathlib
import sys
import warnings

import pyarrow
import pytest
import tensorflow as tf
from pyarrow import parquet

from keras_lit import evaluation
from keras_lit.data import image_text_pairs
from tests.data.test_shards import write_tar


def png(value):
    return tf.io.encode_png(tf.fill([4, 5, 3], tf.constant(value, tf.uint8))).numpy()


def write(path, **columns):
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def images(*rows):
    """Hugging Face's feature: structs of bytes and path."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.array([{"bytes": content, "path": path} for content, path in rows], kind)


def read(source, **options):
    pairs = image_text_pairs(source, **options).as_numpy_iterator()
    return [(pathlib.Path(p["name"].decode()).name, p["text"].decode(), p["image"]) for p in pairs]


@pytest.fixture
def divided(tmp_path):
    """Three files of two splits, as `push_to_hub` names them."""
    for name, numbers in (
        ("train-00000-of-00002", (0, 1, 2)),
        ("train-00001-of-00002-0123456789abcdef", (3, 4)),
        ("validation-00000-of-00001", (5,)),
    ):
        rows = [(png(i), f"{i}.png") for i in numbers]
        captions = [[f"one {i}", f"two {i}"] for i in numbers]
        write(tmp_path / f"data/{name}.parquet", caption=captions, image=images(*rows))
    return tmp_path / "data"


def test_the_splits_are_in_the_names(divided):
    train = [(f"{i}.png", f"{x} {i}", png(i)) for i in range(5) for x in ("one", "two")]
    assert sorted(read(divided)) == train
    assert sorted(read(divided, captions="first")) == train[::2]
    assert read(divided, split="validation", captions="first") == [("5.png", "one 5", png(5))]
    assert sorted(read(str(divided / "train-*.parquet"))) == train
    parts = [read(divided, shard=(i, 2)) for i in range(2)]
    assert (parts[0], parts[1]) == (train[:6], train[6:])
    with pytest.raises(ValueError, match=r"`split` should be one of 'train', 'validation'.*'test'"):
        read(divided, split="test")
    with pytest.raises(ValueError, match=r"divided already, into 'train', 'validation'.*0\.2"):
        read(divided, test_fraction=0.2)
    with pytest.raises(ValueError, match=r"subfolders. Pass '.*/data'\."):
        read(divided.parent)


def test_a_file_that_is_missing_of_so_many_is_warned_of(tmp_path):
    for split, number in (("train", 0), ("test", 0), ("test", 1)):
        write(
            tmp_path / f"{split}-0000{number}-of-00002.parquet",
            image=images((b"x", None)),
            text=["a"],
        )
    with pytest.warns(UserWarning, match="1 of 2 files are missing, first train-00001-of-00002"):
        image_text_pairs(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_text_pairs(tmp_path, "test")  # Which lacks none.
    for file in sorted(tmp_path.glob("*")):  # All of four; the column of one says "test".
        split = "test" if file.name.startswith("test-00000") else "train"
        write(file, image=images((b"x", None)), text=["a"], split=[split])
    write(
        tmp_path / "train-00001-of-00002.parquet",
        image=images((b"x", None)),
        text=["a"],
        split=["train"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_text_pairs(tmp_path, "test")


def test_files_that_are_missing_of_those_named_are_left_out(tmp_path):
    for i in (1, 2):
        write(tmp_path / f"x-{i}.parquet", image=images((png(i), None)), text=[str(i)])
    skipped = set()
    pairs = image_text_pairs(tmp_path / "x-{0..2}.parquet", skipped=skipped)
    assert sorted(pair["text"] for pair in pairs.as_numpy_iterator()) == [b"1", b"2"]
    assert len(skipped) == 1 and "x-0.parquet: there is no such file" in skipped.pop()


def test_an_image_of_several_rows_is_in_one_split(tmp_path):
    rows = [(png(i), None) for _ in range(2) for i in range(12)]
    texts = [f"{x} of {i}" for x in "ab" for i in range(12)]
    write(tmp_path / "x.parquet", image=images(*rows), text=texts)
    train, test = (
        {image for _, _, image in read(tmp_path, split=split, test_fraction=0.5)}
        for split in ("train", "test")
    )
    assert train and test and not train & test and len(train | test) == 12


def test_the_splits_in_a_column(tmp_path):
    """Flickr30k's files are all called test, and say in a column what is for training."""
    kind = images(*((png(i), f"{i}.png") for i in range(3)))
    columns = {"text": ["a", "b", "c"], "split": ["train", "val", "train"]}
    write(tmp_path / "TEST-00000-of-00001.parquet", image=kind, **columns)
    write(tmp_path / "TEST-00001-of-00001.parquet", image=kind, text=["d"] * 3, split=[0, 0, 0])
    assert [text for _, text, _ in read(tmp_path)] == ["a", "c"]
    assert len(read(tmp_path, split="0")) == 3
    assert read(tmp_path, split="val") == [("1.png", "b", png(1))]
    with pytest.raises(ValueError, match=r"`split` should be one of '0', 'train', 'val'.*'TEST'"):
        read(tmp_path, split="TEST")


def test_rows_that_are_no_pairs_are_named(tmp_path):
    rows = [(png(0), "0.png"), (None, None), (png(2), "2.png"), (b"no image", "3.png")]
    path = write(tmp_path / "x.parquet", image=images(*rows), text=["a", "b", None, "d"])
    skipped = set()
    assert read(path, skipped=skipped) == [("0.png", "a", png(0))]
    assert {x.removeprefix(f"{path}/") for x in skipped} == {
        *("1: no image among text", "2.png: no text among image", "3.png"),
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"x\.parquet/1: no image"):
        read(path)


def img2dataset(folder, **more):
    keys = [f"{i:09d}" for i in range(3)]
    states = ["success", "failed_to_download", "success"]
    columns = {"url": ["u"] * 3, "caption": ["a", "b", "c"], "key": keys, "status": states}
    return write(folder / "00000.parquet", **columns, **more)


def test_img2dataset_calls_its_images_by_key(tmp_path):
    table = img2dataset(tmp_path / "out")
    (tmp_path / "out/00000").mkdir()
    for key, ending in ((0, "jpg"), (2, "webp")):
        (tmp_path / f"out/00000/{key:09d}.{ending}").write_bytes(png(key))
    expected = [("000000000.jpg", "a", png(0)), ("000000002.webp", "c", png(2))]
    assert read(table) == read(tmp_path / "out") == expected
    skipped = set()
    assert image_text_pairs(table, skipped=skipped).cardinality() == 2
    assert skipped == {f"{table}, row 1: failed_to_download"}
    (tmp_path / "out/00000/000000000.txt").write_text("its own")  # Then the folder's own captions.
    (tmp_path / "out/00000/000000002.txt").write_text("its own")
    assert {text for _, text, _ in read(tmp_path / "out")} == {"its own"}


def test_img2dataset_with_the_images_in_a_tar(tmp_path):
    """The table's captions belong to the keys of the tar, whose order is its own."""
    table = img2dataset(tmp_path, better=["x", "y", "z"])
    files = [("000000002.png", png(2)), ("000000002.txt", "old"), ("000000007.png", png(7))]
    write_tar(tmp_path / "00000.tar", files)
    skipped = set()
    found = read(table, text_key="better", skipped=skipped)
    assert found == [("000000002", "z", png(2))]
    named = {"00000.parquet, row 1: failed_to_download", "00000.parquet/000000000: no image among"}
    assert {x.removeprefix(f"{tmp_path}/").removesuffix(" text") for x in skipped} == named


def test_a_key_of_several_captions(tmp_path):
    columns = {"url": ["u", "u"], "key": ["000", "000"], "caption": ["a", "b"]}
    table = write(tmp_path / "0.parquet", **columns, status=["success"] * 2)
    write_tar(tmp_path / "0.tar", [("./000.png", png(3))])  # As `tar -C folder .` calls it.
    assert read(table) == [("000", "a", png(3)), ("000", "b", png(3))]


def test_images_of_one_name(tmp_path):
    """Two pictures are called alike, and the second has two captions."""
    rows = images(*((png(i), "image.png") for i in (0, 1, 1)))
    table = write(tmp_path / "t.parquet", text=["a", "b", "c"], image=rows)
    pairs = evaluation.ImagesAndTexts(image_text_pairs(table))
    assert pairs.texts == ["a", "b", "c"] and pairs.image_index.tolist() == [0, 1, 1]


def test_img2dataset_with_the_images_inside(tmp_path):
    table = img2dataset(tmp_path, jpg=[png(0), None, png(2)])
    found = read(table)  # What could not be fetched is no fault of the table's.
    assert found == [("000000000", "a", png(0)), ("000000002", "c", png(2))]


def test_groups(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    names = write(
        tmp_path / "names.parquet", file_name=["a.png"] * 3, text=["x", "y", "z"], id=[0, 0, None]
    )
    inside = write(
        tmp_path / "inside.parquet",
        image=images(*[(png(1), None)] * 3),
        text=["x", "y", "z"],
        id=[0, 0, None],
    )
    for table in (names, inside):
        pairs = image_text_pairs(table, group_key="id", skipped=set()).as_numpy_iterator()
        assert [(p["text"], p["group"]) for p in pairs] == [(b"x", b"0"), (b"y", b"0")]


def test_a_table_of_file_names(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    names, texts = ["a.png", "a.png", "gone.png"], ["x", "y", "z"]
    write(tmp_path / "metadata.parquet", file_name=names, text=texts, split=["train", "test", "t"])
    assert read(tmp_path) == [("a.png", "x", png(1))]
    assert read(tmp_path, split="test") == [("a.png", "y", png(1))]
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not there.*row 2.*gone\.png"):
        read(tmp_path, split="t")


def test_bytes_of_any_type_are_images(tmp_path):
    for i, kind in enumerate((pyarrow.binary(len(png(7))), pyarrow.binary_view(), None)):
        column = pyarrow.array([png(7)], kind) if kind else pyarrow.array([png(7)])
        column = column if kind else column.dictionary_encode()  # As pandas' categories.
        found = read(write(tmp_path / f"{i}.parquet", image=column, text=["x"]))
        assert found == [("0", "x", png(7))]


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    columns = [pyarrow.array([x]) for x in ("a.png", "x", "y")]
    table = pyarrow.Table.from_arrays(columns, names=["image", "text", "text"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: the column 'text' is there twice"):
        read(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"URL": ["http://x/a.jpg"], "text": ["a"]}, "expected 'image'.*fetch the images first"),
        ({"image": ["http://x/a.jpg"], "text": ["a"]}, "row 0: 'http://x/a.jpg' is a web address"),
        ({"image": [[b"a", b"b"]], "text": ["a"]}, "row 0: expected the name of an image"),
        ({"image": [b"a"], "words": ["a"]}, "expected 'text'.*'image', 'words'"),
    ],
)
def test_other_columns_are_refused_with_the_remedy(columns, message, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.parquet.*{message}"):
        read(write(tmp_path / "x.parquet", **columns))


def test_what_is_no_parquet_file_and_what_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    with pytest.raises(FileNotFoundError, match=r"no file '.*x\.parquet'"):
        read(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"x\.parquet is no Parquet file that can be read"):
        read(path)
    with pytest.raises(ValueError, match=r"`columns` does not apply to Parquet files.*x\.parquet"):
        read(path, columns=("image", "text"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"x\.parquet is read with.*`pip install pyarrow`"):
        read(path)

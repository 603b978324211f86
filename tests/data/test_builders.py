"""CC12M and YFCC100M-CLIP from tiny made downloads, both sides of each rule."""

import bz2
import io
import tarfile
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

import keras_lit
from keras_lit.data import CC12M, YFCC100MCLIP, image_text_pairs, yfcc

HASHES = {row: f"{row:x}" * 32 for row in range(1, 10)}


def jpeg(grey):
    buffer = io.BytesIO()
    Image.fromarray(np.full([6, 8, 3], grey, "uint8")).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def cc12m(tmp_path):
    """50,012 rows; images of the first and of those around the end of minival."""
    rows = [b"http://x/%d.jpg\ta picture number %d" % (i, i) for i in range(50_012)]
    rows[2] = b"http://x/2.jpg\tnot \xff UTF-8"
    rows[3] = b"http://x/3.jpg\t "
    rows[1] = b"http://x/1.jpg\ta picture\rnumber 1"
    folder = tmp_path / "cc12m"
    write(folder / "cc12m.tsv", b"url\tcaption\n" + b"\n".join(rows) + b"\n")
    for i in range(5):
        write(folder / f"images/00000/{i:09d}.jpg", b"<html>" if i == 4 else jpeg(i))
    write(folder / "images/00000/000000000.txt", b'"a picture" number 0')  # It was quoted.
    write(folder / "images/00000/000000005.jpg", jpeg(5))
    write(folder / "images/00000/000000005.json", b'{"caption": "a picture number 6"}')
    for shard, keys in ((3, [30_000, 30_001]), (4, [49_999]), (5, [50_001, 50_000, 50_002])):
        with tarfile.open(folder / f"images/{shard:05d}.tar", "w") as tar:
            for key in keys:
                caption = b"another" if key == 50_002 else b"a picture number %d" % key
                for ending, content in (("jpg", jpeg(key % 256)), ("txt", caption)):
                    member = tarfile.TarInfo(f"{key:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    tar_of_two = folder / "images/00003.tar"
    # Cut within the second image.
    cut = tar_of_two.read_bytes()
    write(tar_of_two, cut[: cut.index(b"000030001.jpg") + 600])
    return folder


def test_cc12m(cc12m, tmp_path, capfd):
    builder = CC12M(manual_dir=cc12m, data_dir=tmp_path / "tfds")
    found = {
        split: {
            pair["name"].decode(): (pair["image"], pair["text"].decode())
            for pair in image_text_pairs(builder, split).as_numpy_iterator()
        }
        for split in ("minival", "train")
    }
    assert found == {
        "minival": {
            f"{i:09d}": (jpeg(i % 256), f"a picture{chr(13) if i == 1 else ' '}number {i}")
            for i in (0, 1, 30_000, 49_999)
        },
        "train": {f"{i:09d}": (jpeg(i % 256), f"a picture number {i}") for i in (50_000, 50_001)},
    }
    left_out = dict(line.split(": ") for line in builder.left_out)
    for row, beside in (("000000005", "a picture number 6"), ("000050002", "another")):
        number = f"a picture number {int(row)}"
        wrong = f"the caption beside the image is {beside!r}, in the table {number!r}"
        assert left_out[row] == wrong
    assert left_out["000000002"] == left_out["000000003"] == "no text in UTF-8"
    assert left_out["000000004"] == "the image does not decode"
    assert left_out["000000006"] == left_out["000030001"] == "no image file"
    assert len(left_out) == len(builder.left_out) == 50_012 - 6
    assert "cc12m/minival: 4 pairs; 49996 left out" in capfd.readouterr().out
    # Another process reads what is prepared, by name.
    assert tfds.builder("cc12m", data_dir=tmp_path / "tfds").left_out == builder.left_out


def test_images_of_another_table_are_refused(tmp_path):
    """A table that was shuffled after the images were fetched: no row number is right."""
    write(tmp_path / "cc12m/cc12m.tsv", b"http://x/1.jpg\tone\nhttp://x/0.jpg\tnought\n")
    for row, caption in enumerate((b"nought", b"one")):
        write(tmp_path / f"cc12m/images/00000/{row:09d}.jpg", jpeg(row))
        write(tmp_path / f"cc12m/images/00000/{row:09d}.txt", caption)
    builder = CC12M(manual_dir=tmp_path / "cc12m", data_dir=tmp_path / "tfds")
    message = r"images/00000: no caption is that of its row.*000000000: .*'nought', .*'one'"
    with pytest.raises(ValueError, match=message):
        builder.download_and_prepare()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such.*does not exist.*cc12m.tsv and images/"):
        CC12M(manual_dir=tmp_path / "no_such", data_dir=tmp_path).download_and_prepare()
    with pytest.raises(FileNotFoundError, match="no yfcc100m_subset_data.tsv in.*bz2"):
        YFCC100MCLIP(manual_dir=tmp_path, data_dir=tmp_path / "tfds").download_and_prepare()


def photo(row, title="", description="", tags="", marker="0"):
    columns = [""] * 25
    columns[:3] = [str(row), f"id{row}", HASHES[row]]
    columns[8:10] = [urllib.parse.quote_plus(text) for text in (title, description)]
    columns[10], columns[24] = tags, marker
    return "\t".join(columns)


@pytest.fixture
def yfcc100m(tmp_path):
    folder = tmp_path / "yfcc"
    table = [
        photo(1, "IMG_0520", "<b>My</b> vacation, 100%\nlong", "red,new+york,a%2Cb"),
        photo(2, "A house", "", ""),
        photo(3, "Not in CLIP's list"),
        photo(4, "A film", marker="1"),
        photo(5, "DSC00012"),
        photo(6, "Its photo is missing"),
        photo(7, "Broken"),
        photo(8, "By identifier"),
    ]
    write(folder / "yfcc100m_dataset.bz2", bz2.compress("\n".join(table).encode()))
    listed = "".join(f"{row}\tid{row}\t{HASHES[row]}\n" for row in (8, 1, 2, 4, 5, 6, 7))
    write(folder / "yfcc100m_subset_data.tsv", listed.encode())
    for row in (1, 2, 3, 4, 5, 7):
        name = HASHES[row]
        content = jpeg(row)[:20] if row == 7 else jpeg(row)
        write(folder / f"images/{name[:3]}/{name[3:6]}/{name}.jpg", content)
    write(folder / "images/id8.jpg", jpeg(8))
    return folder


def test_yfcc(yfcc100m, tmp_path):
    builder = YFCC100MCLIP(manual_dir=yfcc100m, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    encoded = {"image": tfds.decode.SkipDecoding()}
    photos = builder.as_dataset(split="train", decoders=encoded)
    found = {
        p["name"].decode(): (p["title"].decode(), p["description"].decode(), p["tags"].tolist())
        for p in photos.as_numpy_iterator()
    }
    assert found == {
        "id1": ("", "<b>My</b> vacation, 100%\nlong", [b"red", b"new york", b"a,b"]),
        "id2": ("A house", "", []),
        "id8": ("By identifier", "", []),
    }
    images = {p["name"].decode(): p["image"] for p in photos.as_numpy_iterator()}
    assert images == {f"id{row}": jpeg(row) for row in (1, 2, 8)}
    assert builder.left_out == [
        "id5: no text in UTF-8",
        "id6: no image file",
        "id7: the image does not decode",
    ]
    texts = {p["name"].decode(): p["texts"] for p in yfcc.three_texts(photos).as_numpy_iterator()}
    assert texts["id2"].tolist() == [b"A house", b"", b""]


@pytest.mark.parametrize(
    ("title", "usable"),
    [
        ("DSC_0001", False),
        ("My DSC_0001", True),
        ("IMG 12", False),
        ("An IMG", True),
        ("Picture 001 of the sea", False),
        ("A Picture of the sea", True),
        ("image", False),
        ("image of the sea", True),
        ("abc1234", False),  # four of seven
        ("abcd1234", True),  # exactly a half
        ("", False),
        ("x", True),
    ],
)
def test_titles(title, usable):
    assert yfcc.usable_title(title) == usable


def test_tags_are_shuffled_and_joined_anew():
    example = {"title": "t", "description": "d", "tags": ["one", "two", "three"], "name": "n"}
    photos = tf.data.Dataset.from_tensors(example).repeat(300)
    drawn = yfcc.three_texts(photos, seed=3)
    first, second = ([p["texts"].numpy() for p in drawn] for _ in range(2))
    assert {tuple(text[:2]) for text in first} == {(b"t", b"d")}
    joined = [text[2].decode() for text in first]
    orders, separators = set(), set()
    for text in joined:
        words = sorted(["one", "two", "three"], key=text.index)
        between = text.removeprefix(words[0]).removesuffix(words[2]).split(words[1])
        assert between[0] == between[1]
        orders.add(tuple(words))
        separators.add(between[0])
    assert len(orders) == 6
    assert separators == {" ", "\n", ", ", "; ", ". ", " | ", " - "}
    assert joined != [text[2].decode() for text in second]
    again = [p["texts"].numpy()[2].decode() for p in yfcc.three_texts(photos, seed=3)]
    assert joined == again


def test_one_text():
    examples = [
        {"title": "a", "description": "b", "tags": ["c"], "name": "three"},
        {"title": "", "description": "d", "tags": [""], "name": "one"},
        {"title": "", "description": "", "tags": [""], "name": "none"},
    ]
    photos = tf.data.Dataset.from_generator(
        lambda: examples * 30,
        output_signature={
            **{key: tf.TensorSpec([], tf.string) for key in ("title", "description", "name")},
            "tags": tf.TensorSpec([None], tf.string),
        },
    )
    texts = {"three": set(), "one": set()}
    for pair in yfcc.one_text(photos, seed=0).as_numpy_iterator():
        texts[pair["name"].decode()].add(pair["text"])
    assert texts == {"three": {b"a", b"b", b"c"}, "one": {b"d"}}
    assert keras_lit.data.yfcc is yfcc

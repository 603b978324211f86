import io
import json
import pathlib
import re
import unicodedata
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit.data import image_text_pairs


def png(value):
    file = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), (value,) * 3).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them in a folder inside and one broken."""
    (tmp_path / "inside").mkdir()
    for i, name in enumerate(["a.png", "inside/b.png"]):
        (tmp_path / name).write_bytes(png(i))
    (tmp_path / "c.jpg").write_bytes(b"broken")
    return tmp_path


def rows(pairs):
    return [(pair["image"], pair["text"].decode()) for pair in pairs.as_numpy_iterator()]


EXPECTED = [(png(0), "an a"), (png(1), "a b"), (png(1), "another b")]


def test_folder_of_text_files(folder):
    (folder / "c.jpg").unlink()
    (folder / "a.txt").write_text("an a\n", encoding="utf-8-sig")  # As Windows writes it.
    (folder / "inside" / "b.txt").write_text("a b\n\nanother b")
    assert rows(image_text_pairs(folder)) == EXPECTED
    assert rows(image_text_pairs(str(folder), captions="first")) == EXPECTED[:2]
    names = [pair["name"].decode() for pair in image_text_pairs(folder).as_numpy_iterator()]
    assert names[0] == str(folder / "a.png")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_tables(suffix, by_folder, folder):
    records = [("a.png", "an a"), ("inside/b.png", "a b"), ("inside/b.png", "another b")]
    if suffix == ".jsonl":
        lines = [json.dumps({"path": image, "caption": text}) for image, text in records[:1]]
        lines.append(json.dumps({"path": "inside/b.png", "caption": ["a b", "another b"]}))
    else:
        separator = "," if suffix == ".csv" else "\t"
        lines = [separator.join(row) for row in [("path", "caption"), *records]]
    table = folder / f"captions{suffix}"
    table.write_text("\n".join(lines))
    assert rows(image_text_pairs(folder if by_folder else table)) == EXPECTED


def groups(source, **options):
    pairs = image_text_pairs(source, group_key="product", **options).as_numpy_iterator()
    return [(pair["text"].decode(), pair["group"].decode()) for pair in pairs]


def test_groups_of_tables(folder):
    lines = [("a.png", "x", 0), ("inside/b.png", "y", 7), ("inside/b.png", "z", 7)]
    table = folder / "t.csv"
    table.write_text(
        "\n".join(",".join(map(str, x)) for x in [("path", "text", "product"), *lines])
    )
    assert groups(table) == [("x", "0"), ("y", "7"), ("z", "7")]
    assert groups(table, captions="first") == [("x", "0"), ("y", "7")]
    assert {x for _ in range(9) for x in groups(table, captions="random")} > {("z", "7")}
    table.write_text("path,text,product\na.png,x,\ninside/b.png,y,7")
    with pytest.raises(ValueError, match="line 2: expected a group, a string or an int.*''"):
        groups(table)
    assert groups(table, skipped=set()) == [("y", "7")]
    with pytest.raises(ValueError, match="expected 'label'.*Pass `group_key`"):
        image_text_pairs(table, group_key="label")
    table.unlink()
    with pytest.raises(ValueError, match="`group_key` does not apply to a folder of pictures"):
        groups(folder)
    rows = [{"path": x, "text": y, "product": z or None} for x, y, z in lines]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    skipped = set()
    assert groups(folder / "t.jsonl", skipped=skipped) == [("y", "7"), ("z", "7")]
    assert "line 1: expected a group" in next(iter(skipped))


def test_a_byte_order_mark(folder):
    (folder / "t.csv").write_text("image,text\na.png,an a\n", encoding="utf-8-sig")
    assert rows(image_text_pairs(folder)) == EXPECTED[:1]


def test_endings_in_capital_letters(tmp_path):
    (tmp_path / "a.PNG").write_bytes(png(0))
    (tmp_path / "a.txt").write_text("an a")
    assert rows(image_text_pairs(tmp_path)) == EXPECTED[:1]


def test_one_of_several_tables_has_to_be_chosen(folder):
    for name in ("s.csv", "t.csv"):
        (folder / name).write_text("image,text\na.png,an a\n")
    with pytest.raises(ValueError, match=r"several tables: s\.csv, t\.csv. Pass the one"):
        image_text_pairs(folder)
    assert rows(image_text_pairs(folder / "s.csv")) == EXPECTED[:1]


def test_columns_by_name(folder):
    (folder / "t.csv").write_text('picture,said,text\na.png,"one, two",no\n')
    pairs = image_text_pairs(folder / "t.csv", image_key="picture", text_key="said")
    assert rows(pairs) == [(png(0), "one, two")]


def test_shuffling_is_seeded_and_changes_each_epoch(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        (tmp_path / f"{i}.txt").write_text(f"number {i}")

    def read():
        pairs = image_text_pairs(tmp_path, shuffle_buffer=100, seed=1)
        return rows(pairs), rows(pairs)

    (first, second), (again, _) = read(), read()
    assert first == again and first != second and sorted(first) == sorted(second)
    assert sorted(first) == sorted((png(i), f"number {i}") for i in range(20))


def test_files_are_split_by_a_hash_of_the_path(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(50):
            (tmp_path / folder / f"{i}.png").write_bytes(png(i))
            (tmp_path / folder / f"{i}.txt").write_text(f"one {i}\nother {i}")

    def names(folder, split, fraction=0.3):
        pairs = image_text_pairs(tmp_path / folder, split, test_fraction=fraction)
        return [
            str(pathlib.Path(pair["name"].decode()).relative_to(tmp_path / folder))
            for pair in pairs.as_numpy_iterator()
        ]

    train, test = names("a", "train"), names("a", "test")
    # `echo -n 0.png | md5sum` begins with 05, a fiftieth of the range; that of 5.png with 82.
    assert "0.png" in test and "5.png" in train
    assert len(train + test) == len(names("a", "train", 0.0)) == 100
    assert not set(train) & set(test) and 8 <= len(set(test)) <= 22
    assert (names("b", "train"), names("b", "test")) == (train, test)
    with pytest.raises(ValueError, match=r"There are no test pairs.*`test_fraction`"):
        names("a", "test", 0.0)
    with pytest.raises(ValueError, match="`split` should be one of 'train', 'test'.*'val'"):
        names("a", "val")


def test_bad_images_are_skipped_and_named(folder):
    (folder / "t.csv").write_text("image,text\na.png,an a\nc.jpg,broken\nnone.png,missing\n")
    skipped = set()
    pairs = image_text_pairs(folder / "t.csv", skipped=skipped)
    assert rows(pairs) == EXPECTED[:1]
    rows(pairs)  # another epoch counts nothing twice
    missing = f"{folder}/t.csv, line 4: there is no image '{folder}/none.png'"
    assert skipped == {str(folder / "c.jpg"), missing}
    with pytest.raises(FileNotFoundError, match=r"t\.csv, line 4: there is no image.*none\.png"):
        image_text_pairs(folder / "t.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text\na.png,\n", r"line 2: expected a caption.*Received: \[''\]"),
        ("image,text\n", "There are no train pairs"),
        ("image,words\na.png,x\n", "expected 'text' or 'caption'.*Received: 'image', 'words'"),
    ],
)
def test_bad_tables(content, message, folder):
    (folder / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        image_text_pairs(folder / "t.csv")


def test_a_caption_that_is_no_string(folder):
    (folder / "t.jsonl").write_text('{"image": "a.png", "text": 7}')
    with pytest.raises(ValueError, match=r"line 1: expected a caption.*Received: \[7\]"):
        image_text_pairs(folder)


def test_captions_that_are_not_utf8_are_named(folder):
    (folder / "c.jpg").unlink()
    (folder / "a.txt").write_bytes(b"an a\n")
    (folder / "inside" / "b.txt").write_bytes(b"caf\xe9")
    skipped = set()
    assert rows(image_text_pairs(folder, skipped=skipped)) == EXPECTED[:1]
    (message,) = skipped
    assert message.startswith(f"{folder}/inside/b.txt: expected a caption") and "UTF-8" in message
    with pytest.raises(ValueError, match=r"b\.txt: expected a caption.*in UTF-8"):
        image_text_pairs(folder)
    (folder / "t.csv").write_bytes(b"image,text\na.png,caf\xe9\ninside/b.png,a b\n")
    skipped.clear()
    assert rows(image_text_pairs(folder / "t.csv", skipped=skipped)) == EXPECTED[1:2]
    assert len(skipped) == 1 and "line 2" in skipped.pop()


def test_random_captions_and_parts_of_a_table(folder):
    lines = ["image,text", "a.png,an a", "inside/b.png,a b", "inside/b.png,another b"]
    (folder / "t.csv").write_text("\n".join(lines))
    pairs = image_text_pairs(folder / "t.csv", captions="random", seed=1)
    assert rows(image_text_pairs(folder / "t.csv", captions="first")) == EXPECTED[:2]
    epochs = {tuple(text for _, text in rows(pairs)) for _ in range(12)}
    assert epochs == {("an a", "a b"), ("an a", "another b")}
    datasets = [image_text_pairs(folder / "t.csv", shard=(i, 2)) for i in range(2)]
    parts = [rows(dataset) for dataset in datasets]
    for dataset, policy in ((pairs, "AUTO"), (datasets[0], "OFF")):  # `fit` on workers reads it.
        assert dataset.options().experimental_distribute.auto_shard_policy.name == policy
    assert parts == [[EXPECTED[0], EXPECTED[2]], [EXPECTED[1]]]


def test_a_missing_source():
    with pytest.raises(FileNotFoundError, match="There is no file or folder '/nowhere/at/all'"):
        image_text_pairs("/nowhere/at/all")


class TwoCaptions(tfds.core.GeneratorBasedBuilder):
    """Like coco_captions: an image with several captions."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "image/filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(2):
            captions = [{"id": j, "text": f"caption {j} of {i}"} for j in range(i + 1)]
            image = np.full([4, 5, 3], i, "uint8")
            yield i, {"image": image, "captions": captions, "image/filename": f"{i}.png"}


def test_tensorflow_datasets(tmp_path):
    pairs = image_text_pairs(TwoCaptions(data_dir=tmp_path))
    found = {
        (
            pair["name"].decode(),
            pair["text"].decode(),
            int(tf.io.decode_png(pair["image"])[0, 0, 0]),
        )
        for pair in pairs.as_numpy_iterator()
    }
    assert found == {
        ("0.png", "caption 0 of 0", 0),
        ("1.png", "caption 0 of 1", 1),
        ("1.png", "caption 1 of 1", 1),
    }
    grouped = image_text_pairs("two_captions", data_dir=tmp_path, group_key="image/filename")
    assert [pair["group"] == pair["name"] for pair in grouped] == [True] * 3
    by_name = image_text_pairs("two_captions", data_dir=tmp_path, captions="first")
    assert len(rows(by_name)) == 2
    drawn = image_text_pairs("two_captions", data_dir=tmp_path, captions="random")
    assert len({tuple(sorted(text for _, text in rows(drawn))) for _ in range(20)}) == 2
    parts = [
        image_text_pairs("two_captions", data_dir=tmp_path, shard=(i, 2), captions="first")
        for i in range(2)
    ]
    assert [len(rows(part)) for part in parts] == [1, 1]
    shuffled = image_text_pairs("two_captions", data_dir=tmp_path, shuffle_buffer=9, seed=1)
    assert len({tuple(text for _, text in rows(shuffled)) for _ in range(9)}) > 1
    with pytest.raises(ValueError, match=r"`test_fraction` is for folders.*Received: 0\.2"):
        image_text_pairs("two_captions", data_dir=tmp_path, test_fraction=0.2)


class TwoSizes(TwoCaptions):
    """A dataset whose name goes on after a slash."""

    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="small", version="1.0.0")]


def test_the_configuration_of_a_tensorflow_dataset(tmp_path):
    assert len(rows(image_text_pairs("two_sizes/small", data_dir=tmp_path))) == 3


class NoCaption(TwoCaptions):
    """The first image has none, the second one."""

    def _generate_examples(self):
        for i, captions in enumerate([[], [{"id": 0, "text": "an a"}]]):
            image = np.full([4, 5, 3], i, "uint8")
            yield i, {"image": image, "captions": captions, "image/filename": f"{i}.png"}


@pytest.mark.parametrize("captions", ["all", "first", "random"])
def test_images_without_a_caption_are_named(captions, tmp_path):
    builder, skipped = NoCaption(data_dir=tmp_path), set()
    assert [x for _, x in rows(image_text_pairs(builder, captions=captions, skipped=skipped))] == [
        "an a"
    ]
    assert skipped == {"0.png"}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"caption is empty.*0\.png"):
        rows(image_text_pairs(builder, captions=captions))


def test_the_number_of_pairs_of_a_tensorflow_dataset(tmp_path):
    builder = TwoCaptions(data_dir=tmp_path)
    known = [image_text_pairs(builder, captions=x, shuffle_buffer=2) for x in ("first", "random")]
    assert [len(pairs) for pairs in known] == [2, 2]
    assert len(image_text_pairs(Nameless(data_dir=tmp_path))) == 5  # One caption each.
    assert image_text_pairs(builder).cardinality() == tf.data.UNKNOWN_CARDINALITY


def test_a_data_dir_says_nothing_of_files(folder):
    (folder / "t.csv").write_text("image,text\na.png,an a\n")
    (folder / "inside" / "x.tar").write_bytes(b"")
    made = TwoCaptions(data_dir=folder)
    for source in (folder, folder / "t.csv", folder / "inside" / "*.tar", made):
        with pytest.raises(ValueError, match="`data_dir` says where.*given by its name.*'/data'"):
            image_text_pairs(source, data_dir="/data")


def test_lines_that_are_no_records_are_named(folder):
    lines = ['{"image": "a.png", "text": "an a"}', '{"image": "a', "[1]", '{"image": "a.png"}']
    (folder / "t.jsonl").write_text("\n".join(lines))
    skipped = set()
    assert rows(image_text_pairs(folder / "t.jsonl", skipped=skipped)) == EXPECTED[:1]
    starts = sorted(message.split(":")[0] for message in skipped)
    assert starts == [f"{folder}/t.jsonl, line {i}" for i in (2, 3, 4)]
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2: expected a JSON object"):
        image_text_pairs(folder / "t.jsonl")


def test_names_that_are_not_utf8(folder):
    for half in ("a.png", "inside/b.png", "c.jpg"):
        (folder / half).unlink()
    name = b"caf\xe9"
    for suffix, content in ((b".png", png(0)), (b".txt", b"an a")):
        with open(bytes(folder) + b"/" + name + suffix, "wb") as file:
            file.write(content)
    (pair,) = image_text_pairs(folder, skipped=set()).as_numpy_iterator()
    assert pair["name"] == bytes(folder) + b"/" + name + b".png"
    assert rows(image_text_pairs(folder, "train", test_fraction=1e-9)) == EXPECTED[:1]


def test_each_of_a_list_names_files(folder):
    (folder / "a.tar").write_bytes(b"")
    for other in (folder / "inside", folder / "t.csv", str(folder / "typo*.tar")):
        with pytest.raises(
            ValueError, match=rf"'{re.escape(str(other))}' names no files of the kind.*a\.tar"
        ):
            image_text_pairs([folder / "a.tar", other])


def test_a_list_of_folders_says_what_to_do(folder):
    with pytest.raises(ValueError, match="list of sources should name shards"):
        image_text_pairs([str(folder), str(folder)])


class Nameless(tfds.core.GeneratorBasedBuilder):
    """Two good pictures, one that is broken, two without a caption; no names."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        images = [png(0), png(1), b"broken", png(2), png(3)]
        texts = ["an a", " a b\n", "broken", "", " "]
        for i, (image, text) in enumerate(zip(images, texts, strict=True)):
            yield i, {"image": io.BytesIO(image), "text": text}


def test_bad_pairs_of_a_tensorflow_dataset_are_counted(tmp_path):
    builder = Nameless(data_dir=tmp_path)
    skipped = set()
    found = rows(image_text_pairs(builder, skipped=skipped))
    assert sorted(found) == sorted(EXPECTED[:2])
    assert len(skipped) == 3 and all(name.startswith("nameless/train/") for name in skipped)
    with pytest.raises(tf.errors.InvalidArgumentError, match="caption is empty.*skipped=set"):
        rows(image_text_pairs(builder))


def table(tmp_path, name, content, pictures="abcde"):
    for picture in pictures:
        (tmp_path / f"{picture}.png").write_bytes(png(0))
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(source, **options):
    pairs = image_text_pairs(source, **options).as_numpy_iterator()
    return [(pathlib.Path(p["name"].decode()).name, p["text"].decode()) for p in pairs]


@pytest.mark.parametrize(
    ("content", "message", "named", "left"),
    [
        (
            "image,text\na.png,A dog, running\nb.png,a cat\n",
            "line 2: expected 2 fields.*quotes",
            1,
            1,
        ),
        ("image,text\na.png\nb.png,a cat\n", "line 2: expected 2 fields.*received 1", 1, 1),
        ('image,text\na.png,"A dog\nb.png,a cat\nc.png,"quoted" start\n', "line 2: .*double", 2, 1),
        ('image,text\na.png,"A dog\nb.png,a cat\nc.png,it ends"\n', "line 2: .*not closed", 1, 2),
        ('image,text\na.png,"' + "word " * 30_000 + '"\nb.png,a cat\n', "line 2: .*limit", 1, 1),
        (
            "image,text\nhttps://x.org/a.png,x\nb.png,a cat\n",
            "'https://x.org/a.png' is a web",
            1,
            1,
        ),
        ("image,text\na.png,\"['a dog', 'it']\"\nb.png,a cat\n", "line 2: a list.*jsonl", 1, 1),
        ("image,text\na.png,a d\0o\0g\0\nb.png,a cat\n", "line 2: .*`encoding`", 1, 1),
        (f"image,text\n{'iVBO' * 2000},a dog\nb.png,a cat\n", "line 2: .*name of an image", 1, 1),
    ],
)
def test_rows_that_would_be_read_wrongly_are_named(content, message, named, left, tmp_path):
    path = table(tmp_path, "t.csv", content)
    with pytest.raises(ValueError, match=message):
        read(path)
    skipped = set()
    assert len(read(path, skipped=skipped)) == left
    assert len(skipped) == named and all("t.csv, line" in x for x in skipped)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "image;text\na.png;A dog\n", "separator=';'"),
        ("t.csv", "image,text,text\na.png,x,y\n", "a column is there twice"),
        ("t.csv", "a.png,A dog\n", "columns="),
        ("t.csv", "image,text\na.png,A dog\n".encode("utf-16"), 'encoding="utf-16"'),
        ("t.json", '{"pictures": []}', "COCO's captions.*Karpathy's"),
        ("t.xlsx", "PK", r"t\.xlsx is none of .*\.csv.*save other tables as \.csv"),
        ("t.zip", "PK", r"t\.zip is none of .*\.tar.*Unpack"),
        ("t.json", '{"image": "a.png"}\n{"image": "b.png"}', r"t\.json is no JSON: .*\.jsonl"),
        ("t.json", "7", r"t\.json: expected an object or a list. Received: 7"),
        ("t.json", '[["a.png", "x"]]', r"t\.json, entry 1: expected a JSON object: \['a"),
        ("t.json", '[{"image": null, "text": "x"}]', "entry 1: expected the name of an image"),
        (
            "t.json",
            '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],'
            ' "annotations": [{"image_id": 1, "caption": "of which?"}]}',
            "another `id` for each image. Received: 1 of 2",
        ),
        ("t.csv", "image,text,split\na.png,x,train\nb.png,y,Train\n", "two ways: 'Train', 'train'"),
        (
            "t.jsonl",
            '{"image": "a.png", "text": "x"}\n{"image": "a.png", "text": "x", "text": "}"}',
            r"t\.jsonl, line 2: .*'text' is there twice",
        ),
        (
            "t.json",
            '{"images": [{"id": 7, "file_name": "a.png"}],\n'
            ' "annotations": [{}, {"image_id": 7,\n"caption": "\\"}\\"", "caption": "x"}]}',
            r"t\.json.*'caption' is there twice .*: line 3 ",
        ),
        ("t.json", "[" * 100_000, "nested too deeply"),
        ("t.json", "[]".encode("utf-16"), 'encoding="utf-16"'),
        (
            "t.json",
            '{"images": [{"id": 1, "file_name": 7}], "annotations": []}',
            r"t\.json, image 7: expected the name of an image\. Received: 7",
        ),
        ("t.csv", "sep=;\nimage;text\na.png;x\n", "'sep=;', by which Excel .*Take that line out"),
    ],
)
def test_other_layouts_are_refused_with_the_remedy(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(table(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", "image;text\na.png;A dog, running\n", {"separator": ";"}),
        ("t.csv", 'a.png,"A dog, running"\n', {"columns": ("image", "text")}),
        ("t.csv", 'image,text\na.png,"A dog, running"\n'.encode("utf-16"), {"encoding": "utf-16"}),
        ("captions.txt", 'image,caption\na.png,"A dog, running"\n', {}),
        (
            "t.json",
            '[{"image": "a.png", "text": "A dog, running"}]'.encode("utf-16"),
            {"encoding": "utf-16"},
        ),
        ("flickr.token", "a.png#0\tA dog, running\n", {}),
        ("blip.json", '[{"image": "a.png", "caption": ["A dog, running"], "image_id": "7"}]', {}),
        ("t.TSV", "image\ttext\na.png\tA dog, running\n", {}),
        (
            "captions_val.json",
            '{"images": [{"id": 7, "file_name": "a.png"}],'
            ' "annotations": [{"image_id": 7, "caption": "A dog, running"}]}',
            {},
        ),
    ],
)
def test_tables_as_people_have_them(name, content, options, tmp_path):
    assert read(table(tmp_path, name, content), **options) == [("a.png", "A dog, running")]


def test_captions_of_images_that_were_taken_out_are_warned_of(tmp_path):
    content = (
        '{"images": [{"id": 7, "file_name": "a.png"}], "annotations": ['
        '{"image_id": 8, "caption": "lost"}, {"image_id": 7, "caption": "A dog"}]}'
    )
    with pytest.warns(UserWarning, match="t.json: 1 captions are of no image.*first 'lost'"):
        assert read(table(tmp_path, "t.json", content)) == [("a.png", "A dog")]


def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path):
    content = f"image,text\n{'iVBO' * 99},a dog\nb.png,a cat\n"
    with pytest.raises(FileNotFoundError, match="1 of 2 images are not there"):
        read(table(tmp_path, "t.csv", content))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "||"}, r"`separator` should be one character. Received: '\|\|'"),
        ({"encoding": "utf9"}, "`encoding` should be one that Python knows.*Received: 'utf9'"),
    ],
)
def test_separators_and_encodings_that_there_are_not(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


def test_a_tab_separated_caption_may_begin_with_a_quote(tmp_path):
    content = 'image\ttext\na.png\t"Untitled by an artist\nb.png\t"quoted" start\nc.png\ta cat\n'
    expected = [
        ("a.png", '"Untitled by an artist'),
        ("b.png", '"quoted" start'),
        ("c.png", "a cat"),
    ]
    assert read(table(tmp_path, "t.tsv", content)) == expected


def test_the_splits_of_a_table(tmp_path):
    images = [
        {"filename": f"{x}.png", "split": s, "sentences": [{"raw": f"{x} 1"}, {"raw": f"{x} 2"}]}
        for x, s in zip("abc", ("train", "val", "test"), strict=True)
    ]
    (tmp_path / "pictures").mkdir()
    table(tmp_path / "pictures", "unused.txt", "")
    (tmp_path / "k.json").write_text(json.dumps({"images": images}))
    options = {"image_dir": tmp_path / "pictures"}
    found = {s: read(tmp_path / "k.json", split=s, **options) for s in ("train", "val", "test")}
    assert found["val"] == [("b.png", "b 1"), ("b.png", "b 2")]
    assert [name for name, _ in found["train"] + found["test"]] == [
        "a.png",
        "a.png",
        "c.png",
        "c.png",
    ]
    with pytest.raises(ValueError, match="split"):
        read(tmp_path / "k.json", split="restval", **options)


def test_pictures_that_are_all_missing(tmp_path):
    path = table(tmp_path, "t.csv", "image,text\nx/a.png,a\nx/b.png,b\n")
    with pytest.raises(FileNotFoundError, match="2 of 2 images are not there, first .*image_dir"):
        read(path, skipped=set())


@pytest.mark.parametrize("options", [{}, {"image_dir": "elsewhere"}])
def test_whole_paths_of_pictures_that_are_elsewhere_now(options, tmp_path):
    path = table(tmp_path, "t.csv", "image,text\n/old/a.png,a\n/old/b.png,b\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 2 .*/old/a\.png.*relative to `image_dir`"):
        read(path, **options)


def test_of_a_txt_and_a_caption_one_is_chosen(tmp_path):
    table(tmp_path, "a.txt", "cat, fur, grass", "a")
    (tmp_path / "a.caption").write_text("A cat in the grass.")
    with pytest.raises(ValueError, match=r"a\.png: both a\.txt and a\.caption .*`text_key`"):
        read(tmp_path)
    assert read(tmp_path, text_key="txt") == [("a.png", "cat, fur, grass")]
    assert read(tmp_path, text_key="caption") == [("a.png", "A cat in the grass.")]
    with pytest.raises(ValueError, match="`text_key` of a folder.*Received: 'json'"):
        read(tmp_path, text_key="json")
    (tmp_path / "a.caption").rename(tmp_path / "a.png.txt")
    skipped = set()
    with pytest.raises(ValueError, match=r"no pair among 1 files, first .*a\.png: both"):
        read(tmp_path, skipped=skipped)


def test_each_half_of_a_pair_is_named(tmp_path):
    files = {
        **{f"{x}.png": png(0) for x in ("ok", "alone", "twice", ".hidden/h", "named", "upper")},
        **{"ok.txt": b"x\ny\n", "twice.png.txt": b"x", "named.caption": b"x", "upper.TXT": b"x"},
        **{"lost.txt": b"x", "README.txt": b"x", "photo.HEIC": b"x", "._ok.png": b"half"},
        **{"jpeg.jfif": tf.io.encode_jpeg(np.zeros([4, 4, 3], "uint8")).numpy(), "jpeg.txt": b"x"},
        **{".hidden/h.txt": b"x", "deep/er/d.png": png(0), "deep/er/d.txt": "x\u2028y".encode()},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "deep")  # Seen once.
    with pytest.raises(ValueError, match=r"alone\.png: there is no caption"):
        read(tmp_path)
    skipped = set()
    names = [name for name, _ in read(tmp_path, skipped=skipped)]
    assert sorted(names) == sorted(
        ["ok.png", "ok.png", "twice.png", "named.png", "upper.png", "jpeg.jfif", "d.png"]
    )
    assert sorted(pathlib.Path(x.partition(": ")[0]).name for x in skipped) == [
        *("alone.png", "lost.txt", "photo.HEIC"),
    ]


def test_a_caption_file_without_a_picture_is_warned_of(tmp_path):
    table(tmp_path, "a.txt", "an a", "a")
    for name in ("notes <b>&.txt", "deep/b.caption", "license.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.warns(UserWarning, match="belong to no picture.*: notes <b>&.txt, deep/b.caption"):
        assert read(tmp_path) == [("a.png", "an a")]
    skipped = set()
    assert len(read(tmp_path, skipped=skipped)) == 1
    assert skipped == {
        f"{tmp_path / x}: there is no image beside it" for x in ("notes <b>&.txt", "deep/b.caption")
    }
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"no pair among 3 files, first .*a\.txt: there is no im"):
        read(tmp_path)


def test_names_that_differ_in_capitals_are_pairs_of_their_own(tmp_path):
    for stem in ("a", "A"):
        table(tmp_path, f"{stem}.txt", f"of {stem}", stem)
    assert read(tmp_path) == [("A.png", "of A"), ("a.png", "of a")]


def test_shards_beside_pictures_are_ambiguous(tmp_path):
    table(tmp_path, "a.txt", "x", "a")
    (tmp_path / "backup.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="holds shards and pictures"):
        read(tmp_path)


def test_tables_in_subfolders_are_pointed_at(tmp_path):
    (tmp_path / "train").mkdir()
    table(tmp_path / "train", "metadata.csv", "file_name,text\na.png,x\n")
    with pytest.raises(ValueError, match=r"subfolders. Pass '.*train/metadata.csv'"):
        read(tmp_path)


def test_a_name_that_is_nothing_is_refused_in_a_line():
    with pytest.raises(ValueError, match=r"^There is no file, folder or dataset 'photoz'\.$"):
        read("photoz")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_letters_of_their_own(form, tmp_path):
    (tmp_path / (unicodedata.normalize(form, "\u00e9") + ".png")).write_bytes(png(0))
    assert len(read(table(tmp_path, "t.csv", "image,text\n\u00e9.png,x\ne\u0301.png,y\n", ""))) == 2


def test_the_number_of_pairs_is_known_with_skipped(folder):
    """`fit` and `ExactResume` ask for it; a broken and a missing image are named at once."""
    lines = ["image,text", "a.png,x", "c.jpg,y", "inside/b.png,z", "none.png,w", "a.png,again"]
    (folder / "t.csv").write_text("\n".join(lines))
    skipped = set()
    pairs = image_text_pairs(folder / "t.csv", skipped=skipped, shuffle_buffer=9)
    assert pairs.batch(2).cardinality() == 2 and len(rows(pairs)) == 3
    assert len(skipped) == 2 and str(folder / "c.jpg") in skipped
    with pytest.raises(ValueError, match=r"^1 of 1 images do not decode, first '.*c\.jpg': ex"):
        image_text_pairs(table(folder, "bad.csv", "image,text\nc.jpg,y\nc.jpg,z\n"), skipped=set())


@pytest.mark.parametrize("skipped", [None, set()])
def test_a_table_from_windows_is_refused_with_the_remedy(skipped, tmp_path):
    path = table(tmp_path, "t.csv", "image,text\nx\\a.png,a\nx\\b.png,b\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 2 images.*line 2.*x\\\\a\.png.*Write \"/\""):
        read(path, skipped=skipped)


def test_a_source_without_one_good_pair_says_why(tmp_path):
    for name, files, message in (
        (
            "pictures",
            {"a.png": png(0), "b.png": png(0)},
            r"no pair among 2 files, first .*a\.png",
        ),
        ("phone", {"a.heic": b"x", "a.txt": b"x"}, r"first .*a\.heic: images of this kind are not"),
        (
            "table",
            {"a.png": png(0), "t.csv": b"image,text\na.png,\n"},
            "None of 1 pairs.* line 2: ",
        ),
        ("latin", {"a.png": png(0), "a.txt": b"caf\xe9"}, r"None of 1 pairs.*a\.txt.*`encoding`"),
        (
            "urls",
            {"t.csv": b"image,text\nhttps://x/a.png,x\nhttps://x/b.png,y\n"},
            "no train pairs in .*: 2 are in `skipped`, for example .*line 2: .*is a web address",
        ),
        ("name", {"t.csv": b"image,text\ncaf\xe9.png,x\n"}, "1 of 1 images.*line 2.*`image_dir`"),
    ):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            image_text_pairs(tmp_path / name, skipped=set())
    with pytest.raises(ValueError, match=r"`test_fraction` should be in 0\.\.1. Received: 20"):
        image_text_pairs(tmp_path / "pictures", test_fraction=20)


def test_the_splits_in_a_column(tmp_path):
    content = "image,text,split\na.png,x,train\nb.png,y,val\nc.png,z,\n"
    path = table(tmp_path, "t.csv", content)
    skipped = set()
    assert read(path, split="val", skipped=skipped) == [("b.png", "y")]
    (message,) = skipped
    assert message.startswith(f"{path}, line 4: belongs to no split")
    with pytest.raises(ValueError, match="`split` should be one of 'train', 'val'"):
        read(path, split="test", skipped=set())


def test_arguments_that_would_change_nothing_are_refused(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    karpathy = [{"filename": "a.png", "split": "train", "sentences": [{"raw": "x"}]}]
    (other / "k.json").write_text(json.dumps({"images": karpathy}))
    (other / "t.jsonl").write_text('{"image": "a.png", "text": "x"}')
    (other / "a.tar").write_bytes(b"")
    for source, option, value, message in (
        (other / "k.json", "test_fraction", 0.2, r"k\.json is divided already, into 'train'"),
        (other / "k.json", "separator", ";", "`separator` does not apply to COCO's"),
        (other / "t.jsonl", "separator", ";", "`separator` does not apply to JSON"),
        (other / "a.tar", "encoding", "latin-1", r"apply to shards: leave it out for '.*a\.tar'"),
        (other / "a.tar", "image_dir", other, "`image_dir` does not apply to shards"),
        (folder, "image_dir", other, "`image_dir` does not apply to a folder of pictures"),
        ("two_captions", "columns", ("image", "text"), "`columns` does not apply to a TensorFlow"),
    ):
        with pytest.raises(ValueError, match=message):
            image_text_pairs(source, **{option: value})


def test_the_encoding_of_text_files(folder):
    (folder / "c.jpg").unlink()
    (folder / "a.txt").write_bytes(b"caf\xe9")
    (folder / "inside" / "b.txt").write_bytes(b"th\xe9")
    assert [text for _, text in rows(image_text_pairs(folder, encoding="latin-1"))] == [
        *("caf\u00e9", "th\u00e9"),
    ]


def test_addresses_of_files(tmp_path):
    table(tmp_path, "t.csv", f"image,text\nfile://{tmp_path}/my%20a.png,x\n", ["my a"])
    assert read(tmp_path / "t.csv") == [("my a.png", "x")]


def test_a_hugging_face_dataset_on_disk_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match="Arrow files, which are not read.*`to_parquet`"):
        read(tmp_path)

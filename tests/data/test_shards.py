"""Tar shards and TFRecords, whole and damaged: what is bad is counted and named, nothing else lost."""

import gzip
import io
import json
import os
import re
import tarfile
import warnings

import pytest
import tensorflow as tf

from keras_lit.data import image_text_pairs


def png(value):
    return tf.io.encode_png(tf.fill([4, 5, 3], tf.constant(value, tf.uint8))).numpy()


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.LNKTYPE, "a.png"
                tar.addfile(info)
                continue
            content = content if isinstance(content, bytes) else content.encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_records(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
                for name, values in row.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return path


def texts(pairs):
    return [pair["text"].decode() for pair in pairs.as_numpy_iterator()]


@pytest.fixture
def shards(tmp_path):
    """Four tars of ten pairs each."""
    for shard in range(4):
        files = []
        for i in range(10):
            files += [
                (f"{shard}{i}.png", png(10 * shard + i)),
                (f"{shard}{i}.txt", f"pair {shard}{i}\n"),
            ]
        write_tar(tmp_path / f"{shard}.tar", files)
    return tmp_path


ALL = [f"pair {shard}{i}" for shard in range(4) for i in range(10)]


def test_tars_of_a_folder_a_glob_and_a_list(shards):
    pairs = list(image_text_pairs(shards).as_numpy_iterator())
    assert sorted(pair["text"].decode() for pair in pairs) == ALL
    pair = next(pair for pair in pairs if pair["text"] == b"pair 23")
    assert pair["image"] == png(23) and pair["name"].decode() == f"{shards}/2.tar/23"
    assert sorted(texts(image_text_pairs(f"{shards}/*.tar"))) == ALL
    assert texts(image_text_pairs([str(shards / "3.tar")])) == ALL[30:]


@pytest.mark.slow
def test_webdataset_and_img2dataset_layouts(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [
            ("00/1.0.jpg", tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()),
            ("00/1.0.json", json.dumps({"caption": ["one", "two"], "url": "x"})),
            ("00/2.json", json.dumps({"caption": "the json's", "key": "2"})),
            ("00/2.PNG", png(1)),
            ("00/2.txt", "the text's, which goes first"),
            ("00/2.cls", "7"),
        ],
    )
    # webdataset cuts at the first dot, so "1" has the extensions "0.jpg" and "0.json".
    pairs = image_text_pairs(
        tmp_path / "a.tar", image_key="0.jpg", text_key="0.json", skipped=set()
    )
    assert len(texts(pairs)) == 1
    assert texts(image_text_pairs(tmp_path / "a.tar", skipped=set())) == [
        "the text's, which goes first"
    ]
    captions = image_text_pairs(tmp_path / "a.tar", text_key="caption", skipped=set())
    assert texts(captions) == ["the json's"]
    for key, expected in (("cls", ["7"]), ("key", ["2"]), ("url", [])):
        skipped = set()
        found = image_text_pairs(tmp_path / "a.tar", group_key=key, skipped=skipped)
        assert [pair["group"].numpy().decode() for pair in found] == expected
        assert any("expected a group" in message for message in skipped) == (key == "url")


def test_folders_in_a_tar_are_passed_over(tmp_path):
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / "1.png").write_bytes(png(1))
    (tmp_path / "00" / "1.txt").write_text("one")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "00", "00")
    assert texts(image_text_pairs(tmp_path / "a.tar")) == ["one"]


def test_records_with_several_captions(tmp_path):
    rows = [
        {"image": [png(0)], "caption": [b"a", b"b"], "key": [b"k"]},
        {"jpg": [png(1)], "txt": [b"c"]},
    ]
    path = write_records(tmp_path / "a.tfrecord", rows)
    assert texts(image_text_pairs(path)) == ["a", "b", "c"]
    assert texts(image_text_pairs(path, captions="first")) == ["a", "c"]
    drawn = image_text_pairs(path, captions="random", seed=1)
    assert {tuple(texts(drawn)) for _ in range(12)} == {("a", "c"), ("b", "c")}
    names = [pair["name"].decode() for pair in image_text_pairs(path).as_numpy_iterator()]
    assert names == [f"{path}/k", f"{path}/k", f"{path}/1"]


def test_records_may_have_webdatasets_key(tmp_path):
    row = {"jpg": [png(1)], "txt": [b"one"], "__key__": [b"k"]}
    path = write_records(tmp_path / "a.tfrecord", [row])
    (pair,) = image_text_pairs(path).as_numpy_iterator()
    assert pair["name"].decode() == f"{path}/k"


def test_half_pairs_bad_text_and_bad_images_are_named(shards):
    write_tar(
        shards / "1.tar",
        [
            ("a.png", png(0)),
            ("b.png", png(1)),
            ("b.txt", "good"),
            ("c.txt", "no image"),
            ("d.png", png(2)),
            ("d.txt", b"caf\xe9"),
            ("e.png", png(3)),
            ("e.txt", "  \n"),
            ("f.png", b"no image at all"),
            ("f.txt", "does not decode"),
            ("g.png", png(4)),
            ("g.txt", "good, too"),
        ],
    )
    skipped = set()
    pairs = image_text_pairs(shards, skipped=skipped)
    good = sorted([*ALL[:10], *ALL[20:], "good", "good, too"])
    assert sorted(texts(pairs)) == good
    assert sorted(texts(pairs)) == good  # another epoch counts nothing twice
    assert sorted(message.removeprefix(f"{shards}/1.tar/") for message in skipped) == [
        "a: no text among png",
        "c: no image among txt",
        "d: the text is not UTF-8: b'caf\\xe9'",
        "e: the text is empty",
        "f",
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"1\.tar/a: no text.*skipped=set"):
        texts(image_text_pairs(shards))


@pytest.mark.parametrize("suffix", ["tar", "tfrecord"])
def test_a_truncated_shard_loses_its_rest_only(suffix, shards):
    if suffix == "tfrecord":
        for shard in range(4):
            (shards / f"{shard}.tar").unlink()
            rows = [{"image": [png(i)], "text": [ALL[10 * shard + i].encode()]} for i in range(10)]
            write_records(shards / f"{shard}.tfrecord", rows)
    path = shards / f"2.{suffix}"
    content = path.read_bytes()
    # A tar block is 512 bytes: pair 4 ends at 4 * 5 blocks or so; a record's length is the same.
    path.write_bytes(content[: 10 * 1024 + 700 if suffix == "tar" else len(content) * 55 // 100])
    skipped = set()
    found = sorted(texts(image_text_pairs(shards, skipped=skipped)))
    assert set(found) >= {*ALL[:20], *ALL[30:]} and 22 <= len(found) - 10 < 38
    assert found == sorted(set(found)) and set(found) <= set(ALL)
    (message,) = skipped
    assert message.startswith(f"{path}: cannot be read further after ")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"2.{suffix}: cannot be read further"):
        texts(image_text_pairs(shards))


def test_tars_that_were_joined_by_cat(shards):
    both = b"".join((shards / f"{i}.tar").read_bytes() for i in (0, 1))
    (shards / "0.tar").write_bytes(both)
    assert texts(image_text_pairs(shards / "0.tar")) == ALL[:20]
    (shards / "0.tar").write_bytes(both[:-12_000])  # Into the second one's last files.
    skipped = set()
    found = texts(image_text_pairs(shards / "0.tar", skipped=skipped))
    assert 12 < len(found) < 20 and "cannot be read further after" in skipped.pop()
    parts = [gzip.compress((shards / f"{i}.tar").read_bytes()) for i in (2, 3)]
    (shards / "2.tar.gz").write_bytes(b"".join(parts))
    assert texts(image_text_pairs(shards / "2.tar.gz")) == ALL[20:]
    (shards / "2.tar.gz").write_bytes(parts[0][:-9])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"2\.tar\.gz: cannot be read further"):
        texts(image_text_pairs(shards / "2.tar.gz"))


def test_a_missing_shard_does_not_stop_the_others(shards):
    files = [*map(str, sorted(shards.iterdir())), f"{shards}/gone.tar"]
    skipped = set()
    assert sorted(texts(image_text_pairs(files, skipped=skipped))) == ALL
    assert len(skipped) == 1 and "gone.tar: cannot be read further after 0 records" in skipped.pop()


def test_workers_read_disjoint_parts(shards):
    parts = [texts(image_text_pairs(shards, shard=(i, 2))) for i in range(2)]
    assert sorted(parts[0] + parts[1]) == ALL and len(parts[0]) == 20
    assert texts(image_text_pairs(shards, shard=(1, 2))) == parts[1]
    with pytest.raises(ValueError, match="5 workers need at least as many shards. Received: 4"):
        image_text_pairs(shards, shard=(0, 5))
    with pytest.raises(ValueError, match=r"index below count. Received: \(2, 2\)"):
        image_text_pairs(shards, shard=(2, 2))


def test_shards_are_shuffled_by_seed(shards):
    def read(seed):
        pairs = image_text_pairs(shards, shuffle_buffer=10, seed=seed)
        return texts(pairs), texts(pairs)

    (first, second), again, other = read(1), read(1), read(2)
    assert first != second and (first, second) == again != other
    assert sorted(first) == sorted(second) == ALL
    # A buffer of one pair leaves the order of the shards alone to change.
    pairs = image_text_pairs(shards, shuffle_buffer=1, seed=1)
    orders = {tuple(text[:7] for text in texts(pairs)[::10]) for _ in range(4)}
    assert len(orders) > 1


def test_splits_of_shards(shards, tmp_path_factory):
    """An image keeps its split wherever the shards lie; without `test_fraction` there is no test."""
    moved = tmp_path_factory.mktemp("moved")
    for file in shards.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    train, test = (texts(image_text_pairs(shards, s, test_fraction=0.3)) for s in ("train", "test"))
    assert sorted(train + test) == ALL and 4 < len(test) < 20
    assert texts(image_text_pairs(moved, "test", test_fraction=0.3)) == test
    with pytest.raises(ValueError, match="`test_fraction`"):
        image_text_pairs(shards, "test")
    with pytest.raises(ValueError, match="`split` should be one of 'train', 'test'"):
        image_text_pairs(shards, "trian")


@pytest.mark.slow
def test_odd_records_are_named_and_the_others_read(tmp_path):
    files = [
        *[("a.png", png(0)), ("._a.png", b"of macOS"), ("a.txt", "\ufeffgood")],
        *[("b.png", png(0)), ("b.json", "[1]")],
        *[("c.png", png(0)), ("c.json", '{"caption": NaN}')],
        *[("d.png", png(0)), ("d.json", '{"caption": ["a dog", null]}')],
        *[("e.png", png(0)), ("e.json", '{"caption": "a dog", "caption": "a cat"}')],
        *[("caf\udce9.png", png(0)), ("caf\udce9.txt", "also good")],
    ]
    write_tar(tmp_path / "a.tar", files)
    skipped = set()
    pairs = list(image_text_pairs(tmp_path / "a.tar", skipped=skipped).as_numpy_iterator())
    assert [pair["text"] for pair in pairs] == [b"good", b"also good"]
    assert pairs[1]["name"] == bytes(tmp_path) + b"/a.tar/caf\xe9"
    assert sorted(message.split(".tar/")[1].split(":")[0] for message in skipped) == [*"bcde"]
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff no Example")
    skipped = set()
    assert texts(image_text_pairs(tmp_path / "a.tfrecord", skipped=skipped)) == []
    assert len(skipped) == 1 and "a.tfrecord/0: no image" in skipped.pop()
    assert texts(image_text_pairs(f"{tmp_path}/?.tar", skipped=set())) == ["good", "also good"]


def test_a_tar_may_be_one_of_so_many(tmp_path, monkeypatch):
    files = [("a.png", png(0)), ("a.txt", "one")]
    write_tar(tmp_path / "x.tar-00000-of-00001", files)
    assert texts(image_text_pairs(tmp_path)) == ["one"]
    monkeypatch.chdir(tmp_path)
    assert texts(image_text_pairs("./x.tar-*")) == ["one"]


def test_shards_whose_names_are_not_utf8(tmp_path):
    folder = bytes(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for i in range(2):
        files = [("a.png", png(i)), ("a.txt", str(i)), ("b.png", png(i))]
        write_tar(os.fsdecode(folder + b"/%d.tar" % i), files)
    for source in (os.fsdecode(folder), os.fsdecode(folder + b"/*.tar")):
        skipped = set()
        pairs = list(image_text_pairs(source, skipped=skipped).as_numpy_iterator())
        assert sorted(pair["name"] for pair in pairs) == [folder + b"/%d.tar/a" % i for i in (0, 1)]
        assert len(skipped) == 2 and all("no text" in message for message in skipped)
    with pytest.raises(tf.errors.InvalidArgumentError, match="tar/b: no text"):
        texts(image_text_pairs(os.fsdecode(folder)))


def test_hidden_files_are_left_out(tmp_path):
    files = [(".DS_Store", "x"), ("./a.png", png(0)), ("./a.txt", "one")]
    files += [(f".ipynb_checkpoints/a-checkpoint.{x}", png(1)) for x in ("png", "txt")]
    write_tar(tmp_path / "x.tar", files)
    assert texts(image_text_pairs(tmp_path / "x.tar")) == ["one"]


def test_what_would_be_read_in_part_is_refused(tmp_path):
    files = [(f"a.{ending}", png(0) if ending == "png" else "a") for ending in ("png", "txt") * 2]
    write_tar(tmp_path / "a.tar", files)
    write_tar(tmp_path / "b.tar", [("b.png", png(0)), ("b.txt", "a dog".encode("utf-16-le"))])
    write_records(tmp_path / "c.tfrecord", [{"image": [png(0), png(1)], "text": [b"c"]}])
    write_tar(tmp_path / "d.tar", [("d.jpg", png(0)), ("d.png", png(1)), ("d.txt", "d")])
    write_tar(tmp_path / "e.tar", [("e.png", png(0)), ("e.txt", "tags"), ("e.caption", "words")])
    write_tar(tmp_path / "f.tar", [("f.png", None), ("f.txt", None), ("folder", None)])
    (tmp_path / "g.tfrecord").write_bytes(gzip.compress(b"records"))
    skipped = set()
    assert texts(image_text_pairs(tmp_path, skipped=skipped)) == []
    messages = (
        *("no image among txt (there twice)", "UTF-16", "2 im", "both jpg and png.*`image_key`"),
        *("both txt and caption.*`text_key`", r"no image among png, png (a link", "gzip -d"),
    )
    for of, expected in zip(sorted(skipped), messages, strict=True):
        assert re.search(expected.replace("(", r"\(").replace(")", r"\)"), of), of
    assert texts(image_text_pairs(tmp_path / "d.tar", image_key="png")) == ["d"]
    assert texts(image_text_pairs(tmp_path / "e.tar", text_key="caption")) == ["words"]
    write_tar(tmp_path / "f.tar", [("f.png", png(0)), ("f.caption", "words\nothers\n")])
    assert texts(image_text_pairs(tmp_path / "f.tar")) == ["words", "others"]  # As in a folder.


@pytest.mark.parametrize("pattern", ["x-{000..001}.tar", "x-{a,b}.tar", "x-{0..1}.tfrecord"])
def test_braces_without_files_are_refused_before_reading(pattern, tmp_path):
    for skipped in (None, set()):
        with pytest.raises(
            FileNotFoundError, match=r"^2 of 2 files are not there, first '.*x-[0a]"
        ):
            image_text_pairs(str(tmp_path / pattern), skipped=skipped)


def test_braces_with_words(shards):
    found = texts(image_text_pairs(f"{shards}/{{1,3}}.tar"))
    assert sorted(found) == ALL[10:20] + ALL[30:]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files .*5\.tar'. Mend the name, or pass"):
        image_text_pairs(f"{shards}/{{1,5}}.tar")


def test_the_reason_is_not_buried_in_a_traceback(tmp_path):
    write_tar(tmp_path / "x.tar", [("lone.png", png(0))])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        texts(image_text_pairs(tmp_path / "x.tar"))
    first, _ = str(caught.value).split("\n")
    assert re.search(r"x\.tar/lone: no text among png\. Mend it, or pass `skipped=set\(\)`", first)


@pytest.mark.parametrize("source", ["", "*"])
def test_a_shard_that_is_missing_of_so_many_is_warned_of(source, tmp_path):
    for name in ("x-00000-of-00003.tar", "y-00001-of-00002.tar", "y-00002-of-00002.tar"):
        write_tar(tmp_path / name, [("a.png", png(0)), ("a.txt", b"a")])
    expected = "2 of 3 files are missing, first x-00001-of-00003. Only"
    with pytest.warns(UserWarning, match=expected) as caught:
        pairs = image_text_pairs(tmp_path / source)
    assert len(caught) == 1 and len(texts(pairs)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Whoever names files means these.
        image_text_pairs(tmp_path / "x-00000-of-00003.tar")
        image_text_pairs([str(tmp_path / "x-00000-of-00003.tar")])


def test_a_file_may_have_the_signs_of_a_glob_in_its_name(tmp_path):
    for name in ("x[1].tar", "x{1..2}.tar"):
        write_tar(tmp_path / name, [("a.png", png(0)), ("a.txt", b"a")])
        assert texts(image_text_pairs(tmp_path / name)) == ["a"]

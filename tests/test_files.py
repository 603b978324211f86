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

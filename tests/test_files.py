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
    path = tmp_path / "folder"
    with files.whole_folder(path) as working:
        (working / "a.txt").write_text("all of it")
        assert not path.exists()
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        "folder",
        "folder/a.txt",
    ]
    with pytest.raises(OSError), files.whole_folder(path) as working:
        (working / "b.txt").write_text("of another")
    with files.whole_folder(path, first_stays=True) as working:
        (working / "a.txt").write_text("as if two processes had begun at once")
    assert (path / "a.txt").read_text() == "all of it"
    with pytest.raises(RuntimeError), files.whole_folder(tmp_path / "other"):
        raise RuntimeError
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "a.txt"]


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path):
    for name in ("a.txt", "a.txt.old.tmp", "b.txt.3.tmp"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "a.txt.12.tmp").write_text("half")
    (tmp_path / "a.txt.13.tmp" / "folder").mkdir(parents=True)
    files.remove_leftovers(tmp_path / "a.txt")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.txt",
        "a.txt.old.tmp",
        "b.txt.3.tmp",
    ]

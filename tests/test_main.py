"""`python -m tests`: every file once, and none that fails, crashes or is not there goes unnoticed."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = {
    "good": "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('not here')\n",
    "bad": "def test_a(): pass\ndef test_b(): assert 0\n",
    "dead": "import os\ndef test_a(): os._exit(7)\n",
    "more": "def test_a(): pass\n",
    "broken": "import no_such_module\n",
}


def run(directory, *names, **environment):
    """The exit status and the last two lines of what is printed."""
    (directory / "pytest.ini").write_text("[pytest]\n")
    for name in names:
        (directory / f"test_{name}.py").write_text(FILES[name])
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    child = subprocess.run(
        [sys.executable, "-m", "tests", "-p", "no:cacheprovider"],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return child.returncode, child.stdout.split("\n")[-3:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "status", "summed"),
    [
        (["good", "more"], 0, "2 passed, 1 skipped in"),
        (["good", "bad", "more"], 1, "1 failed, 3 passed, 1 skipped in"),
        (["broken", "more"], 2, "no tests in"),
        ([], 5, "no tests in"),
    ],
)
def test_sum_and_status(tmp_path, names, status, summed):
    found, (_, line) = run(tmp_path, *names)
    assert (found, line[: len(summed)]) == (status, summed)


@pytest.mark.slow
def test_a_file_that_kills_its_process_is_named_and_the_others_run(tmp_path):
    status, (named, line) = run(tmp_path, "dead", "good", "more")
    assert (status, named) == (1, "NOT FINISHED test_dead.py")
    assert line.startswith("2 passed, 1 skipped in")


@pytest.mark.slow
def test_a_process_that_has_grown_is_replaced(tmp_path):
    status, (_, line) = run(tmp_path, "good", "more", "bad", KERAS_LIT_TESTS_GROWN="1")
    assert status == 1
    assert line.startswith("1 failed, 3 passed, 1 skipped in")
    assert int(line.split(" by ")[1].split()[0]) >= 3  # Two processes at a time, three files.

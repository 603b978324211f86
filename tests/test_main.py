"""`python -m tests`: every file once, and none that fails, crashes or is not there goes unnoticed."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = {
    "good": "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('not here')\n",
    "bad": "def test_a(): pass\ndef test_b():\n    print('what is printed')\n    assert 0, 'why'\n",
    "worse": "def test_a(): assert 0\ndef test_b(): assert 0\n",
    "dead": "import os\ndef test_a(): pass\ndef test_b(): os._exit(7)\ndef test_c(): pass\n",
    "more": "def test_a(): pass\n",
    "big": "def test_a(): assert len(b'1' * 1_234_000_000)\n",
    "broken": "import no_such_module\n",
    "early": (
        "import sys, types\ncontext = types.SimpleNamespace(_initialized=True)\n"
        "module = types.SimpleNamespace(context=lambda: context)\n"
        "sys.modules['tensorflow.python.eager.context'] = module\n"
    ),
    "fixture": (
        "import pytest\n@pytest.fixture\ndef a():\n    yield\n    assert 0\ndef test_a(a): pass\n"
    ),
}


def run(tmp_path, *names, options=()):
    """The exit status and what is printed by lines."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in names:
        (tmp_path / f"test_{name}.py").write_text(FILES[name])
    child = subprocess.run(
        [sys.executable, "-m", "tests", "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    return child.returncode, child.stdout.splitlines()


@pytest.mark.parametrize(
    ("names", "options", "status", "summed"),
    [
        (["good", "more"], [], 0, "2 passed, 1 skipped in"),
        (["good", "bad", "more"], [], 1, "1 failed, 3 passed, 1 skipped in"),
        (["good", "bad", "more"], ["-k", "test_a"], 0, "3 passed, 2 deselected in"),
        (["good", "bad"], ["test_bad.py::test_b"], 1, "1 failed in"),
        (["worse"], ["-x"], 1, "1 failed in"),
        (["fixture"], [], 1, "1 passed, 1 error in"),
        (["broken", "more"], [], 2, "1 error in"),
        ([], [], 5, "no tests ran in"),
    ],
)
def test_sum_and_status(tmp_path, names, options, status, summed):
    found, lines = run(tmp_path, *names, options=options)
    assert (found, lines[-1].strip("= ")[: len(summed)]) == (status, summed)


def test_why_a_test_failed_and_what_it_printed(tmp_path):
    _, lines = run(tmp_path, "bad", "good")
    assert "E       AssertionError: why" in lines
    assert "what is printed" in lines


def test_a_file_that_ends_its_process_is_named_and_the_others_run(tmp_path):
    status, lines = run(tmp_path, "dead", "good", "more")
    assert status == 1
    assert lines[-1].strip("= ").startswith("1 failed, 3 passed, 1 skipped in")
    assert lines[-2].startswith(
        "FAILED test_dead.py::test_b - The process ended here with exit status 7"
    )


def test_a_file_that_starts_tensorflow_too_early_is_named(tmp_path):
    status, lines = run(tmp_path, "early", "more")
    assert status == 4
    assert "test_early.py starts TensorFlow while it is imported" in lines[-1]


def test_the_largest_process_is_measured(tmp_path):
    _, lines = run(tmp_path, "big", "more")
    (line,) = (line for line in lines if line.startswith("The largest process had"))
    assert float(line.split()[4]) == pytest.approx(1.3, abs=0.1)

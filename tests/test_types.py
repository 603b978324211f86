"""Type hints answer in a user's editor: `py.typed`, `Literal`, modules that wait to be imported."""

import pathlib
import subprocess
import sys

import pytest

import keras_lit

SCRIPT = pathlib.Path(__file__).parent / "user.py"


def mypy(path):
    """What it says of a user's script, not of what that imports, as for an installed package."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
    ]
    cache = path.parent / "cache"
    return subprocess.run(
        [*command, "--cache-dir", cache, "--no-error-summary", path],
        cwd=pathlib.Path(keras_lit.__file__).parent.parent,
        capture_output=True,
        text=True,
    ).stdout


def mistakes(folder):
    """{line of the wrong script: mypy's message}."""
    path = folder / "wrong.py"
    path.write_text(SCRIPT.read_text() + "".join(f"{line}  # noqa\n" for line in WRONG))
    found = [line.split(": error: ") for line in mypy(path).splitlines() if ": error: " in line]
    lines = path.read_text().splitlines()
    return {lines[int(where.split(":")[-1]) - 1].split("  #")[0]: said for where, said in found}


WRONG = {
    'train(pathlib.Path("photos"), []).tuning = "lu"': "variable has type \"Literal['LU'",
    "train('photos', [])": 'expected "Path"',
    'keras_lit.recipes.get("cc3m")': "expected \"Literal['cc12m'",
    'keras_lit.TextTower.from_size("M")': "expected \"Literal['Ti'",
    'data.image_text_pairs("photos", captions="some")': "expected \"Literal['all'",
    "keras_lit.callback.ExactResume": 'has no attribute "callback"',
    "data.YFCC": 'has no attribute "YFCC"',
    'evaluation.Result("", "linear_probe", {}, 1).accuracy': 'has no attribute "accuracy"',
}


@pytest.mark.slow
def test_a_users_script_is_strict_and_its_mistakes_are_found(tmp_path):
    found = mistakes(tmp_path)
    assert set(found) == set(WRONG)  # So nothing is said of the script itself.
    assert not {line: found[line] for line, said in WRONG.items() if said not in found[line]}


def test_the_package_says_that_it_has_types():
    assert (pathlib.Path(keras_lit.__file__).parent / "py.typed").exists()

"""docs/logs.md says what is logged, how it is shown, and which way is better."""

import pathlib
import re

import numpy as np
import pytest

import keras_lit
from keras_lit import callbacks, evaluation, losses
from keras_lit.training import progress
from tests.small import make_model, make_pairs

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "logs.md"
ROWS = [
    [cell.strip(" `") for cell in line.strip("| ").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
]
MODES = {row[0]: row[4].strip("| ") if len(row) == 5 else "" for row in ROWS}


def row_of(name):
    """The row of a name that was logged."""
    found = [row for row in ROWS if re.fullmatch(re.sub("<.>", r"\\d+", re.escape(row[0])), name)]
    assert len(found) == 1, name
    return found[0]


@pytest.fixture(scope="module")
def logged():
    """{who logs: names}."""
    model = make_model()
    model.compile("sgd")
    rows = list(make_pairs(12).as_numpy_iterator())
    images = {"image": np.stack([row["image"] for row in rows]), "label": np.arange(12) % 6}
    pairs = {"image": images["image"], "text": [row["text"] for row in rows]}
    names = ["balloon", "dog", "cat", "banana", "moon", "toucan"]
    evaluations = [
        callbacks.ZeroShotEvaluation(images, names),
        callbacks.RetrievalEvaluation(pairs),
        callbacks.FewShotEvaluation(images, images, shots=(1, 2)),
    ]
    found = {type(x).__name__: set(x.evaluate(model)) for x in evaluations}
    found["evaluate"] = set(model.evaluate(make_pairs(8).batch(4), verbose=0, return_dict=True))
    return found


def test_all_that_is_logged_is_in_the_table_and_all_of_the_table_is_logged(logged):
    seen = set()
    for who, names in logged.items():
        for name in names:
            row = row_of(name)
            assert who in row[2]
            seen.add(row[0])
    assert seen == set(MODES)


def test_the_screen_shows_what_the_table_says(logged):
    for name in set().union(*logged.values()):
        shown = progress.ON_BAR.get(name, progress.short(name))
        number = re.search(r"\d+", name)
        assert re.sub("<.>", number[0] if number else "", row_of(name)[1]) == shown


def test_mode_is_the_better_way():
    """What is found by right embeddings and by wrong ones."""
    eye, index, labels = np.eye(12, dtype="float32"), np.arange(12), np.arange(12) % 3
    wrong = np.roll(eye, 1, axis=0)
    found = []
    for images in (eye, wrong):
        loss, accuracies = losses.softmax_contrastive_loss(images, eye, 1.0, accuracies=True)
        classes = images @ np.eye(3)[labels]
        few_shot = evaluation.few_shot_accuracy(
            np.eye(3)[labels], labels, classes, labels, shots=(1,), seeds=1
        )
        parts = {
            "": {"loss": loss, **accuracies},
            "retrieval_": evaluation.retrieval_recall(images, eye, index),
            "zero_shot_": evaluation.zero_shot_accuracy(classes, labels, np.eye(3), top=(1,)),
            "few_shot_": few_shot,
        }
        found.append({f"{a}{b}": float(x) for a, part in parts.items() for b, x in part.items()})
    better, worse = found
    of_rows = {}
    for name in better:
        sign = np.sign(better[name] - worse[name])
        of_rows[row_of(name)[0]] = {1: "max", -1: "min", 0: ""}[int(sign)]
    for name in ("chance_loss", "temperature"):
        of_rows[name] = ""
    assert of_rows == MODES


@pytest.mark.parametrize("name", callbacks.__all__)
def test_the_docstring_says_what_is_logged(name):
    text = " ".join(getattr(keras_lit.callbacks, name).__doc__.split())
    own = [row for row in ROWS if name in row[2]]
    assert "Logs" in text
    if not own:
        assert "Logs nothing" in text
    for row in own:
        assert f'"{row[0]}"' in text
    for mode in {MODES[row[0]] for row in own} - {""}:
        assert f'`mode="{mode}"`' in text

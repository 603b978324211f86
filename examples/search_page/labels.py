"""Labels for a picture: probabilities that add up, "none of these" among them."""

import re
from typing import NamedTuple

import numpy as np
from search_page.collection import Collection

from keras_lit.evaluation.calibration import Calibration

NONE = "None of these"
MOST = 100  # labels
# Everyday things, of which nearly every picture shows one. "None of these" is as likely as a label
# that fits a picture as well as the best of these fits pictures with which they have little to do:
# a quarter of the collection fits them less.
THINGS = """
a person, a child, a face, a hand, an animal, a bird, a fish, an insect, a flower, a tree, a fruit,
a vegetable, a meal, a drink, a cake, a house, a building, a street, a room, a piece of furniture,
a tool, a machine, a computer, a telephone, a book, a piece of paper, a car, a train, a ship,
an aeroplane, a bicycle, a ball, a game, a toy, a musical instrument, clothes, a shoe, a hat, a bag,
a bottle, the sky, the sea, a mountain, a landscape, the sun, a star, a flag, a sign, a letter,
a number, an arrow, a heart, a pattern, a map, a clock, money, a lamp, a weapon, a medicine,
a celebration"""


class Answer(NamedTuple):
    """[(label, probability)] best first, `NONE` among them; the label that is accepted, if any."""

    probabilities: list[tuple[str, float]]
    accepted: str | None
    threshold: float | None  # of the calibration


class Classifier:
    """Compares a picture with labels.

    Args:
        collection: what encodes.
        calibration: one that `fit_calibration` made of this model's similarities; None: the model's
            temperature, and "none of these" by how well everyday things fit.
    """

    def __init__(self, collection: Collection, calibration: Calibration | None = None):
        if calibration is not None and calibration.multi_label:
            raise ValueError("--calibration should be of one label a picture, whose bars add up.")
        self._encode, self.model = collection.encode, collection.model
        self.calibration = calibration
        self._things = self._encode([x.strip() for x in THINGS.split(",")])

    def __call__(self, picture: np.ndarray, labels: list[str], others: np.ndarray) -> Answer:
        """What is in a picture.

        Args:
            picture: [dim], its embedding.
            labels: at least one.
            others: [n, dim], other pictures.
        """
        logits = (self._encode(labels) @ picture)[np.newaxis]
        calibration = self.calibration or self._calibration(others if len(others) else picture)
        found = calibration.probabilities(logits)[0]
        none = max(0.0, 1 - float(found.sum()))
        best = int(found.argmax())
        accepted = bool(found[best] >= none)
        if calibration.threshold is not None:
            accepted = bool(calibration.accepted(logits)[0])
        every = [*zip(labels, found.tolist(), strict=True)]
        if calibration.none_logit is not None:
            every.append((NONE, none))
        every.sort(key=lambda x: -x[1])
        return Answer(every, labels[best] if accepted else None, calibration.threshold)

    def _calibration(self, others: np.ndarray) -> Calibration:
        temperature = float(self.model.temperature)
        if self.model.loss_name == "sigmoid":  # It was trained to say no.
            return Calibration(temperature, none_logit=-float(self.model.bias))
        typical = np.quantile(np.max(np.atleast_2d(others) @ self._things.T, axis=1), 0.25)
        return Calibration(temperature, none_logit=temperature * float(typical))


def of_lines(text: str | None) -> tuple[list[str], int]:
    """The labels, one a line, and how many were there twice; case and spaces make no difference."""
    lines = [" ".join(x.split()) for x in re.split(r"[\n\r]", text or "")]
    lines = [x for x in lines if x and x.casefold() != NONE.casefold()]
    labels: dict[str, str] = {}
    for line in lines:
        labels.setdefault(line.casefold(), line)
    return [*labels.values()], len(lines) - len(labels)


def percent(probabilities: list[float]) -> list[int]:
    """Whole percents that add up to 100: what rounding down takes goes to the largest rests."""
    exact = 100 * np.asarray(probabilities)
    whole = np.floor(exact).astype(int)
    for i in np.argsort(whole - exact, kind="stable")[: max(0, 100 - int(whole.sum()))]:
        whole[i] += 1
    return whole.tolist()

"""How the quickstart and the studies score a model on held-out pictures."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_lit
from keras_lit import evaluation

KS = (1, 5, 10)
# Tux Paint's folders and OpenPictures' categories in words; others go by their own names.
CATEGORY_NAMES = {
    "animals": "an animal",
    "clothes": "clothes",
    "faces": "a face",
    "flags": "a flag",
    "food": "food",
    "hobbies": "a hobby",
    "holidays": "a holiday decoration",
    "household": "a household object",
    "medical": "medicine",
    "military": "the military",
    "music": "a musical instrument",
    "naturalforces": "a force of nature",
    "office": "office supplies",
    "people": "people",
    "places": "a place or building",
    "plants": "a plant",
    "seasonal": "a holiday decoration",
    "sky": "the sky and the weather",
    "space": "outer space",
    "sports": "sports",
    "symbols": "a letter or symbol",
    "tools": "a tool",
    "town": "a building or road sign",
    "vehicles": "a vehicle",
}
TEMPLATES = ("{}.", "a picture of {}.", "a drawing of {}.")


def recalls(images: np.ndarray, texts: np.ndarray, captions: np.ndarray) -> dict[str, float]:
    """The six recalls; pictures with the same caption are equally right."""
    groups = np.unique(captions, return_inverse=True)[1]
    rows = np.arange(len(images))
    return evaluation.retrieval_recall(images, texts, rows, KS, image_groups=groups)


def mean_recall(metrics: dict[str, Any]) -> float:
    """The mean of the six recalls."""
    return float(np.mean([value for name, value in metrics.items() if "_recall@" in name]))


def zero_shot(model: keras_lit.LiT, test: dict[str, Any]) -> dict[str, Any] | None:
    """Classifies pictures by their top-level folder, where their names tell one."""
    folders = [name.split("/")[0] for name in test["name"]]
    if not all("/" in name for name in test["name"]) or len(set(folders)) < 2:
        return None
    classes = sorted(set(folders))
    names = [CATEGORY_NAMES.get(folder, folder) for folder in classes]
    weights = evaluation.zero_shot_weights(model.encode_text, names, TEMPLATES)
    labels = [classes.index(folder) for folder in folders]
    accuracy = evaluation.zero_shot_accuracy(model.encode_image(test["features"]), labels, weights)
    return {
        **accuracy,
        "chance": 1 / len(classes),
        "largest_class": max(np.bincount(labels)) / len(labels),
        "classes": dict(zip(classes, names, strict=True)),
        "templates": TEMPLATES,
    }


def by_language(model: keras_lit.LiT, split: Any) -> dict[str, dict[str, float]]:
    """The recalls for each language, among the pictures of a `captioned.Split` that have it.

    The text tower is locked: its head gets the features that the split holds.
    """

    def encode(texts: list[str]) -> np.ndarray:
        return model.encode_text(np.stack([split.text_features[x] for x in texts]), verbose=0)

    images = model.encode_image(split.features, verbose=0)
    return evaluation.recall_by_language(encode, images, split.captions, KS)


def mean_over_languages(recalls: dict[str, dict[str, float]]) -> float:
    """The mean over languages of the mean of the six recalls."""
    return float(np.mean([mean_recall(of_one) for of_one in recalls.values()]))


def of_two(model: keras_lit.LiT, validation: Any, test: Any) -> dict[str, Any]:
    """Recalls of both splits: {"validation": mean, "test": mean, "languages": {...}}."""
    recalls = by_language(model, test)
    return {
        "validation": mean_over_languages(by_language(model, validation)),
        "test": mean_over_languages(recalls),
        "languages": {
            name: {"mean_recall": mean_recall(of_one), **of_one} for name, of_one in recalls.items()
        },
    }


def report(results: dict[str, dict[str, Any]]) -> str:
    """A table of `of_two` by model."""
    rows = {split: [x[split] for x in results.values()] for split in ("validation", "test")}
    languages = next(iter(results.values()))["languages"]
    for language in languages if len(languages) > 1 else ():
        means = [x["languages"][language]["mean_recall"] for x in results.values()]
        rows[f"test, {language}"] = means
    lines = [f"{'mean of the six recalls, %':28}" + "".join(f"{name:>14}" for name in results)]
    for title, values in rows.items():
        lines.append(f"{title:28}" + "".join(f"{100 * value:14.1f}" for value in values))
    return "\n".join(lines)


class KeepBest(keras.callbacks.Callback):
    """Scores the model before training and after some epochs, and leaves it at its best.

    What it found is in `scores`, after as many epochs as `epochs` says.

    Args:
        score: model -> float, the more the better.
        every_n_epochs: int, how often.
    """

    def __init__(self, score: Callable[[keras.Model], float], every_n_epochs: int = 1) -> None:
        super().__init__()
        self.score = score
        self.every_n_epochs = every_n_epochs
        self.epochs: list[int] = []
        self.scores: list[float] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """The start counts as well."""
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Scores once."""
        if (epoch + 1) % self.every_n_epochs:
            return
        self.epochs.append(epoch + 1)
        self.scores.append(self.score(self.model))
        if self.scores[-1] == max(self.scores):
            self.best = self.model.get_weights()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Goes back to the best."""
        self.model.set_weights(self.best)

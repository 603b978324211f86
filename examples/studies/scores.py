"""How the quickstart and the studies score a model on held-out pictures."""

from typing import Any

import numpy as np

import keras_lit
from keras_lit import evaluation

KS = (1, 5, 10)
# Tux Paint's folders in words; what is not here goes by its own name.
CATEGORY_NAMES = {
    "animals": "an animal",
    "clothes": "clothes",
    "food": "food",
    "hobbies": "a hobby",
    "household": "a household object",
    "medical": "medicine",
    "military": "the military",
    "naturalforces": "a force of nature",
    "people": "people",
    "plants": "a plant",
    "seasonal": "a holiday decoration",
    "space": "outer space",
    "sports": "sports",
    "symbols": "a letter or symbol",
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

"""Evaluates a model on a dataset, with what a report shows beside the numbers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lit.evaluation import retrieval, seen, sheets, zero_shot
from keras_lit.evaluation.encoded import Images, ImagesAndTexts
from keras_lit.model import LiT


@dataclasses.dataclass
class Result:
    """The evaluation of a model on a dataset.

    Args:
        dataset: its name.
        task: "zeroshot_classification", "zeroshot_retrieval" or "linear_probe".
        metrics: {name: value}.
        count: how many images were evaluated.
        settings: what else matters, such as the templates; strings and numbers.
        confusions: [(class, taken for, how many, part of the class)], the most frequent first.
        sheet: rows of a contact sheet.

    Example:

    >>> result = keras_lit.evaluation.Result("flowers", "zeroshot_retrieval", {"recall@1": 0.5}, 8)
    >>> result.metrics["recall@1"]
    0.5
    """

    dataset: str
    task: str
    metrics: dict[str, float]
    count: int
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    confusions: list[tuple[str, str, int, float]] = dataclasses.field(default_factory=list)
    sheet: list[sheets.SheetRow] = dataclasses.field(default_factory=list)


def classify(
    model: LiT,
    images: Images,
    class_names: Sequence[str],
    templates: Sequence[str] = ("{}",),
    dataset: str = "",
    classes: Sequence[int] | None = None,
    several_labels: bool = False,
    queries: int = 8,
    duplicates: Any = None,
) -> Result:
    """Zero-shot classification of a dataset.

    Args:
        model: a `LiT`.
        images: `Images` with "label".
        class_names: the names of the classes.
        templates: prompts with one `{}`.
        dataset: str, its name in the report.
        classes: as for `zero_shot_accuracy`.
        several_labels: bool, whether "label" is [n, most] padded with -1 and any of them is right.
        queries: int, for how many classes, spread evenly, to show the nearest pictures.
        duplicates: rows of images (or a mask of them), for example of `seen_in_training`, to
            evaluate without as well.

    Returns:
        A `Result`.

    Raises:
        ValueError: as `zero_shot_accuracy` and `multi_label_accuracy`.

    Example:

    >>> images = keras_lit.evaluation.Images(photos)  # doctest: +SKIP
    >>> result = keras_lit.evaluation.classify(model, images, ["cat", "dog"])  # doctest: +SKIP
    >>> keras_lit.evaluation.report([result], "report")  # doctest: +SKIP
    """
    weights = zero_shot.zero_shot_weights(
        lambda texts: model.encode_text(texts, verbose=0), class_names, templates
    )
    embeddings, labels = images.embeddings(model), images["label"]
    confusions = []

    def evaluate(chosen: np.ndarray) -> dict[str, float]:
        arguments = embeddings[chosen], labels[chosen], weights
        if several_labels:
            return zero_shot.multi_label_accuracy(*arguments)
        return zero_shot.zero_shot_accuracy(*arguments, classes=classes)

    metrics = seen.with_and_without(evaluate, len(embeddings), duplicates)
    if not several_labels:
        names = dict(
            zip(range(len(weights)) if classes is None else classes, class_names, strict=True)
        )
        confusions = [
            (names[pair.label], names[pair.predicted], pair.count, pair.fraction)
            for pair in zero_shot.zero_shot_confusions(embeddings, labels, weights, 20, classes)
        ]
    shown = np.unique(
        np.linspace(0, len(weights) - 1, min(queries, len(weights))).round().astype(int)
    )
    wanted = shown if classes is None else np.asarray(classes)[shown]
    marks = labels if several_labels else labels[:, np.newaxis]
    sheet = sheets.nearest_pictures(
        [class_names[i] for i in shown],
        weights[shown],
        embeddings,
        (marks == wanted[:, np.newaxis, np.newaxis]).any(axis=2),
        images,
    )
    settings = {"classes": len(weights), "templates": len(templates), "template": templates[0]}
    task = "zeroshot_classification"
    return Result(dataset, task, metrics, len(embeddings), settings, confusions, sheet)


def retrieve(
    model: LiT,
    pairs: ImagesAndTexts,
    dataset: str = "",
    ks: Sequence[int] = (1, 5, 10),
    same_text: bool = False,
    queries: int = 8,
    duplicates: Any = None,
) -> Result:
    """Text-image retrieval on a dataset.

    Args:
        model: a `LiT`.
        pairs: `ImagesAndTexts`.
        dataset: str, its name in the report.
        ks: the k of the recalls.
        same_text: bool, whether images with the same text are equally right.
        queries: int, for how many texts, drawn at random, to show the nearest pictures.
        duplicates: rows of images (or a mask of them) to evaluate without as well, and without
            their texts.

    Returns:
        A `Result`.

    Raises:
        ValueError: as `retrieval_recall`.

    Example: as for `classify`, with `ImagesAndTexts` in place of `Images`.
    """
    images, texts = pairs.embeddings(model)
    groups = pairs.groups_of_same_text() if same_text else np.arange(len(images))

    def evaluate(chosen: np.ndarray) -> dict[str, float]:
        kept = chosen[pairs.image_index]
        index = (np.cumsum(chosen) - 1)[pairs.image_index[kept]]
        return retrieval.retrieval_recall(images[chosen], texts[kept], index, ks, groups[chosen])

    metrics = seen.with_and_without(evaluate, len(images), duplicates)
    shown = np.random.default_rng(0).permutation(len(texts))[:queries]
    sheet = sheets.nearest_pictures(
        [str(pairs.texts[i]) for i in shown],
        texts[shown],
        images,
        groups == groups[pairs.image_index[shown]][:, np.newaxis],
        pairs.images,
    )
    settings = {"texts": len(texts), "same_text": same_text}
    return Result(dataset, "zeroshot_retrieval", metrics, len(images), settings, [], sheet)

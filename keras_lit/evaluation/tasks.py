"""Evaluates a model on a dataset, with what a report shows beside the numbers; chooses prompts."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lit.data import duplicates as near_duplicates
from keras_lit.evaluation import retrieval, sheets, zero_shot
from keras_lit.evaluation.calibration import Calibration
from keras_lit.evaluation.encoded import (
    Images,
    ImagesAndTexts,
    labels_of,
    names_of_classes,
    rows_in_order,
)
from keras_lit.evaluation.results import Result
from keras_lit.model import LiT


def classify(
    model: LiT,
    images: Any,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] = ("{}",),
    dataset: str = "",
    classes: Sequence[int] | None = None,
    several_labels: bool = False,
    queries: int = 8,
    duplicates: Any = None,
    calibration: Calibration | None = None,
) -> Result:
    """Zero-shot classification of a dataset.

    Args:
        model: a `LiT`.
        images: `Images` with "label", or the data for them, raw or not: of
            `keras_lit.data.labelled_images`, of `keras.utils.image_dataset_from_directory`, of
            TensorFlow Datasets (`as_supervised=True`, or with "image" and "label"), or a dict
            {"image": paths, "label": labels}. Labels are numbers, or strings among `class_names`.
        class_names: the names of the classes. None: `images.class_names`, which the first two have,
            as words ("polar bear" of "polar_bear", "tench" of "n01440764").
        templates: prompts with one `{}`.
        dataset: str, its name in the report.
        classes: as for `zero_shot_accuracy`.
        several_labels: bool, whether "label" is [n, most] padded with -1 and any of them is right.
        queries: int, for how many classes, spread evenly, to show the nearest pictures.
        duplicates: rows of images (or a mask) of `seen_in_training`: adds the metrics without them.
        calibration: fitted on cosines: adds what `Calibration.measure` returns and the reliability
            diagram of the report. None: the model's, where it was fitted for these classes
            (and templates, if it knows them).

    Returns:
        A `Result`.

    Raises:
        ValueError: as `zero_shot_accuracy`, `multi_label_accuracy` and `Calibration.measure`.

    Example:

    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a cat", "a dog"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 8, 16, 1, 32, 2)
    >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer, 8))
    >>> photos = {"image": np.zeros([4, 40, 40, 3], "uint8"), "label": np.array([0, 1, 0, 1])}
    >>> result = keras_lit.evaluation.classify(model, photos, ["cat", "dog"], ["a photo of a {}."])
    >>> result.count, sorted(result.metrics)[0]
    (4, 'accuracy@1')
    """
    if isinstance(images, list | np.ndarray) or tf.is_tensor(images):
        raise ValueError(
            '`classify` measures images with labels: {"image": images, "label": labels}. Received: '
            f"{type(images).__name__}. Without labels, `weights = zero_shot_weights(model, names)` "
            "and `(model.encode_image(images) @ weights.T).argmax(axis=1)` are the classes."
        )
    images = images if isinstance(images, Images) else Images(images)
    class_names = names_of_classes(images, class_names)
    weights = _weights(model, class_names, templates)
    class_names = list(class_names)
    numbers = np.arange(len(weights)) if classes is None else np.asarray(classes)
    embeddings, labels = images.embeddings(model), labels_of(images, class_names, classes)

    def evaluate(chosen: np.ndarray) -> dict[str, float]:
        arguments = embeddings[chosen], labels[chosen], weights
        if several_labels:
            return zero_shot.multi_label_accuracy(*arguments)
        return zero_shot.zero_shot_accuracy(*arguments, classes=classes)

    metrics = _with_and_without(evaluate, len(embeddings), duplicates)
    if calibration is None and model.calibration:
        known = Calibration.from_dict(model.calibration)
        same = known.class_names == tuple(class_names)
        same &= known.templates in ((), tuple(templates))
        if same and known.multi_label == several_labels:
            calibration = known
    curve = None
    if calibration is not None:
        cosines, marked = embeddings @ weights.T, labels[..., np.newaxis] == numbers
        marked = marked.any(axis=1) if several_labels else marked.argmax(axis=1)
        metrics |= calibration.measure(cosines, marked)
        curve = calibration.reliability(cosines, marked)
    confusions = []
    if not several_labels:
        names = dict(zip(numbers.tolist(), class_names, strict=True))
        found = zero_shot.zero_shot_confusions(embeddings, labels, weights, 20, classes)
        confusions = [(names[label], names[other], n, part) for label, other, n, part in found]
    shown = np.linspace(0, len(weights) - 1, min(queries, len(weights))).round().astype(int)
    marks = labels if several_labels else labels[:, np.newaxis]
    sheet = sheets.nearest_pictures(
        [class_names[i] for i in shown],
        weights[shown],
        embeddings,
        (marks == numbers[shown, np.newaxis, np.newaxis]).any(axis=2),
        images,
    )
    settings = {"classes": len(weights), "templates": len(templates), "template": templates[0]}
    return Result(
        dataset,
        "zeroshot_classification",
        metrics,
        len(embeddings),
        settings,
        confusions,
        sheet,
        curve,
    )


def retrieve(
    model: LiT,
    pairs: Any,
    dataset: str = "",
    ks: Sequence[int] = (1, 5, 10),
    same_text: bool = False,
    queries: int = 8,
    duplicates: Any = None,
) -> Result:
    """Text-image retrieval on a dataset.

    Args:
        model: a `LiT`.
        pairs: `ImagesAndTexts`, or the data for them.
        dataset: str, its name in the report.
        ks: the k of the recalls.
        same_text: bool, whether images with the same text are equally right.
        queries: int, for how many texts, drawn at random, to show the nearest pictures.
        duplicates: rows of images (or a mask): adds the metrics without them and their texts.

    Returns:
        A `Result`.

    Raises:
        ValueError: as `retrieval_recall`.

    Example:

    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a cat", "a dog"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 8, 16, 1, 32, 2)
    >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer, 8))
    >>> pairs = {"image": np.zeros([2, 40, 40, 3], "uint8"), "text": ["a cat", "a dog"]}
    >>> result = keras_lit.evaluation.retrieve(model, pairs)
    >>> result.metrics["text_to_image_recall@5"]
    1.0
    """
    pairs = pairs if isinstance(pairs, ImagesAndTexts) else ImagesAndTexts(pairs)
    images, texts = pairs.embeddings(model)
    groups = pairs.image_groups if same_text else np.arange(len(images))

    def evaluate(chosen: np.ndarray) -> dict[str, float]:
        kept = chosen[pairs.image_index]
        index = (np.cumsum(chosen) - 1)[pairs.image_index[kept]]
        return retrieval.retrieval_recall(images[chosen], texts[kept], index, ks, groups[chosen])

    metrics = _with_and_without(evaluate, len(images), duplicates)
    sheet = sheets.nearest_to_texts(pairs, images, texts, groups, queries)
    settings = {"texts": len(texts), "same_text": same_text}
    return Result(dataset, "zeroshot_retrieval", metrics, len(images), settings, [], sheet)


class Choice(NamedTuple):
    """A combination and its accuracy@1; the names are the keys of what `select` was given."""

    accuracy: float
    preprocessing: str
    class_names: str
    templates: str


def select(
    model: LiT,
    images: Any,
    class_names: Mapping[str, Sequence[str]],
    templates: Mapping[str, Sequence[str]],
    preprocessing: Mapping[str, Mapping[str, Any]] | None = None,
    count: int = 800,
    classes: Sequence[int] | None = None,
) -> list[Choice]:
    """Tries every combination on a few validation images.

    The images are embedded once for each preprocessing, the prompts once.

    Args:
        model: a `LiT`.
        images: validation images with "label", raw, see `Images`; never those of the test.
        class_names: {name: class names} to choose from.
        templates: {name: templates} to choose from, for example of `prompts.templates`.
        preprocessing: {name: options of `ImagePreprocessor` that differ from the tower's own} to
            choose from, for example {"plain": {}, "crop": {"resize": "crop"}}. None: the tower's.
        count: int, how many of the images to use, from the first on.
        classes: as for `zero_shot_accuracy`.

    Returns:
        All combinations, the best first (among equals the one that was given first), each with
        `.accuracy` and the names of its `.preprocessing`, `.class_names` and `.templates`.

    Raises:
        ValueError: nothing to choose from, or what `zero_shot_accuracy` raises.

    Example:

    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a cat", "a dog"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 8, 16, 1, 32, 2)
    >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer, 8))
    >>> photos = {"image": np.zeros([4, 40, 40, 3], "uint8"), "label": np.array([0, 1, 0, 1])}
    >>> templates = {"name": ["{}"], "photo": ["a photo of a {}."]}
    >>> found = keras_lit.evaluation.select(model, photos, {"own": ["cat", "dog"]}, templates)
    >>> sorted(choice.templates for choice in found)
    ['name', 'photo']

    Reference: the LiT paper, Appendix I.2.
    """
    preprocessing = {"own": {}} if preprocessing is None else preprocessing
    for name, given in (
        ("class_names", class_names),
        ("templates", templates),
        ("preprocessing", preprocessing),
    ):
        if not isinstance(given, Mapping):
            raise ValueError(
                f"`{name}` should be a dict, a name for each choice. Received: {given!r:.60}. "
                "Without a choice `classify` is the one to call."
            )
    if not class_names or not templates or not preprocessing:
        raise ValueError(
            "There should be something to choose from. Received: "
            f"{len(class_names)} lists of class names, {len(templates)} of templates, "
            f"{len(preprocessing)} kinds of preprocessing."
        )
    weights = {
        (names, prompts): _weights(model, class_names[names], templates[prompts])
        for names in class_names
        for prompts in templates
    }
    images = Images(images, count=count).rows()
    choices = []
    for how, options in preprocessing.items():
        rows = Images(images, preprocessing=options)
        embeddings = rows.embeddings(model)
        for (names, prompts), kernel in weights.items():
            found = zero_shot.zero_shot_accuracy(
                embeddings,
                labels_of(rows, class_names[names], classes),
                kernel,
                top=(1,),
                classes=classes,
            )
            choices.append(Choice(found["accuracy@1"], how, names, prompts))
    return sorted(choices, key=lambda choice: -choice.accuracy)


def seen_in_training(images: Images, training: Any, max_distance: int = 32) -> np.ndarray:
    """The images of an evaluation that a model has seen in training, or near-duplicates of them.

    Args:
        images: the `Images` to evaluate on (of `ImagesAndTexts`: its `images`), not features.
        training: the training images: an unbatched tf.data.Dataset of images or of pairs with an
            "image", or any iterable of encoded images or uint8 pixels.
        max_distance: int, by how many of 256 bits of the perceptual hash they may differ.

    Returns:
        Ascending rows of `images`, for `classify(..., duplicates=...)` and `retrieve`.

    Raises:
        ImportError: the package ImageHash is missing.
        ValueError: the images come in another order each time they are read: here, or when they are
            embedded.

    Example:

    >>> pixels = np.random.default_rng(0).integers(0, 256, [3, 64, 64, 3]).astype("uint8")
    >>> images = keras_lit.evaluation.Images({"image": pixels, "label": np.arange(3)})
    >>> keras_lit.evaluation.seen_in_training(images, list(pixels[1:2]))
    array([1])

    Reference: the LiT paper, section 5.5 and Table 5.
    """
    hashes, others = map(near_duplicates.perceptual_hashes, (rows_in_order(images), training))
    matches = near_duplicates.match_hashes(hashes, others, max_distance=max_distance)
    return np.unique(matches.queries)


def _weights(model: LiT, class_names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    encode_text = functools.partial(model.encode_text, verbose=0)
    return zero_shot.zero_shot_weights(encode_text, class_names, templates)


def _with_and_without(
    evaluate: Callable[[np.ndarray], dict[str, float]], images: int, duplicates: Any
) -> dict[str, float]:
    """The metrics of all images, and where there are duplicates those of the others too.

    `evaluate` takes a [images] bool array, which of them to evaluate on.
    """
    metrics = evaluate(np.ones(images, bool))
    if duplicates is None:
        return metrics
    unseen = ~_mask(duplicates, images)
    if not unseen.any():
        raise ValueError(f"All {images} images are duplicates: nothing is left to evaluate.")
    others = {f"{name}_without_duplicates": value for name, value in evaluate(unseen).items()}
    return {**metrics, **others, "duplicates": int(images - unseen.sum())}


def _mask(duplicates: Any, images: int) -> np.ndarray:
    """Rows, or a mask of them, as a [images] bool array."""
    rows = np.asarray(duplicates)
    if rows.dtype == bool:
        if rows.shape != (images,):
            raise ValueError(
                f"A mask of duplicates should have shape ({images},). Received: {rows.shape}."
            )
        return rows
    if rows.min(initial=0) < 0 or rows.max(initial=0) >= images:
        raise ValueError(
            f"`duplicates` should hold rows in [0, {images}), the images. Received: from "
            f"{rows.min()} to {rows.max()}."
        )
    return np.isin(np.arange(images), rows)

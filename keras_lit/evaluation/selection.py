"""Choosing prompts, class names and preprocessing on validation images, as the paper for VTAB."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_lit.evaluation import encoded, zero_shot
from keras_lit.model import LiT


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

    Each preprocessing embeds the images once, each pair of class names and templates the prompts
    once.

    Args:
        model: a `LiT`.
        images: validation images with "label", unbatched and raw, see `Images`; never those of the
            test.
        class_names: {name: class names} to choose from.
        templates: {name: templates} to choose from, for example {name:
            `prompts.templates(name)`}.
        preprocessing: {name: options of `ImagePreprocessor` that differ from the tower's own} to
            choose from, for example {"plain": {}, "crop": {"resize": "crop",
            "crop_fraction": 0.875}}. None: the tower's own.
        count: int, how many of the images to use, from the first on.
        classes: as for `zero_shot_accuracy`.

    Returns:
        All combinations, the best first (of equals the one that was given first), each with
        `.accuracy` and the names of its `.preprocessing`, `.class_names` and `.templates`.

    Raises:
        ValueError: nothing to choose from, or what `zero_shot_accuracy` raises.

    Example:

    >>> found = keras_lit.evaluation.select(  # doctest: +SKIP
    ...     model, dataset.load("validation"), {"own": dataset.class_names()},
    ...     {name: prompts.templates(name) for name in dataset.templates})
    >>> found[0].templates  # doctest: +SKIP
    'clip_best_7'

    Reference: the LiT paper, Appendix I.2.
    """
    preprocessing = {"own": {}} if preprocessing is None else preprocessing
    if not class_names or not templates or not preprocessing:
        raise ValueError(
            "There should be something to choose from. Received: "
            f"{len(class_names)} lists of class names, {len(templates)} of templates, "
            f"{len(preprocessing)} kinds of preprocessing."
        )
    weights = {
        (names, prompts): zero_shot.zero_shot_weights(
            lambda texts: model.encode_text(texts, verbose=0),
            class_names[names],
            templates[prompts],
        )
        for names in class_names
        for prompts in templates
    }
    images = encoded.Images(images, count=count).rows()
    choices = []
    for how, options in preprocessing.items():
        rows = encoded.Images(images, preprocessing=options)
        embeddings = rows.embeddings(model)
        for (names, prompts), kernel in weights.items():
            found = zero_shot.zero_shot_accuracy(
                embeddings, rows["label"], kernel, top=(1,), classes=classes
            )
            choices.append(Choice(found["accuracy@1"], how, names, prompts))
    return sorted(choices, key=lambda choice: -choice.accuracy)

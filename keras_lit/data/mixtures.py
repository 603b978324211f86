"""Mixtures of datasets of pairs: whole batches by turns, or each example drawn."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_lit import checks

__all__ = ["alternate_batches", "sample_examples"]


def alternate_batches(
    datasets: Sequence[tf.data.Dataset], turns: Sequence[int] | None = None
) -> tf.data.Dataset:
    """Takes whole batches from each dataset by turns, so that negatives come from the same source.

    Args:
        datasets: batched tf.data.Datasets of the same structure. Each is repeated without end.
        turns: how many batches to take from each before the next has its turn; one by default.

    Returns:
        An endless tf.data.Dataset of batches; `fit` needs `steps_per_epoch`.

    Raises:
        ValueError: no datasets, another number of turns, or pairs with different entries.

    Example:

    >>> a, b = (tf.data.Dataset.from_tensors({"text": [name]}) for name in "ab")
    >>> mixed = keras_lit.data.mixtures.alternate_batches([a, b], turns=[2, 1])
    >>> [batch["text"].numpy()[0] for batch in mixed.take(5)]
    [b'a', b'a', b'b', b'a', b'a']

    Reference: the LiT paper, Table 13 ("mixed": CC12M and YFCC batches alternate).
    """
    turns = [1] * len(datasets) if turns is None else turns
    endless = _endless(datasets, turns, "turns")
    order = np.repeat(np.arange(len(turns)), turns)
    choices = tf.data.Dataset.from_tensor_slices(order).repeat()
    return tf.data.Dataset.choose_from_datasets(endless, choices, stop_on_empty_dataset=True)


def sample_examples(
    datasets: Sequence[tf.data.Dataset],
    weights: Sequence[float] | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Draws each example from one of the datasets.

    Args:
        datasets: unbatched tf.data.Datasets of the same structure. Each is repeated without end.
        weights: how often to draw from each, in any unit; equally by default.
        seed: int, of the draws, which go on from epoch to epoch.

    Returns:
        An endless tf.data.Dataset of examples; `fit` needs `steps_per_epoch`.

    Raises:
        ValueError: no datasets, another number of weights, or pairs with different entries.

    Example:

    >>> a, b = (tf.data.Dataset.from_tensors({"text": name}) for name in "ab")
    >>> mixed = keras_lit.data.mixtures.sample_examples([a, b], [3.0, 1.0], seed=0)
    >>> sum(int(pair["text"] == "a") for pair in mixed.take(400)) in range(260, 340)
    True
    """
    weights = [1.0] * len(datasets) if weights is None else weights
    return tf.data.Dataset.sample_from_datasets(
        _endless(datasets, weights, "weights"),
        [weight / sum(weights) for weight in weights],
        seed=seed,
        stop_on_empty_dataset=True,
        rerandomize_each_iteration=True,
    )


def _endless(
    datasets: Sequence[tf.data.Dataset], numbers: Sequence[float], name: str
) -> list[tf.data.Dataset]:
    """The datasets, checked and repeated without end."""
    if not datasets or len(numbers) != len(datasets):
        raise ValueError(
            f"There should be at least one dataset, and as many `{name}`. Received: "
            f"{len(datasets)} and {len(numbers)}."
        )
    for number in numbers:
        checks.check_positive(number, name)
    entries = [sorted(dataset.element_spec) for dataset in datasets]
    if any(each != entries[0] for each in entries):
        raise ValueError(
            f"The datasets should have the same entries. Received: {entries}. Map them, for "
            'example `dataset.map(lambda pair: {"image": pair["image"], "text": pair["text"]})`.'
        )
    return [dataset.repeat() for dataset in datasets]

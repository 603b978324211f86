"""Batches of neighbours in a cache: negatives that are hard to tell apart."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.training import pairs as pairs_lib

_AT_A_TIME = 4096  # Rows that are read at a time.


def hard_batches(
    pairs: tf.data.Dataset,
    batch_size: int,
    by: Literal["image", "text"] = "image",
    seed: int | None = None,
) -> tf.data.Dataset:
    """Batches of pairs whose features are near each other, so that negatives are hard.

    In each epoch the pairs are read again (and captions and views that `load` draws are drawn
    again) and halved along random directions, each the difference of two pairs, until a part is a
    batch; then the batches are shuffled. Pairs that are not negatives of each other (those of one
    "group", or else of one text, or of one image) are never in the same batch: they go to the next
    batches, which are near as well. Pairs that do not fill a batch are left out, different ones in
    each epoch.

    All features, and the other columns, are in memory during an epoch.

    Args:
        pairs: unbatched pairs with features, as `keras_lit.features.load(...)` gives them.
        batch_size: int, at least 2.
        by: "image" or "text", whose features are compared: by cosine, their mean subtracted.
        seed: int; drawn when None.

    Returns:
        A tf.data.Dataset of batches, all of `batch_size` pairs, for `LiT.fit`.

    Raises:
        ValueError: pairs that are batched or have no such features; fewer than `batch_size`.
        tf.errors.InvalidArgumentError: no batch is full, as there are too few different groups.

    Example:

    >>> angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 60)
    >>> features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> rows = {"image_features": features, "text": [f"caption {i}" for i in range(60)]}
    >>> pairs = tf.data.Dataset.from_tensor_slices(rows)
    >>> batches = keras_lit.features.hard_batches(pairs, 10, seed=0)
    >>> [batch["text"].shape[0] for batch in batches]
    [10, 10, 10, 10, 10, 10]

    Reference: batches of neighbours as in Xiong et al., "ANCE", ICLR 2021 (arXiv 2007.00808), from
    a tree of random projections (Dasgupta and Freund, 2008).
    """
    checks.check_one_of(by, ("image", "text"), "by")
    checks.check_count(batch_size, "batch_size")
    spec, name = pairs.element_spec, f"{by}_features"
    if not isinstance(spec, dict) or name not in spec or spec[name].shape.rank != 1:
        raise ValueError(
            f'Hard batches take unbatched pairs with "{name}" [dim], as `keras_lit.features.load` '
            f"gives them. Received: {spec}."
        )
    if batch_size < 2 or 0 <= pairs.cardinality() < batch_size:
        raise ValueError(
            "`batch_size` should be at least 2, and at most the number of pairs. Received: "
            f"{batch_size}, of {int(pairs.cardinality())} pairs."
        )

    def epoch(seed: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        parts = [*pairs.batch(_AT_A_TIME).as_numpy_iterator()]
        if not parts:
            raise ValueError(pairs_lib.EMPTY)
        rows = {x: np.concatenate([part[x] for part in parts]) for x in spec}
        rng = np.random.default_rng(seed)
        apart = [_numbered(rows[x]) for x in _what_is_apart(spec)]
        batches = _filled(_near_each_other(rows[name], batch_size, rng), apart, batch_size)
        if not batches:
            raise ValueError(
                f"No batch of {batch_size} pairs of different images and groups can be made of "
                f"these {len(rows[name])} pairs. Choose a smaller `batch_size`."
            )
        for index in rng.permutation(batches):
            yield {x: column[index] for x, column in rows.items()}

    signature = {x: tf.TensorSpec([batch_size, *s.shape], s.dtype) for x, s in spec.items()}
    seed = pairs_lib.draw_seed() if seed is None else seed
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
    return seeds.flat_map(
        lambda seed: tf.data.Dataset.from_generator(epoch, args=(seed,), output_signature=signature)
    )


def _what_is_apart(spec: dict[str, Any]) -> list[str]:
    """The columns whose equal values are never in one batch."""
    names = ("group", *pairs_lib.TEXT_KEYS)
    return [next(x for x in names if x in spec), *({"image_features"} & set(spec))]


def _numbered(column: np.ndarray) -> list[int]:
    """Numbers of rows that are equal where these are."""
    known: dict[Any, int] = {}
    values = map(bytes, np.ascontiguousarray(column)) if column.ndim > 1 else column.tolist()
    return [known.setdefault(value, len(known)) for value in values]


def _near_each_other(
    features: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The numbers of all rows in parts of neighbours; parts side by side are near too."""
    centred = features.astype("float32") - features.mean(axis=0, dtype="float32")
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    def halved(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= batch_size:
            return [rows]
        one, other = centred[rng.choice(rows, 2, replace=False)]
        cut = batch_size * max(1, round(len(rows) / batch_size / 2))
        order = np.argpartition(centred[rows] @ (one - other), cut)
        return [*halved(rows[order[:cut]]), *halved(rows[order[cut:]])]

    return halved(rng.permutation(len(centred)))


def _filled(parts: list[np.ndarray], apart: list[list[int]], batch_size: int) -> list[list[int]]:
    """Full batches of rows in this order; a row that one may not hold goes to the next."""
    batches: list[list[int]] = []
    first, last = 0, [dict[int, int]() for _ in apart]  # Not full; the last batch of each number.
    for row in np.concatenate(parts).tolist():
        after = (of.get(key[row], -1) + 1 for of, key in zip(last, apart, strict=True))
        place = max(first, *after)
        while place < len(batches) and len(batches[place]) == batch_size:
            place += 1
        if place == len(batches):
            batches.append([])
        batches[place].append(row)
        for of, key in zip(last, apart, strict=True):
            of[key[row]] = place
        while first < len(batches) and len(batches[first]) == batch_size:
            first += 1
    return [batch for batch in batches if len(batch) == batch_size]

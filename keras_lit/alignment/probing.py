"""Which towers go together, before anybody trains."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from keras_lit import internals
from keras_lit.alignment import aligning
from keras_lit.alignment.choosing import Alignment, choose
from keras_lit.alignment.folds import Folds
from keras_lit.towers import ImageTower, TextTower
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.training import batches, pairs


class Probe(NamedTuple):
    """Two towers and how well they go together.

    Args:
        image_tower: str, the name of the image tower.
        text_tower: str, that of the text tower.
        alignment: `Alignment`, with its recalls; its `mean_recall` is what they are ranked by.

    Example:

    >>> features = np.random.default_rng(0).normal(size=[60, 4])
    >>> folds = keras_lit.alignment.Folds(4, 4, count=2)
    >>> folds.add(features, features)
    >>> found = keras_lit.alignment.choose(folds, verbose=0)
    >>> row = keras_lit.alignment.Probe("lite0", "minilm", found)
    >>> row.image_tower, row.alignment.mean_recall > 0.9
    ('lite0', True)
    """

    image_tower: str
    text_tower: str
    alignment: Alignment


def probe(
    image_towers: Mapping[str, ImageTower],
    text_towers: Mapping[str, TextTower],
    x: Any,
    batch_size: int | None = None,
    folds: int = 3,
    verbose: int | Literal["auto"] = "auto",
) -> list[Probe]:
    """Ranks pairs of pretrained towers by the held-out recall of heads in closed form.

    The pairs are read once; each tower encodes each of them once. The towers stay as they are.

    Args:
        image_towers: {name: `ImageTower`}.
        text_towers: {name: `TextTower`}.
        x: batches of raw pairs {"image", "text"} in any form that `LiT.fit` takes, and "group"; or
            features of a cache, for towers `from_features` (`keras_lit.features.image_tower`,
            `text_tower`). Beside a cached text tower others may read the text.
        batch_size: int, for a dict of arrays (32 by default).
        folds: int, of the cross-validation. Each holds 8 (image_dim + text_dim)² bytes for each
            pair of towers.
        verbose: 0, 1 or "auto": progress bars.

    Returns:
        A list of `Probe`, the best pair of towers first.

    Raises:
        ValueError: no towers; pairs that do not suit one of them, or that are not batched.

    Example:

    >>> image_towers = {
    ...     f"{size} pixels": keras_lit.ImageTower(
    ...         keras.Sequential([keras.layers.Conv2D(4, size, strides=8)]),
    ...         preprocessor=keras_lit.preprocessing.ImagePreprocessor(16))
    ...     for size in (3, 5)}
    >>> text_tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 8, 1, 16, 2))
    >>> rng = np.random.default_rng(0)
    >>> pairs = {
    ...     "image": rng.integers(0, 256, [80, 16, 16, 3]).astype("uint8"),
    ...     "text": rng.integers(1, 100, [80, 16])}
    >>> found = keras_lit.alignment.probe(image_towers, {"small": text_tower}, pairs, verbose=0)
    >>> sorted(row.image_tower for row in found), found[0].text_tower
    (['3 pixels', '5 pixels'], 'small')
    """
    if not image_towers or not text_towers:
        raise ValueError("There should be at least one image tower and one text tower.")
    data = batches.as_dataset(x, batch_size)
    batches.check_ends(data)

    def own_text(pair: dict[str, Any], text_tower: TextTower) -> dict[str, Any]:
        """Cached features belong to one tower; the others read the text beside them."""
        return pairs.one_text(pair, isinstance(text_tower.backbone, FeaturesOnly))

    for image_tower in image_towers.values():
        for text_tower in text_towers.values():
            pairs.check_spec(own_text(data.element_spec, text_tower), image_tower, text_tower)
    if not pairs.are_batched(data.element_spec):
        raise ValueError("The pairs should be batched, for example `pairs.batch(512)`.")
    names = [(i, t) for i in image_towers for t in text_towers]
    found = {
        (i, t): Folds(aligning.image_width(image_towers[i]), text_towers[t].feature_dim, folds)
        for i, t in names
    }

    # A diagonal through the pairs of towers has each of them.
    diagonal = [
        (list(image_towers)[k % len(image_towers)], list(text_towers)[k % len(text_towers)])
        for k in range(max(len(image_towers), len(text_towers)))
    ]

    def prepared(pair: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], ...]:
        return tuple(
            pairs.ready(own_text(pair, text_towers[t]), image_towers[i], text_towers[t])
            for i, t in diagonal
        )

    count = int(data.cardinality())
    bar = int(not 0 <= count <= 10) if verbose == "auto" else verbose
    progress = keras.utils.Progbar(count if count >= 0 else None, verbose=bar)
    for ready in internals.mapped(data, prepared).prefetch(tf.data.AUTOTUNE):
        images, texts = {}, {}
        for (i, t), batch in zip(diagonal, ready, strict=True):
            if i not in images:
                images[i] = aligning.image_features(image_towers[i], batch)
            if t not in texts:
                texts[t] = aligning.text_features(text_towers[t], batch), aligning.given_of(batch)
        # Captions that are equal to one tokenizer differ to another: the first decides for all.
        groups = aligning.groups_of(ready[0], text_towers[diagonal[0][1]])
        for i, t in names:
            found[i, t].add(images[i], texts[t][0], groups, texts[t][1])
        progress.add(1)
    results = [Probe(i, t, choose(found.pop((i, t)), verbose=verbose)) for i, t in names]
    return sorted(results, key=lambda row: -row.alignment.mean_recall)

"""A teacher's embeddings of cached pairs, from which another model learns."""

from typing import Any

import keras
import tensorflow as tf

from keras_lit.losses.distillation import TEACHER
from keras_lit.model import LiT
from keras_lit.towers import Tower
from keras_lit.training import pairs

_OF_TEXT = ("text_features", "text_fingerprint")


def with_teacher(batches: tf.data.Dataset, teacher: LiT) -> tf.data.Dataset:
    """Adds a teacher's embeddings to cached pairs, of its features and by its heads alone.

    `precompute(teacher.image_tower, ..., text_tower=teacher.text_tower)` has run the towers, of
    several `views` and captions of each picture if you like. `load` draws one of each, and a
    student that takes the same "image_features" sees the view that the teacher saw. Train it with
    `model.compile(..., distillation=keras_lit.losses.Distillation(teacher.temperature))`.

    Args:
        batches: batches of "image_features" [batch, dim] and "text_features" [batch, dim] of the
            teacher's towers, as `keras_lit.features.load(...).batch(n)` gives them.
        teacher: a `LiT`; its towers may be `from_features`. Its weights are read now.

    Returns:
        A tf.data.Dataset of the same batches with "teacher_image_embeddings" and
        "teacher_text_embeddings" [batch, embedding_dim] float32. Where there is a "text" the
        features of the text, which are the teacher's, are left out.

    Raises:
        ValueError: not batches, or not features of both.
        tf.errors.InvalidArgumentError: features of other towers.

    Example:

    >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
    >>> teacher = keras_lit.LiT(*towers, tuning="LL")
    >>> rows = {"image_features": np.eye(4, 8), "text_features": np.eye(4, 6), "text": ["a"] * 4}
    >>> batches = tf.data.Dataset.from_tensor_slices(rows).batch(4)
    >>> taught = keras_lit.features.with_teacher(batches, teacher)
    >>> sorted(taught.element_spec)
    ['image_features', 'teacher_image_embeddings', 'teacher_text_embeddings', 'text']

    Reference: MobileCLIP, Vasu et al., CVPR 2024 (arXiv 2311.17049), section 3.
    """
    spec = batches.element_spec
    names = ("image_features", "text_features")
    given = {x: spec[x] for x in names if x in spec} if isinstance(spec, dict) else {}
    if [x.shape.rank for x in given.values()] != [2, 2]:
        raise ValueError(
            'A teacher takes batches of "image_features" [batch, dim] and "text_features" [batch, '
            f"dim]. Received: {spec}. Precompute both by the teacher's towers (`precompute(..., "
            "text_tower=...)`) and batch them."
        )
    towers: dict[str, Any] = {"image": teacher.image_tower, "text": teacher.text_tower}
    for side, tower in towers.items():
        pairs.check_features(spec[f"{side}_features"], tower, side)
        if tower._from_below(spec[f"{side}_features"]):
            raise ValueError(
                "A teacher takes its pooled features, to which its heads belong. Received what "
                "enters its last blocks: precompute without `last_blocks`."
            )
    heads = [tower.head for tower in towers.values() if tower.head is not None]
    # Copies: tf.data runs on the CPU, whose functions cannot read what lives on other devices.
    weights = [(x, tf.constant(x.numpy())) for head in heads for x in head.variables]

    def embedded(tower: Tower, features: tf.Tensor) -> tf.Tensor:
        scope = keras.StatelessScope()
        for weight, value in weights:
            scope.add_update((weight, value))
        with scope:
            return tf.math.l2_normalize(tf.cast(tower.project(features), tf.float32), axis=1)

    def add(batch: pairs.Pairs) -> pairs.Pairs:
        features = {x: batch[x] for x in (*names, "fingerprint", _OF_TEXT[1]) if x in batch}
        ready = pairs.ready(features, *towers.values())
        found = [embedded(towers[side], ready[f"{side}_features"]) for side in towers]
        left_out = _OF_TEXT if "text" in batch else ()
        kept = {name: x for name, x in batch.items() if name not in left_out}
        return {**kept, **dict(zip(TEACHER, found, strict=True))}

    return batches.map(add, tf.data.AUTOTUNE)

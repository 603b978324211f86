"""Mixtures of cached pairs, for heads that see few of them."""

import tensorflow as tf

from keras_lit import checks
from keras_lit.data import captions
from keras_lit.training import pairs

_KEPT = ("image_features", "text_features", "fingerprint", "text_fingerprint")


def latent_mixup(
    batches: tf.data.Dataset, alpha: float = 1.0, seed: int | None = None
) -> tf.data.Dataset:
    """Mixes pairs of features by two, image with image and text with text by the same share.

    A batch of 2 n pairs becomes one of n: share * row[i] + (1 - share) * row[i + n], before
    any head. A share is drawn from Beta(alpha, alpha) for each batch, anew in each epoch. Batches
    are global ones, so replicas and workers (give these a `seed`) train as one device.

    Args:
        batches: batches of "image_features" [batch, dim] and "text_features" [batch, dim], as
            `keras_lit.features.load(...).batch(n, drop_remainder=True)` gives them, shuffled.
        alpha: float, above 0. With 1 all shares are equally likely, below 1 mostly those near 0 and
            1.
        seed: int, of the shares; drawn when None.

    Returns:
        A tf.data.Dataset of {"image_features", "text_features"}, float32, and their fingerprints.
        A mixture has no text, name or group: other columns are left out.

    Raises:
        ValueError: not batches, or not features of both; `alpha` is not positive.

    Example:

    >>> rows = {"image_features": np.eye(4, 3), "text_features": np.eye(4, 5), "text": ["a"] * 4}
    >>> batches = tf.data.Dataset.from_tensor_slices(rows).batch(4, drop_remainder=True)
    >>> mixed = next(iter(keras_lit.features.latent_mixup(batches, alpha=0.5)))
    >>> sorted(mixed), mixed["text_features"].shape
    (['image_features', 'text_features'], TensorShape([2, 5]))

    Reference: FuseMix, Vouitsis et al., "Data-Efficient Multimodal Fusion on a Single GPU", CVPR
    2024 (arXiv 2312.10144).
    """
    checks.check_positive(alpha, "alpha")
    spec = batches.element_spec
    given = {x: spec[x].shape for x in _KEPT[:2] if x in spec} if isinstance(spec, dict) else spec
    if not isinstance(given, dict) or [x.rank for x in given.values()] != [2, 2]:
        raise ValueError(
            'Latent mixup takes batches of "image_features" [batch, dim] and "text_features" '
            f"[batch, dim]. Received: {given}. Precompute both (`precompute(..., text_tower=...)`) "
            "and batch them."
        )

    def mix(batch: pairs.Pairs, numbers: tf.Tensor) -> pairs.Pairs:
        # Two gammas of equal scale give a beta; in 64 bits those of a small alpha are not all 0.
        shape = tf.constant([alpha, alpha], tf.float64)
        gammas = tf.random.stateless_gamma([2], numbers, shape, dtype=tf.float64)
        share = tf.cast(gammas[0] / tf.reduce_sum(gammas), tf.float32)
        half = pairs.batch_size(batch) // 2
        mixed = {name: batch[name][:half] for name in _KEPT if name in batch}
        for name in _KEPT[:2]:
            first, second = (tf.cast(x, tf.float32) for x in tf.split(batch[name][: 2 * half], 2))
            mixed[name] = share * first + (1 - share) * second
        return mixed

    seed = pairs.draw_seed() if seed is None else seed
    return captions.with_numbers(batches, 2, seed).map(mix)

"""Linear heads in closed form, of means and covariances alone."""

from typing import NamedTuple

import numpy as np

from keras_lit import checks
from keras_lit.alignment.moments import Moments


class Head(NamedTuple):
    """A linear head.

    Args:
        kernel: [feature_dim, dim] float64.
        bias: [dim] float64.

    Example:

    >>> head = keras_lit.alignment.Head(2 * np.eye(3), np.ones(3))
    >>> head.project(np.zeros([2, 3])).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    kernel: np.ndarray
    bias: np.ndarray

    def project(self, features: np.ndarray) -> np.ndarray:
        """The embeddings of features, of any length.

        Args:
            features: [n, feature_dim] float array.

        Returns:
            [n, dim] array of the features' dtype.

        Example:

        >>> keras_lit.alignment.Head(2 * np.eye(3), np.ones(3)).project(np.ones([1, 3]))
        array([[3., 3., 3.]])
        """
        return features @ self.kernel.astype(features.dtype) + self.bias.astype(features.dtype)


class Heads(NamedTuple):
    """A head for each tower, into one space.

    Args:
        image: `Head`.
        text: `Head`.

    Example:

    >>> moments = keras_lit.alignment.Moments(8, 6)
    >>> rng = np.random.default_rng(0)
    >>> moments.add(rng.normal(size=[50, 8]), rng.normal(size=[50, 6]))
    >>> heads = keras_lit.alignment.cca(moments, dim=3)
    >>> heads.image.kernel.shape, heads.text.kernel.shape
    ((8, 3), (6, 3))
    """

    image: Head
    text: Head


def cca(
    moments: Moments, image_penalty: float = 0.3, text_penalty: float = 0.3, dim: int | None = None
) -> Heads:
    """Regularised canonical correlation analysis, each direction weighted by its correlation.

    Pooled features have a large mean and a few strong directions, in which all pictures (and all
    captions) look alike. The heads take the mean away, even out the directions, and keep those that
    pictures and captions share: the more, the better they correlate. Compare by cosine.

    Args:
        moments: `Moments` of pairs.
        image_penalty: float, added to the variances of the image features in multiples of their
            mean. Small: all directions count alike; large: those of much variance.
        text_penalty: float, the same for the text features.
        dim: int, how many directions to keep. None: as many as there are.

    Returns:
        `Heads` of width `dim`, the best directions first.

    Raises:
        ValueError: a penalty that is not positive, no pairs, `dim` above the smaller width.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> meaning = rng.normal(size=[50, 3])
    >>> images, texts = (
    ...     meaning @ rng.normal(size=[3, dim]) + 0.01 * rng.normal(size=[50, dim]) + 5
    ...     for dim in (8, 6))
    >>> moments = keras_lit.alignment.Moments(8, 6)
    >>> moments.add(images, texts)
    >>> heads = keras_lit.alignment.cca(moments, 0.01, 0.01, dim=3)
    >>> image, text = heads.image.project(images), heads.text.project(texts)
    >>> nearest = (keras.utils.normalize(image) @ keras.utils.normalize(text).T).argmax(axis=1)
    >>> bool((nearest == np.arange(50)).mean() > 0.8)
    True

    Reference: Vinod, "Canonical ridge and econometrics of joint production", 1976; the weights are
    those of CSA, ICLR 2025 (arXiv 2410.07610).
    """
    return cca_of(moments, regression(moments, image_penalty), text_penalty, dim)


def cca_of(moments: Moments, kernel: np.ndarray, text_penalty: float, dim: int | None) -> Heads:
    """`cca`, given the regression from image to text, which many text penalties share."""
    from scipy import linalg  # Imported lazily: takes 0.1 s.

    checks.check_positive(text_penalty, "text_penalty")
    most = min(moments.image_dim, moments.text_dim)
    if dim is not None and not 0 < dim <= most:
        raise ValueError(
            f"`dim` should be from 1 to {most}, the width of the narrower features. "
            f"Received: {dim}."
        )
    # The best prediction of the text from the image, and then the directions of the text that are
    # predicted best: with C the covariances, S = Cii^-1 Cit and (Cti S) v = r^2 Ctt v. The image's
    # canonical vectors are S v / r; weighted by r they need no division.
    image, text = slice(0, moments.image_dim), slice(moments.image_dim, None)
    predicted = moments.scatter[text, image] @ kernel / moments.count
    squares, vectors = linalg.eigh(
        (predicted + predicted.T) / 2, _penalised(moments, text, text_penalty), check_finite=False
    )
    kept = slice(None, -1 - (dim or most), -1)
    vectors, correlations = vectors[:, kept], np.sqrt(np.maximum(squares[kept], 0))
    return Heads(
        _head(moments.mean[image], kernel @ vectors),
        _head(moments.mean[text], vectors * correlations),
    )


def ridge(moments: Moments, penalty: float = 0.3) -> Heads:
    """Ridge regression from image features to text features, a baseline.

    Args:
        moments: `Moments` of pairs. Where cosines decide, of texts of unit length.
        penalty: float, added to the variances of the image features in multiples of their mean.

    Returns:
        `Heads`: the regression for images, the identity for text.

    Raises:
        ValueError: a penalty that is not positive; no pairs.

    Example:

    >>> images = np.random.default_rng(0).normal(size=[500, 3]).astype("float32")
    >>> moments = keras_lit.alignment.Moments(3, 2)
    >>> moments.add(images, images @ np.array([[1, 0], [0, 2], [0, 0]]) + 1)
    >>> head = keras_lit.alignment.ridge(moments, 1e-6).image
    >>> np.allclose(head.kernel, [[1, 0], [0, 2], [0, 0]], atol=1e-4), np.round(head.bias)
    (True, array([1., 1.]))
    """
    kernel = regression(moments, penalty)
    image, text = np.split(moments.mean, [moments.image_dim])
    identity = Head(np.eye(len(text)), np.zeros(len(text)))
    return Heads(Head(kernel, text - image @ kernel), identity)


def whitening(moments: Moments, penalty: float = 0.3) -> Head:
    """A head for one tower alone: mean 0 and more even directions, without a rotation.

    Args:
        moments: `Moments` of the features of one tower (or of pairs, whose image side is taken).
        penalty: float, added to the variances in multiples of their mean.

    Returns:
        A `Head` of the features' width, its kernel symmetric.

    Raises:
        ValueError: a penalty that is not positive; no rows.

    Example:

    >>> features = np.random.default_rng(0).normal(size=[500, 3]) * [1, 5, 9] + 7
    >>> moments = keras_lit.alignment.Moments(3)
    >>> moments.add(features)
    >>> head = keras_lit.alignment.whitening(moments, 1e-6)
    >>> np.allclose(np.cov(head.project(features).T, ddof=0), np.eye(3), atol=1e-4)
    True
    """
    image = slice(0, moments.image_dim)
    variances, directions = np.linalg.eigh(_penalised(moments, image, penalty))
    return _head(moments.mean[image], directions / np.sqrt(variances) @ directions.T)


def regression(moments: Moments, penalty: float) -> np.ndarray:
    """[image_dim, text_dim]: the kernel of the ridge regression from image to text."""
    from scipy import linalg

    image, text = slice(0, moments.image_dim), slice(moments.image_dim, None)
    covariance = _penalised(moments, image, penalty)
    cross = moments.scatter[image, text] / moments.count
    return linalg.solve(covariance, cross, assume_a="pos", overwrite_a=True, check_finite=False)


def _penalised(moments: Moments, side: slice, penalty: float) -> np.ndarray:
    """The covariance of one side, its diagonal raised by `penalty` mean variances."""
    checks.check_positive(penalty, "penalty")
    if not moments.count:
        raise ValueError("There should be rows to align. Received `Moments` of none.")
    covariance = moments.scatter[side, side] / moments.count
    spread = np.diag(covariance).mean()
    if not spread > 0:
        raise ValueError(
            f"The {'text' if side.start else 'image'} features are the same in all rows, and no "
            "head tells them apart. Look at the pairs, and at what the tower makes of them."
        )
    covariance.flat[:: len(covariance) + 1] += penalty * spread
    return covariance


def _head(mean: np.ndarray, kernel: np.ndarray) -> Head:
    return Head(kernel, -mean @ kernel)

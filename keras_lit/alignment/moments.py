"""Means and covariances of pairs of features, in one pass and of several parts."""

import numpy as np

from keras_lit import checks


class Moments:
    """Count, mean and scatter of pairs of features: all that heads in closed form need.

    Rows are added as they come and forgotten; the memory is 8 (image_dim + text_dim)² bytes. Those
    of several jobs, files or workers merge into those of all their rows (Chan, Golub and LeVeque,
    1979): batches, parts and their order change nothing but the last digits.

    Args:
        image_dim: int, the width of the image features.
        text_dim: int, the width of the text features; 0 for the rows of one tower alone.

    Attributes:
        count: int, the number of pairs.
        mean: [image_dim + text_dim] float64.
        scatter: [image_dim + text_dim, image_dim + text_dim] float64, the sum of the outer products
            of the centred rows: `count` times the covariance.

    Raises:
        ValueError: a width that is no positive int.

    Example:

    >>> images, texts = np.random.default_rng(0).normal(size=[2, 1000, 4])
    >>> first, second = (keras_lit.alignment.Moments(4, 4) for _ in range(2))
    >>> first.add(images[:700], texts[:700])
    >>> second.add(images[700:], texts[700:])
    >>> first.merge(second)
    >>> np.allclose(first.scatter[:4, 4:] / 1000, np.cov(images.T, texts.T, ddof=0)[:4, 4:])
    True
    """

    def __init__(self, image_dim: int, text_dim: int = 0):
        checks.check_count(image_dim, "image_dim")
        if text_dim:
            checks.check_count(text_dim, "text_dim")
        self.image_dim, self.text_dim = image_dim, text_dim
        self.count = 0
        self.mean = np.zeros(image_dim + text_dim)
        self.scatter = np.zeros([image_dim + text_dim] * 2)

    def add(self, images: np.ndarray, texts: np.ndarray | None = None) -> None:
        """Adds rows; some thousand at a time are fastest.

        Args:
            images: [n, image_dim] floats.
            texts: [n, text_dim] floats, those of the same pairs; None if `text_dim` is 0.

        Raises:
            ValueError: other shapes; NaN or infinite values.
        """
        columns = [images] if texts is None else [images, texts]
        rows = np.concatenate(columns, axis=1)
        rows = rows.astype(np.result_type(rows.dtype, "float32"), copy=False)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"Rows should be as wide as {self.image_dim} and {self.text_dim}, the image and "
                f"text features. Received: {[column.shape for column in columns]}."
            )
        if not len(rows):
            return
        mean = rows.mean(axis=0, dtype="float64")
        if not np.isfinite(mean).all():
            raise ValueError("Features should be finite. Received NaN or infinite values.")
        centred = rows - mean.astype(rows.dtype)  # So that float32 products lose nothing.
        self._merge(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        """Adds the rows that another has seen.

        Args:
            other: `Moments` of the same widths; it stays as it is.

        Raises:
            ValueError: other widths.
        """
        widths = [(x.image_dim, x.text_dim) for x in (self, other)]
        if widths[0] != widths[1]:
            raise ValueError(f"Moments should have the same widths. Received: {widths}.")
        if other.count:
            self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total, difference = self.count + count, mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(difference * (self.count * count / total), difference)
        self.mean += difference * (count / total)
        self.count = total

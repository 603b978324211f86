"""Means and covariances of pairs of features, in one pass and of several parts."""

import numpy as np

from keras_lit import checks

_BLOCK = 2048  # Rows that are multiplied at a time.


class Moments:
    """Count, mean and scatter of pairs of features: all that heads in closed form need.

    Rows are added as they come and forgotten; the memory is 8 (image_dim + text_dim)² bytes. Those
    of several jobs, files or workers merge into those of all their rows (Chan, Golub and LeVeque,
    1979): batches, parts and their order change nothing but the last digits.

    Args:
        image_dim: int, the width of the image features.
        text_dim: int, the width of the text features; 0 for the rows of one tower alone.

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
        self._count = 0
        self._mean = np.zeros(image_dim + text_dim)
        self._scatter = np.zeros([image_dim + text_dim] * 2)
        self._waiting: list[np.ndarray] = []

    @property
    def count(self) -> int:
        """The number of pairs.

        Example:

        >>> moments = keras_lit.alignment.Moments(2)
        >>> moments.add(np.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> moments.count
        2
        """
        self._flush()
        return self._count

    @property
    def mean(self) -> np.ndarray:
        """[image_dim + text_dim] float64.

        Example:

        >>> moments = keras_lit.alignment.Moments(2)
        >>> moments.add(np.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> moments.mean
        array([2., 4.])
        """
        self._flush()
        return self._mean

    @property
    def scatter(self) -> np.ndarray:
        """[image_dim + text_dim, image_dim + text_dim] float64: `count` times the covariance.

        Example:

        >>> moments = keras_lit.alignment.Moments(2)
        >>> moments.add(np.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> moments.scatter
        array([[2., 4.],
               [4., 8.]])
        """
        self._flush()
        return self._scatter

    @property
    def variances(self) -> np.ndarray:
        """[image_dim + text_dim] float64, of each feature.

        Example:

        >>> moments = keras_lit.alignment.Moments.of(1, 1, 4, np.zeros(2), 4 * np.eye(2))
        >>> moments.variances.tolist()
        [1.0, 1.0]
        """
        return np.diag(self.scatter) / self.count

    @classmethod
    def of(
        cls, image_dim: int, text_dim: int, count: int, mean: np.ndarray, scatter: np.ndarray
    ) -> "Moments":
        """Moments that are known, for example from a file.

        Args:
            image_dim, text_dim: int, the widths.
            count: int.
            mean: [image_dim + text_dim] floats.
            scatter: [image_dim + text_dim, image_dim + text_dim] floats.

        Returns:
            `Moments`.

        Raises:
            ValueError: other shapes.

        Example:

        >>> moments = keras_lit.alignment.Moments.of(2, 1, 10, np.zeros(3), 10 * np.eye(3))
        >>> moments.count
        10
        """
        found = cls(image_dim, text_dim)
        if mean.shape != found._mean.shape or scatter.shape != found._scatter.shape:
            raise ValueError(
                f"`mean` and `scatter` should have shapes {found._mean.shape} and "
                f"{found._scatter.shape}. Received: {mean.shape} and {scatter.shape}."
            )
        found._merge(count, mean, scatter)
        return found

    def add(self, images: np.ndarray, texts: np.ndarray | None = None) -> None:
        """Adds rows.

        Args:
            images: [n, image_dim] floats.
            texts: [n, text_dim] floats, those of the same pairs; None if `text_dim` is 0.

        Raises:
            ValueError: other shapes; NaN or infinite values.

        Example:

        >>> moments = keras_lit.alignment.Moments(3, 2)
        >>> moments.add(np.ones([5, 3]), np.ones([5, 2]))
        >>> moments.mean
        array([1., 1., 1., 1., 1.])
        """
        columns = [*map(np.asarray, [images] if texts is None else [images, texts])]
        widths = [self.image_dim, self.text_dim][: 2 if self.text_dim else 1]
        if [column.shape for column in columns] != [(len(images), width) for width in widths]:
            raise ValueError(
                f"Rows should be as wide as {self.image_dim} and {self.text_dim}, the image and "
                f"text features. Received: {[column.shape for column in columns]}."
            )
        rows = np.concatenate(columns, axis=1)
        rows = rows.astype(np.result_type(rows.dtype, "float32"), copy=False)
        if not np.isfinite(rows).all():
            raise ValueError("Features should be finite. Received NaN or infinite values.")
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _BLOCK:
            self._flush()

    def merge(self, other: "Moments") -> None:
        """Adds the rows that another has seen.

        Args:
            other: `Moments` of the same widths; it stays as it is.

        Raises:
            ValueError: other widths.

        Example:

        >>> first, second = (keras_lit.alignment.Moments(3) for _ in range(2))
        >>> first.add(np.ones([5, 3]))
        >>> second.add(np.ones([2, 3]))
        >>> first.merge(second)
        >>> first.count
        7
        """
        widths = [(x.image_dim, x.text_dim) for x in (self, other)]
        if widths[0] != widths[1]:
            raise ValueError(f"Moments should have the same widths. Received: {widths}.")
        self._flush()
        self._merge(other.count, other.mean, other.scatter)

    def _flush(self) -> None:
        """Takes in the rows that wait: to add to so large a matrix costs as much as 100 rows."""
        if not sum(map(len, self._waiting)):
            return
        rows = np.concatenate(self._waiting)
        self._waiting.clear()
        mean = rows.mean(axis=0, dtype="float64")
        centred = rows - mean.astype(rows.dtype)  # So that float32 products lose nothing.
        self._merge(len(rows), mean, centred.T @ centred)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not count:
            return
        total, difference = self._count + count, mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(difference * (self._count * count / total), difference)
        self._mean += difference * (count / total)
        self._count = total

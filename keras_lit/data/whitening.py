"""Whitening of embeddings, by which images differ that a tower finds much alike."""

import numpy as np


def whitening_kernel(features: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean 0 and more even directions for rows like these: `(rows - mean) @ kernel`.

    Args:
        features: [n, dim] float array, of some hundred images or more.
        penalty: float, what is added to the variances, in multiples of their mean: 0.1 is strong,
            10 weak.

    Returns:
        The mean [dim] and the symmetric kernel [dim, dim], in the features' dtype.

    Example:

    >>> features = np.array([[3.0, 0.1], [3.0, -0.1], [5.0, 0.1], [5.0, -0.1]])
    >>> mean, kernel = whitening_kernel(features, penalty=0.0)
    >>> np.round((features - mean) @ kernel).tolist()
    [[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]
    """
    mean = features.mean(axis=0)
    centred = features - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(features))
    deviations = np.sqrt(np.maximum(variances, 0) + penalty * variances.mean())
    return mean, directions / deviations @ directions.T

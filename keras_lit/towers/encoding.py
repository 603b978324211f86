"""Many rows through a tower, batch by batch, to embeddings of unit length."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import distribution
from keras_lit.towers import Tower


def unit_length(embeddings: Any) -> tf.Tensor:
    """[batch, dim] -> float32 rows of length 1."""
    return tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=1)


def embed(tower: Tower, inputs: tf.data.Dataset, verbose: Any) -> np.ndarray:
    """Runs a tower over batches of what it takes, with a progress bar.

    Args:
        tower: an image or text tower.
        inputs: a batched tf.data.Dataset, preprocessed.
        verbose: 0, 1 or "auto": a progress bar for more than 10 batches.

    Returns:
        [n, dim] float32 array of unit-length rows.

    Raises:
        ValueError: an empty dataset.
    """
    count = int(inputs.cardinality())
    if verbose == "auto":
        verbose = int(not 0 <= count <= 10)
    progress = keras.utils.Progbar(count if count >= 0 else None, verbose=verbose)
    rows = []
    with tower.distribute_strategy.scope():
        for batch in inputs:
            rows.append(distribution.on_replicas(tower.inference(), batch))
            progress.add(1)
    if not rows:
        raise ValueError("There should be something to embed. Received an empty dataset.")
    return unit_length(np.concatenate(rows)).numpy()

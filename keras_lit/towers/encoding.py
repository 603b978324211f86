"""The one loop that runs a tower over batches."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, distribution
from keras_lit.losses import prefixes
from keras_lit.towers.base import Output, Tower

# One of a few rows is a list, for which no dataset has to be compiled.
Batches: TypeAlias = tf.data.Dataset | list[Any]


def unit_length(embeddings: Any, dim: int | None = None) -> tf.Tensor:
    """[batch, width] -> float32 rows of length 1, of the first `dim` numbers (None: of all)."""
    return prefixes.unit_prefix(embeddings, dim)


def encode(
    function: Callable[[Any], tf.Tensor], batches: Batches, verbose: int | Literal["auto"]
) -> Iterator[tuple[np.ndarray, Any]]:
    """Runs a tower's tf.function over batches, on all replicas here, with a progress bar.

    Batches are what it takes, or dicts that hold it as "image" (or "image_features" or
    "text_features", encoded already). `verbose` is 0, 1 or "auto": a bar for more than 10. Yields
    [batch, dim], the batch.
    """
    if isinstance(batches, tf.data.Dataset):
        count, batches = int(batches.cardinality()), batches.prefetch(tf.data.AUTOTUNE)
    else:
        count = len(batches)
    if verbose == "auto":
        verbose = int(not 0 <= count <= 10)
    progress = keras.utils.Progbar(count if count >= 0 else None, verbose=verbose)
    for batch in batches:
        if isinstance(batch, dict) and "image" not in batch:
            features = "image_features" if "image_features" in batch else "text_features"
            yield batch[features].numpy(), batch
        else:
            inputs = batch["image"] if isinstance(batch, dict) else batch
            yield distribution.on_replicas(function, inputs), batch
        progress.add(1)


def spec_of(batches: Batches) -> Any:
    """A batch, or the specification of one: what has its dtypes and shapes."""
    return batches[0] if isinstance(batches, list) else batches.element_spec


def function_for(tower: Tower, inputs: Batches, output: Output) -> Callable[[Any], tf.Tensor]:
    """A tower's tf.function for batches of what `encode` takes."""
    spec = spec_of(inputs)
    return tower.inference(output, not isinstance(spec, dict) and tower._from_below(spec))


def embed(
    tower: Tower,
    inputs: Batches,
    verbose: int | Literal["auto"],
    dim: int | None = None,
    output: Literal["embeddings", "patches"] = "embeddings",
) -> np.ndarray:
    """[n, dim] (of patches [n, rows, columns, dim]) float32 array of unit-length rows, of batches
    of what `encode` takes.
    """
    check_dim(tower, dim)
    with tower.distribute_strategy.scope():
        rows = [found for found, _ in encode(function_for(tower, inputs, output), inputs, verbose)]
    if not rows:
        raise ValueError("There should be something to embed. Received an empty dataset.")
    found: Any = np.concatenate(rows)
    if isinstance(spec_of(inputs), dict):  # Of features.
        project: Any = tower.project if output == "embeddings" else tower.patch_embeddings
        found = project(found)
    return unit_length(found, dim).numpy()


def check_dim(tower: Tower, dim: int | None) -> None:
    """Raises ValueError unless a tower's embeddings can be cut to this width (None: are not)."""
    if dim is not None:
        checks.check_count(dim, "dim")
        if dim > tower.embedding_dim:
            raise ValueError(
                f"`dim` should be at most {tower.embedding_dim}, the width of the embeddings. "
                f"Received: {dim}."
            )

"""Where the patches of a backbone are among its tokens, and whether they have embeddings."""

from typing import Any

import keras

from keras_lit.backbones import TokenHead

Grid = tuple[int, int]


def layout(backbone: Any, shape: tuple[int | None, ...], image_size: Grid) -> tuple[Grid, int]:
    """(rows, columns) of the patches, and how many tokens come before them.

    `shape` is that of the backbone's output: a map, or tokens, whose number and the patch's size
    say how many of them are a class token and registers.

    Raises:
        ValueError: vectors, or a backbone that does not say how large its patches are.
    """
    if len(shape) == 4 and None not in shape[1:3]:
        return (int(shape[1] or 0), int(shape[2] or 0)), 0
    if (grid := getattr(backbone, "grid", None)) is not None:  # Of features that were stored.
        return grid, backbone.prefix_tokens
    patch = getattr(backbone, "patch_size", None)
    if len(shape) == 3 and shape[1] is not None and patch is not None:
        sides = (patch, patch) if isinstance(patch, int) else patch
        rows, columns = (n // int(side) for n, side in zip(image_size, sides, strict=True))
        if 0 < rows * columns <= shape[1]:
            return (rows, columns), shape[1] - rows * columns
        while rows * columns > shape[1]:  # Swin merges four patches into one.
            rows, columns = rows // 2, columns // 2
        if rows * columns == shape[1]:
            return (rows, columns), 0
    raise ValueError(
        "Patches need a backbone that gives a feature map [batch, height, width, dim], or tokens "
        f"and the `patch_size`. {type(backbone).__name__} gives {shape}, its `patch_size`: {patch}."
    )


def part(tower: Any) -> slice:
    """What of an embedding is the patches': the second half, where no layer mixes the two."""
    head = tower.head
    of_tokens = isinstance(head, TokenHead)
    pooling = head.pooling if of_tokens else tower.pooling
    mixed = head.dim is not None if of_tokens else head is not None
    halves = pooling == "first_and_mean" and not mixed
    return slice(tower.embedding_dim // 2 if halves else 0, None)


def check_blocks(pooling: str, head: Any) -> None:
    """Raises ValueError unless pooling and head can follow transformer blocks."""
    if pooling not in ("auto", "tokens", "mean", "first_and_mean"):
        raise ValueError(
            f'`blocks` go with `pooling` "first_and_mean" or "mean". Received: {pooling!r}.'
        )
    if head != "linear":
        raise ValueError(
            f"`blocks` make a head, linear after the pooling. Received `head`={head!r}: leave one "
            "of them out."
        )


def check_embeddable(tower: Any) -> None:
    """Raises ValueError unless a picture's embedding is linear in the mean of its patches."""
    head = tower.head
    is_linear = head is None or (
        isinstance(head, keras.layers.Dense) and head.activation is keras.activations.linear
    )
    pooled = tower.pooling in ("mean", "first_and_mean") and is_linear
    if not pooled and not isinstance(head, TokenHead):
        kind = "none" if head is None else "linear" if is_linear else type(head).__name__
        raise ValueError(
            "Patches have embeddings where the picture's is linear in their mean: `pooling` "
            '"mean" or "first_and_mean" with a linear head or none, or `blocks`. Received: '
            f"`pooling`={tower.pooling!r}, head: {kind}."
        )

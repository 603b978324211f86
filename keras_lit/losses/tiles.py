"""A tile of rows of logits after the other, compiled."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lit import internals

# Logits that exist at one time when `tile_size` is None: 64 MB in float32.
TILE_ELEMENTS = 2**24
# From this many logits on the softmax loss is faster under XLA even in one tile.
COMPILED_ELEMENTS = 2**20


def walk(
    function: Callable,
    rows: tuple[tf.Tensor, ...],
    carry: tuple[tf.Tensor, ...],
    tile_size: int | None,
    width: int | tf.Tensor,
    compiled_from: int = TILE_ELEMENTS + 1,
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    """`function(*rows, *carry)` -> (results by row, carry), a tile of rows after the other.

    `width` is how many logits a row has. What one tile holds is computed whole, with no loop,
    unless it holds `compiled_from` logits.
    """
    count = length(rows[0])
    known = isinstance(count, int) and isinstance(width, int)
    least, most = (min, max) if known else (tf.minimum, tf.maximum)
    tile_size = most(least(tile_size or most(TILE_ELEMENTS // width, 1), count), 1)
    # XLA cannot show what `tf.debugging.enable_check_numerics` wants to see.
    is_whole = known and count <= tile_size
    if (is_whole and count * width < compiled_from) or internals.has_op_callbacks():
        return function(*rows, *carry)
    tiles = count // tile_size

    def tile(first: tf.Tensor, size: Any) -> list[tf.Tensor]:
        return [
            tf.ensure_shape(
                tf.slice(x, [first] + [0] * (x.shape.rank - 1), [size, *x.shape[1:]]),
                [size if known else None, *x.shape[1:]],
            )
            for x in rows
        ]

    def step(i: tf.Tensor, arrays: Any, carry: Any) -> tuple[Any, ...]:
        results, carry = function(*tile(i * tile_size, tile_size), *carry)
        return i + 1, tuple(a.write(i, x) for a, x in zip(arrays, results, strict=True)), carry

    # XLA fuses what is done with the logits, and so halves the time on a CPU. (The losses stop
    # gradients at its inputs: a function that tapes watch would also keep what they might need.)
    @tf.function(jit_compile=True, autograph=False)
    def compiled(*carry: tf.Tensor) -> Any:
        # Process the remainder first, outside of the loop; its outputs give the loop's shapes.
        results, carry = function(*tile(tiles * tile_size, count - tiles * tile_size), *carry)
        size = tile_size if known else None
        arrays = tuple(
            tf.TensorArray(x.dtype, tiles, element_shape=[size, *x.shape[1:]]) for x in results
        )
        _, arrays, carry = tf.while_loop(
            lambda i, *_: i < tiles, step, (0, arrays, carry), parallel_iterations=1
        )
        joined = (
            tf.concat([tf.reshape(a.stack(), [tiles * tile_size, *x.shape[1:]]), x], axis=0)
            for a, x in zip(arrays, results, strict=True)
        )
        return tuple(joined), carry

    if known:
        return compiled(*carry)
    # XLA compiles when it runs: not for a small batch whose size only the step knows.
    whole = lambda: function(*rows, *carry)  # noqa: E731
    return tf.cond(count <= tile_size, whole, lambda: compiled(*carry))


def length(x: tf.Tensor) -> int | tf.Tensor:
    """The number of rows, an int where it is known before the step runs."""
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]

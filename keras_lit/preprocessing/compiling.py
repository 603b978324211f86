"""A function that stays compiled until what it was made of changes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., Any], made_of: Callable[[], Any]) -> Callable[..., Any]:
    """`function` as a tf.function, made anew when `made_of()` gives something else.

    Behind a call: a SavedModel keeps every tf.function that it finds.
    """
    before = inside = None

    def current(*args: Any) -> Any:
        nonlocal before, inside
        now = made_of()
        if inside is None or now != before:
            before, inside = now, tf.function(function, reduce_retracing=True)
        return inside(*args)

    return current

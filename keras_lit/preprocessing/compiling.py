"""A function that stays compiled until what it was made of changes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., Any], made_of: Callable[[], Any]) -> Callable[..., Any]:
    """`function` as a tf.function, made anew when `made_of()` gives something else.

    Behind a call: a SavedModel keeps every tf.function that it finds.
    """
    known: tuple[Any, Any] | None = None  # Replaced whole: threads call this.

    def current(*args: Any) -> Any:
        nonlocal known
        now, found = made_of(), known
        if found is None or now != found[0]:
            found = known = now, tf.function(function, reduce_retracing=True)
        return found[1](*args)

    return current

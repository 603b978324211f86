"""From the arrays of a file to the variables of a model, when all of them fit."""

from pathlib import Path

from keras_lit.checkpoints.names import Array
from keras_lit.checkpoints.slots import Slot


def fill(slots: dict[str, Slot], arrays: dict[str, Array], path: Path) -> None:
    """Puts each array into its variable, one at a time, after all were found to fit.

    Raises:
        ValueError: arrays are missing, left over or of another shape, or not finite.
    """
    missing = [name for name in slots if name not in arrays]
    left_over = [array.name for name, array in arrays.items() if name not in slots]
    if missing or left_over:
        raise ValueError(
            f"{path} does not hold the arrays of a model of its kind. Missing: {_some(missing)}. "
            f"Left over: {_some(left_over)}. Is it complete, and of one of the kinds that load?"
        )
    for name, slot in slots.items():
        if arrays[name].shape != tuple(slot.shape):
            raise ValueError(
                f"{arrays[name].name!r} of {path} should have the shape {tuple(slot.shape)}, by "
                f"the other arrays' shapes. Received: {arrays[name].shape}."
            )
    for name, slot in slots.items():
        slot.variable.assign(arrays[name].read().reshape(slot.variable.shape))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more if names else "none"

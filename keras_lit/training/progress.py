"""Keras' progress bar in lines of at most 120 columns; the logs and the history keep the names."""

import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

WIDTH = 120
ON_BAR = {
    "loss": "loss",
    "chance_loss": "chance",
    "image_to_text_accuracy": "i2t",
    "text_to_image_accuracy": "t2i",
}
# The names that evaluations have, in what follows the bar.
_SHORT = {
    "image_to_text": "i2t",
    "text_to_image": "t2i",
    "mean_per_class_recall": "per_class",
    "temperature": "temp",
    "chance_loss": "chance",
    "_recall@": "@",
    "_accuracy": "",
    "_median_rank": "_median",
}


class ProgressLines(keras.callbacks.ProgbarLogger):
    """The bar shows loss and accuracies of the batches; what else an epoch logs stands below it."""

    def __init__(self) -> None:
        super().__init__()
        self.async_safe = True  # As the bar that Keras adds by itself.
        self._in_fit = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._in_fit = True
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, _for_bar(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, _for_bar(logs))
        self._print_others(logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_test_batch_end(batch, _for_bar(logs))

    def on_test_end(self, logs: Any = None) -> None:
        super().on_test_end(_for_bar(logs))
        if not self._in_fit:
            self._print_others(logs)

    def _print_others(self, logs: Any) -> None:
        for line in lines_of({k: v for k, v in (logs or {}).items() if k not in ON_BAR}):
            if not self.verbose:
                return
            if keras.config.is_interactive_logging_enabled():
                print(line, flush=True)
            else:
                logging.info(line)


def with_lines(callbacks: Any, verbose: int | Literal["auto"]) -> Any:
    """The callbacks of `fit` or `evaluate`, with this bar where Keras would add its own."""
    if not verbose or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    known = keras.tree.flatten(callbacks) if callbacks else []
    if any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in known):
        return callbacks
    return [*known, ProgressLines()]


def short(name: str) -> str:
    """`retrieval_i2t@1` of `retrieval_image_to_text_recall@1`."""
    return re.sub("|".join(map(re.escape, _SHORT)), lambda found: _SHORT[found[0]], name)


def lines_of(logs: dict[str, Any]) -> Iterator[str]:
    """Short names and values, in lines of at most `WIDTH` columns."""
    line = ""
    for name, value in logs.items():
        value = float(np.mean(value))
        item = f"{short(name)}: {value:{'.4f' if abs(value) > 1e-3 else '.4g'}}"
        if line and len(line) + len(item) + 3 > WIDTH:
            yield line
            line = ""
        line += f" - {item}" if line else f"  {item}"
    if line:
        yield line


def _for_bar(logs: Any) -> dict[str, Any]:
    return {ON_BAR[name]: logs[name] for name in ON_BAR if name in (logs or {})}

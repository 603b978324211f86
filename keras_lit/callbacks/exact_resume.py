"""A training run that is killed and started again ends with the weights that it would have had."""

import hashlib
import json
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, distribution, files, internals
from keras_lit.model import locked_variables
from keras_lit.towers import fingerprints


class ExactResume(keras.callbacks.Callback):
    """Saves all that decides the rest of a training run, and goes on from there.

    Run the same script again after a crash: `fit` then continues at the next batch of the same
    epoch, with the weights, the optimizer's slots, the running means of the metrics and the states
    of dropout as they were. What is drawn in the data (the order of each epoch, crops, views) comes
    out the same if the script sets the seeds (`keras.utils.set_random_seed`) and builds its dataset
    as before; batches that were trained on are read once more and thrown away. Keras'
    `BackupAndRestore` repeats the epoch instead. State of other callbacks is not saved. Locked
    weights are not either: they should be those that the run began with. Where the model or the
    optimizer has other settings than then, a warning says so. Logs nothing.

    Args:
        directory: where to keep the checkpoint, one for each run. Several workers share it.
        save_freq: int, how many batches to train between two checkpoints, besides those at the end
            of each epoch; or "epoch" for these alone.
        replay: bool, whether to read the data of all epochs that are over once more (without
            decoding or tokenizing it) before going on: what they drew then is exact for any
            dataset. False reads the first batch of each, which is enough where an epoch shuffles
            once, as `image_text_pairs` and `features.load` do; it is not where it repeats a
            shuffled dataset, or keeps in a `cache` what the first epoch drew.

    Raises:
        ValueError: in `fit`, the checkpoint is of another model or dataset, or locked weights are
            others; `steps_per_epoch` is used; the dataset's number of batches is unknown.

    Example:

    >>> import tempfile
    >>> resume = keras_lit.callbacks.ExactResume(tempfile.mkdtemp(), save_freq=100)
    >>> # model.fit(pairs.batch(512), epochs=10, callbacks=[resume])
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        save_freq: int | Literal["epoch"] = "epoch",
        replay: bool = True,
    ):
        super().__init__()
        if save_freq != "epoch":
            checks.check_positive(save_freq, "save_freq")
        self.path = pathlib.Path(directory) / "checkpoint.npz"
        self.save_freq = save_freq
        self.replay = replay
        self._saved: dict[str, np.ndarray] = {}
        self._position: dict[str, Any] = {"epoch": 0, "step": 0, "steps_per_epoch": 0}
        # In `model.stop_training` it ends an epoch and not the training: Keras asks only whether
        # that is true, and a callback that ends the training writes True over it.
        self._end_of_epoch = object()

    def continue_data(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """What is left of the epoch that was interrupted: `LiT.fit` asks before it trains.

        Args:
            batches: the batches of an epoch, a tf.data.Dataset of known cardinality.

        Returns:
            A tf.data.Dataset: the rest of the interrupted epoch at first, and then whole ones.

        Raises:
            ValueError: an unknown number of batches; a checkpoint of another run, or a damaged one.

        Example:

        >>> resume = keras_lit.callbacks.ExactResume(tempfile.mkdtemp())
        >>> batches = resume.continue_data(tf.data.Dataset.range(10).batch(2))
        >>> next(iter(batches)).numpy()  # There is no checkpoint yet.
        array([0, 1])
        """
        steps = int(batches.cardinality())
        if steps < 0:
            raise ValueError(
                "`ExactResume` needs a dataset with a known number of batches. Set it with "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`, and cut an "
                "endless one with `take`."
            )
        self._position = {"epoch": 0, "step": 0, "steps_per_epoch": steps}
        self._read(steps)
        # Reading an epoch, or its first batch, draws what that epoch drew. `take` is negative for
        # what is wanted, which is all that is left.
        epochs = self._position["epoch"]
        passed = [(steps if self.replay else 0, 1)] * epochs + [(self._position["step"], -1)]
        if self.replay and epochs:
            logging.info("ExactResume reads the data of %d epochs that are over.", epochs)

        def parts() -> Iterator[tuple[int, int]]:  # Asked in each epoch.
            yield from [passed.pop(0) for _ in list(passed)] or [(0, -1)]

        signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64))
        return (
            tf.data.Dataset.from_generator(parts, output_signature=signature)
            .flat_map(lambda skip, take: batches.skip(skip).take(take).map(lambda x: (take < 0, x)))
            .filter(lambda wanted, batch: wanted)
            .map(lambda wanted, batch: batch)
        )

    def on_train_begin(self, logs: Any = None) -> None:
        self._offset = self._position["step"]
        self._ended: tuple[int, dict[str, Any], dict[str, float]] | None = None
        began = {"locked": self._locked_weights(), "settings": _settings(self.model)}
        if self._saved:
            self._assign(self._variables())
            self._check_same_run(began)
        self._position = {**began, **self._position}
        if self._position["epoch"]:
            internals.set_initial_epoch(self.model, self._position["epoch"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self._saved and self._offset:  # `fit` has reset the metrics of this epoch.
            self._assign(self._variables())
        self._saved = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step, every = self._offset + batch + 1, self.save_freq
        if step >= self._position["steps_per_epoch"]:
            if self._offset and not self.model.stop_training:
                # Keras would ask for one batch more, and count a step even though there is none.
                self.model.stop_training = self._end_of_epoch
        elif not isinstance(every, str) and (
            step // every > (step - self.model.steps_per_execution) // every
        ):
            self._save(self._epoch, step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._offset = 0
        if self.model.stop_training is self._end_of_epoch:
            self.model.stop_training = False
        if (arrays := self._save(epoch + 1, 0)) is not None:
            self._ended = epoch + 1, arrays, self._first_numbers()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # What other callbacks changed at the end of the epoch, or swapped and swapped back.
        if self._ended is not None:
            epoch, _, before = self._ended
            if self._first_numbers() != before:
                self._save(epoch, 0)
            self._ended = None

    def on_train_end(self, logs: Any = None) -> None:
        # The end of a training may put averages or the best weights into the model, which are not
        # what goes on; a learning rate that has changed is.
        if self._ended is not None:
            epoch, arrays, before = self._ended
            slots = {id(variable) for variable in self.model.optimizer.variables}
            own = [name for name, x in self._variables().items() if id(x) in slots]
            after = self._first_numbers()
            if any(after[name] != before[name] for name in own):
                self._save(epoch, 0, {x: arrays[x] for x in arrays if x not in own})
            self._ended = None
        internals.set_initial_epoch(self.model, None)

    def _first_numbers(self) -> dict[str, float]:
        """Of each variable but the metrics', enough to see that it has changed."""
        metrics = {id(x) for metric in self.model.metrics for x in metric.variables}
        kept = {name: x for name, x in self._variables().items() if id(x) not in metrics}
        return {name: float(keras.ops.reshape(x, [-1])[0]) for name, x in kept.items()}

    def _locked_weights(self) -> str:
        """The hash of what `_variables` leaves out."""
        locked = locked_variables(self.model)
        return fingerprints.of_weights([x for x in self.model.weights if id(x) in locked])

    def _check_same_run(self, now: dict[str, Any]) -> None:
        """Of what no checkpoint restores: raises for locked weights, warns for settings."""
        began = {**now, **self._position}  # Earlier versions noted neither.
        if began["locked"] != now["locked"]:
            raise ValueError(
                f"{str(self.path)!r} is of a run whose locked weights were others, so its features "
                "were, too. Load the pretrained weights of that run (a backbone without any starts "
                "from random ones: set the seed), or pass another `directory` for a new run."
            )
        found = fingerprints.differences(began["settings"], now["settings"])
        if _given(_inner(self.model.optimizer)) == now["settings"]["optimizer"]:
            # A learning rate that is a number is as restored, however it got there.
            number = "optimizer.config.learning_rate: expected "
            found = [x for x in found if not re.match(rf"{number}[\d.e-]+, received [\d.e-]+$", x)]
        if found:
            warnings.warn(
                f"{str(self.path)!r} is of a run that began with other settings: "
                f"{'; '.join(found)}. A learning rate that is a number is the checkpoint's, the "
                "others are those of now. For a new run pass another `directory`.",
                stacklevel=2,
            )

    def _variables(self) -> dict[str, Any]:
        """All variables that training changes; those of a locked tower it does not."""
        locked = locked_variables(self.model)
        metrics = [variable for metric in self.model.metrics for variable in metric.variables]
        variables = [*self.model.variables, *metrics, *self.model.optimizer.variables]
        unique = {id(variable): variable for variable in variables if id(variable) not in locked}
        # Automatic names count the layers of a process.
        paths = [re.sub(r"_\d+", "", variable.path) for variable in unique.values()]
        return {
            f"{i:05}/{path}/{variable.dtype}": variable
            for i, (path, variable) in enumerate(zip(paths, unique.values(), strict=True))
        }

    def _save(
        self, epoch: int, step: int, known: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Writes the checkpoint, and returns its arrays where this process writes."""
        if not distribution.is_chief():
            return None
        position = {**self._position, "epoch": epoch, "step": step}
        arrays: dict[str, Any] = {}
        for name, variable in self._variables().items():
            value = keras.ops.convert_to_numpy(variable)
            # NumPy's files do not know bfloat16: its bits are kept, as integers.
            arrays[name] = value.view("uint16") if name.endswith("/bfloat16") else value
        arrays |= known or {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with files.whole(self.path) as working, open(working, "wb") as file:
                np.savez(file, position=np.array(json.dumps(position)), **arrays)
        except OSError as error:
            raise OSError(
                f"Could not write {str(self.path)!r}: {error}. The checkpoint before it is kept. "
                "Make room (or the directory writable) and run the script again."
            ) from error
        return arrays

    def _read(self, steps: int) -> None:
        files.remove_leftovers(self.path)
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                saved = {name: file[name] for name in file.files}
            self._position = json.loads(str(saved.pop("position")))
        except Exception as error:  # What NumPy and zipfile raise depends on the byte.
            raise ValueError(
                f"{str(self.path)!r} is damaged ({type(error).__name__}: {error}). Put a copy of "
                "it back, or delete it to start the run over."
            ) from error
        self._saved = saved
        if self._position["steps_per_epoch"] != steps:
            raise ValueError(
                f"{str(self.path)!r} is of a run with {self._position['steps_per_epoch']} batches "
                f"in an epoch, and this one has {steps}. Pass the same batches, or another "
                "`directory` for a new run."
            )

    def _assign(self, variables: dict[str, Any]) -> None:
        wrong = set(variables) ^ set(self._saved)
        wrong |= {n for n, v in variables.items() if not wrong and self._saved[n].shape != v.shape}
        if wrong:
            raise ValueError(
                f"{str(self.path)!r} is of another model or optimizer. Pass another `directory` "
                f"for a new run. First difference: {min(wrong)}."
            )
        for name, variable in variables.items():
            value = self._saved[name]
            kept_bits = name.endswith("/bfloat16")
            variable.assign(value.view(tf.bfloat16.as_numpy_dtype) if kept_bits else value)


def _inner(optimizer: Any) -> Any:
    """The optimizer that mixed_float16 scales the loss for."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _settings(model: keras.Model) -> dict[str, Any]:
    """What the model and its optimizer were given, as JSON keeps it."""
    return {
        "model": _given(model),
        "optimizer": _given(_inner(model.optimizer)),
        "distillation": _given(model.distillation),
    }


def _given(part: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Nobody will load a lambda from these.
        return _brief(fingerprints.canonical(part))


def _brief(config: Any) -> Any:
    """With the hash of what is long; nothing is known of a function without a name."""
    if isinstance(config, dict):
        config = {k: _brief(v) for k, v in config.items() if k != "calibration"}
        return "a lambda" if config.get("class_name") == "__lambda__" else config
    if isinstance(config, float):
        return float(f"{config:.6g}")  # It may have been float32.
    text = json.dumps(config, default=repr)
    return json.loads(text) if len(text) < 200 else hashlib.sha256(text.encode()).hexdigest()[:12]

"""Keras' `fit`, `evaluate` and `predict` for image-text pairs: all data come in by one door."""

import warnings
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit import distribution, internals
from keras_lit.towers import ImageTower, TextTower, lengths, onnx_gelu, settings
from keras_lit.training import batches, pairs, progress


class PairsModel(keras.Model):
    """A Keras model of pairs; a subclass has the towers and says what it computes."""

    image_tower: ImageTower
    text_tower: TextTower
    tuning: Any
    calibration: Any
    micro_batch_size: int | None = None
    _texts_in_groups = False

    def fit(
        self,
        x: Any = None,
        y: None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: None = None,
        sample_weight: None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> keras.callbacks.History:
        """Trains on image-text pairs, like `keras.Model.fit`.

        Args:
            x: batches of {"image", "text"}, as a tf.data.Dataset, a keras.utils.PyDataset (which
                threads read) or a Python generator; or a dict of arrays, lists or columns of a
                table (whose images may be file names, read in each epoch, or PIL images, too).
                Images may be encoded
                (strings of JPEG, PNG, GIF, BMP, WebP), uint8 pixels, or preprocessed floats, or
                "image_features" (pooled output of the locked tower); text strings or token ids, or
                "text_features", which a locked tower takes where there are both. Raw ones are
                preprocessed inside tf.data, with the random crop and flip of the image tower's
                preprocessor. "texts", strings [batch, n], may stand for "text": then the loss is
                the sum of those of n kinds of text; "" is a missing one. Pairs of a batch with an
                equal "group" (a string or an integer, of a label or a product), or without one with
                equal captions, are positives of each other. Several workers get the same dataset,
                or each its part, whose auto-shard policy is OFF (`image_text_pairs(...,
                shard=)`); batches are global ones either way.
            y: not used, the pairs hold both sides.
            batch_size: int, for a dict of arrays (32 by default); a dataset is batched already.
            epochs, verbose, callbacks, initial_epoch: as in `keras.Model.fit`.
            steps_per_epoch, validation_steps, validation_freq: as in `keras.Model.fit`.
            validation_data: like `x`; `validation_batch_size` for arrays (`batch_size`).
            shuffle: bool, whether to shuffle arrays, or a PyDataset's batches, in each epoch.
            validation_split, class_weight, sample_weight: refused, with what to do instead.

        Returns:
            The history: loss, chance_loss (ln of the batch size: what guessing gives, with groups,
            too), image_to_text_accuracy and text_to_image_accuracy within the batch (any pair of
            the group is right), temperature. The progress bar shows them by short names (loss,
            chance, i2t, t2i); what else an epoch logs stands below it.

        Raises:
            ValueError: no pairs, an argument that is not used, pairs that do not suit the towers.
            tf.errors.InvalidArgumentError: a bad row, named in the message: an image that does not
                decode, an empty caption, NaN, a token id outside of the vocabulary, a batch of 1.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> model.compile(keras_lit.optimizers.Adam(1e-3))
        >>> rng = np.random.default_rng(0)
        >>> pairs = {name: rng.normal(size=[16, dim]).astype("float32")
        ...          for name, dim in (("image_features", 8), ("text_features", 6))}
        >>> history = model.fit(pairs, batch_size=8, epochs=2, verbose=0)
        >>> len(history.history["loss"])
        2
        """
        _refuse(y=y, validation_split=validation_split or None)
        _refuse(class_weight=class_weight, sample_weight=sample_weight)
        resume = _resume_callback(callbacks, steps_per_epoch)
        goes_on = resume and resume.continue_data
        rows = batches.rows_of(x, batch_size) // self.distribute_strategy.num_replicas_in_sync
        rows = min(rows, self.micro_batch_size or rows)
        self._texts_in_groups = lengths.groups_gain(self.text_tower, rows)
        may_go_back = any(
            isinstance(callback, keras.callbacks.BackupAndRestore)
            for callback in keras.tree.flatten(callbacks)
        )
        first = 0 if may_go_back else initial_epoch
        x, steps_per_epoch = self._batches(
            x, steps_per_epoch, batch_size, True, shuffle, goes_on, epochs=epochs - first
        )
        if validation_data is not None:
            rows = validation_batch_size or batch_size
            rows = rows if isinstance(validation_data, dict | tuple) else None
            validation_data, validation_steps = self._batches(
                validation_data, validation_steps, rows
            )
        self._drop_calibration()
        # That of a `BackupAndRestore` of an earlier fit stays otherwise, and epochs are left out.
        internals.set_initial_epoch(self, None)
        history = super().fit(
            x,
            epochs=epochs,
            verbose=verbose,
            callbacks=progress.with_lines(callbacks, verbose),
            validation_data=validation_data,
            shuffle=False,  # What is to be shuffled is.
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
        )
        if history.epoch and not history.history:
            raise ValueError(pairs.EMPTY)
        return history

    def evaluate(
        self,
        x: Any = None,
        y: None = None,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
        sample_weight: None = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The loss and metrics of pairs, like `keras.Model.evaluate`; `x` as for `fit`.

        The loss depends on the batch size, as each batch holds its own negatives.

        Args:
            x: as for `fit`.
            y: not used.
            batch_size: int, for a dict of arrays (32 by default).
            verbose, steps, callbacks, return_dict, **kwargs: as in `keras.Model.evaluate`.
            sample_weight: refused.

        Returns:
            What `keras.Model.evaluate` returns, for example {"loss": ...} with `return_dict=True`.

        Raises:
            ValueError: as `fit`.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> model.compile(keras_lit.optimizers.Adam(1e-3))
        >>> pairs = {"image_features": np.eye(4, 8, dtype="float32"),
        ...          "text_features": np.eye(4, 6, dtype="float32")}
        >>> logs = model.evaluate(pairs, batch_size=4, verbose=0, return_dict=True)
        >>> round(logs["chance_loss"], 3)  # ln 4
        1.386
        """
        _refuse(y=y, sample_weight=sample_weight)
        if not kwargs.get("_use_cached_eval_dataset"):  # `fit` has prepared that.
            x, steps = self._batches(x, steps, batch_size)
        found = super().evaluate(
            x,
            verbose=verbose,
            steps=steps,
            callbacks=progress.with_lines(callbacks, verbose),
            return_dict=return_dict,
            **kwargs,
        )
        # Not one step, of a dataset whose number of batches was not known.
        if isinstance(found, list | dict) and not found:
            raise ValueError(pairs.EMPTY)
        return found

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> dict[str, np.ndarray]:
        """The embeddings of pairs, like `keras.Model.predict`; `encode_*` take one side.

        Args:
            x: as for `fit`.
            batch_size: int, for a dict of arrays (32 by default).
            verbose, steps, callbacks: as in `keras.Model.predict`.

        Returns:
            {"image_embeddings", "text_embeddings"}: [pairs, dim] float32 of unit-length rows.

        Raises:
            ValueError: as `fit`.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> pairs = {"image_features": np.eye(4, 8, dtype="float32"),
        ...          "text_features": np.eye(4, 6, dtype="float32")}
        >>> model.predict(pairs, verbose=0)["image_embeddings"].shape
        (4, 8)
        """
        x, steps = self._batches(x, steps, batch_size)
        try:
            found = super().predict(x, verbose=verbose, steps=steps, callbacks=callbacks)
        except UnboundLocalError as error:  # Keras joins the outputs of no step.
            if "'batch_outputs'" not in str(error):
                raise
            raise ValueError(pairs.EMPTY) from None
        return _real_rows(found)

    def train_on_batch(
        self,
        x: Any,
        y: None = None,
        sample_weight: None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        _refuse(y=y, sample_weight=sample_weight, class_weight=class_weight)
        self._drop_calibration()
        return super().train_on_batch(self._batch(x, training=True), return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: None = None, sample_weight: None = None, return_dict: bool = False
    ) -> Any:
        _refuse(y=y, sample_weight=sample_weight)
        return super().test_on_batch(self._batch(x), return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> dict[str, np.ndarray]:
        return _real_rows(super().predict_on_batch(self._batch(x)))

    def preprocess(self, x: Any, training: bool = False) -> Any:
        """Turns raw pairs into the inputs of `call`; `fit` does this by itself.

        Args:
            x: a tf.data.Dataset of pairs, batched or not, or one batch of them as a dict.
            training: bool, whether to apply the random crop and flip.

        Returns:
            A tf.data.Dataset or a dict of {"image" (or "image_features"), "text" (or
            "text_features")} tensors.

        Raises:
            ValueError: pairs that do not suit the towers.
            tf.errors.InvalidArgumentError: a bad row, named in the message.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog"], 40)
        >>> backbone = keras_lit.backbones.TextTransformer(40, 8, 16, 1, 32, 2)
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer, 8))
        >>> raw = {"image": np.zeros([1, 40, 30, 3], "uint8"), "text": ["a dog"]}
        >>> {name: tuple(value.shape) for name, value in model.preprocess(raw).items()}
        {'image': (1, 224, 224, 3), 'text': (1, 8)}
        """
        towers, locked = (self.image_tower, self.text_tower), self.tuning[1] == "L"
        return pairs.preprocess(x, *towers, training, text_locked=locked)

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Writes the whole model and its optimizer as a .keras file, like `keras.Model.save`.

        Args:
            filepath: str or path, ending in ".keras".
            overwrite, **kwargs: as in `keras.Model.save`.

        Raises:
            ValueError: a legacy .h5 file, which cannot hold several towers.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(f"Save a `.keras` file, not legacy HDF5. Received: {filepath}.")
        super().save(filepath, overwrite=overwrite, **kwargs)

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Both towers as one function of preprocessed pairs, like `keras.Model.export`.

        `keras_lit.export.save(model, directory)` writes what TF Serving wants: an artifact that
        takes image bytes and strings, with a signature for each tower and for scores.

        Args:
            filepath, format, verbose, **kwargs: as in `keras.Model.export`.
            input_signature: as there. None: {"image": float32 [n, height, width, 3], "text": int32
                [n, sequence_length]}, token ids.
        """
        if input_signature is None:
            size = self.image_tower.preprocessor.image_size
            pixels = keras.InputSpec("float32", (None, *size, 3), name="image")
            ids = keras.InputSpec("int32", (None, self.text_tower.sequence_length), name="text")
            input_signature = [{"image": pixels, "text": ids}]
        if format == "onnx":
            onnx_gelu.teach_tf2onnx()
        with settings.merged(internals.flat_layers(self)):  # LoRA goes into the kernels.
            super().export(filepath, format, verbose, input_signature, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        super().load_weights(filepath, *args, **kwargs)
        if self.calibration:
            warnings.warn(
                "The model's `calibration` holds for the weights that it was fitted with. If these "
                "are others, set `model.calibration = None`, and fit it anew.",
                stacklevel=2,
            )

    def _drop_calibration(self) -> None:
        """It was fitted to what the model gave before."""
        if self.calibration:
            warnings.warn(
                "Training changes the cosines, so the model's `calibration` is dropped. Fit it "
                "again afterwards.",
                stacklevel=3,
            )
        self.calibration = None

    def _batches(
        self,
        x: Any,
        steps: int | None = None,
        batch_size: int | None = None,
        training: bool = False,
        shuffle: bool = False,
        continue_data: Any = None,
        epochs: int = 1,
    ) -> tuple[Any, int | None]:
        """What Keras is to take in place of `x` and a number of steps."""
        with self.distribute_strategy.scope():
            found = batches.for_step(
                x,
                self.image_tower,
                self.text_tower,
                batch_size,
                training,
                shuffle,
                continue_data,
                text_locked=self.tuning[1] == "L",
                static_shapes=self.jit_compile or distribution.on_tpu(self.distribute_strategy),
                steps=steps,
            )
        # An epoch that is gone on with has fewer steps than the next.
        if steps or continue_data or found is x:
            return found, steps
        return internals.read_once(found, epochs)

    def _batch(self, x: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """One batch, ready, through the same door."""
        if not isinstance(x, dict):
            raise ValueError(
                'LiT takes a batch as a dict {"image": ..., "text": ...}. Received: '
                f"{type(x).__name__}."
            )
        ready = self.preprocess(x, training)
        if any(value.shape[:1] == [0] for value in ready.values()):
            raise ValueError("A batch should hold pairs. Received none.")
        return ready


def pairs_of(data: Any) -> dict[str, tf.Tensor]:
    """What a step is given: pairs, or from Keras' `*_on_batch` (pairs,)."""
    return data[0] if isinstance(data, tuple) else data


def _refuse(**given: Any) -> None:
    """Raises ValueError for arguments of Keras that mean nothing here."""
    remedies = {
        "y": 'It takes pairs {"image": ..., "text": ...} as `x`',
        "sample_weight": "Each pair counts once: leave pairs out with `keras_lit.data.filters`, or "
        "draw them by weight with `keras_lit.data.mixtures`",
        "class_weight": "Pairs have no classes",
        "validation_split": "Pass `validation_data`: `image_text_pairs(..., test_fraction=)` "
        "splits",
    }
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"LiT takes no `{name}`. {remedies[name]}.")


def _real_rows(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the rows that only filled a batch up."""
    mask = found.pop("mask", None)
    if mask is None:
        return found
    real = mask.reshape(len(mask), -1).any(axis=1)
    return {name: rows[real] for name, rows in found.items()}


def _resume_callback(callbacks: Any, steps_per_epoch: int | None) -> Any:
    """The `callbacks.ExactResume` among the callbacks of `fit`, if there is one."""
    found = [x for x in keras.tree.flatten(callbacks) if hasattr(x, "continue_data")]
    if found and steps_per_epoch:
        raise ValueError(
            "`ExactResume` counts whole epochs of the dataset. Leave `steps_per_epoch` out; "
            "`pairs.take(n)` makes an epoch of n batches."
        )
    return found[0] if found else None

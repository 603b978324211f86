"""Zero-shot, retrieval and few-shot evaluation inside `fit`."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_lit import checks, evaluation
from keras_lit.evaluation.encoded import labels_of, names_of_classes
from keras_lit.evaluation.zero_shot import check_prompts


class Evaluation(keras.callbacks.Callback):
    """What the three evaluations share: when they run, and where their metrics go.

    The metrics are added to `logs`, so to the history and to what callbacks after this one see:
    put it before EarlyStopping, ModelCheckpoint (both want a `mode`) and TensorBoard. A locked
    image tower runs over the images once per `fit`; each evaluation then costs the texts.

    Args:
        every_n_epochs: int. Other epochs have no such metrics, but the first, whose columns Keras'
            `CSVLogger` takes for all.
        every_n_steps: int, to evaluate after every n training steps as well (the epoch's logs then
            hold its latest evaluation); or None.
        name: str, before the names of the metrics.
    """

    def __init__(self, every_n_epochs: int, every_n_steps: int | None, name: str):
        super().__init__()
        checks.check_positive(every_n_epochs, "every_n_epochs")
        if every_n_steps is not None:
            checks.check_positive(every_n_steps, "every_n_steps")
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.name = name
        self.async_safe = every_n_steps is None
        self._latest: tuple[int, dict[str, float]] = (-1, {})
        self._step = 0
        self._begins = True
        self._fits = False

    def evaluate(self, model: Any = None) -> dict[str, float]:
        """Evaluates now.

        Args:
            model: a `LiT`; None for the one that trains, in `fit`.

        Returns:
            {name of the metric: float}.

        Example:

        >>> model = keras_lit.LiT(
        ...     keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6), "LL")
        >>> pairs = {"image_features": np.eye(4, 8, dtype="float32"), "text": ["a", "b", "c", "d"],
        ...          "text_features": np.eye(4, 6, dtype="float32")}
        >>> found = keras_lit.callbacks.RetrievalEvaluation(pairs).evaluate(model)
        >>> "retrieval_image_to_text_recall@1" in found
        True
        """
        model = self.model if model is None else model
        return {f"{self.name}_{key}": value for key, value in self._evaluate(model).items()}

    def _evaluate(self, model: Any) -> dict[str, float]:
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._step = self._steps()
        self._begins = self._fits = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._fits = False

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        if not self._fits:  # Keras lets nobody add to what `evaluate` returns.
            warnings.warn(
                f"{type(self).__name__} evaluates in `fit`, and nothing in `model.evaluate`. Its "
                "`evaluate(model)` does, and so do the functions of `keras_lit.evaluation`.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._latest = (-1, {})

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.every_n_steps is None:
            return
        before, self._step = self._step, self._steps()
        if self._step // self.every_n_steps > before // self.every_n_steps:
            self._latest = (self._step, self.evaluate())
            _add(logs, self._latest[1])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        first = self._begins and self.every_n_steps is None
        self._begins = False
        due = first or (epoch + 1) % self.every_n_epochs == 0
        if due and self._latest[0] != self._steps():
            self._latest = (self._steps(), self.evaluate())
        _add(logs, self._latest[1])

    def _steps(self) -> int:
        return int(self.model.optimizer.iterations.numpy())


class ZeroShotEvaluation(Evaluation):
    """Zero-shot accuracy inside `fit`.

    Args:
        images: what `evaluation.Images` takes: images with "label", or (image, label).
        class_names: the names of the classes, in the order of their labels. None:
            `images.class_names`, see `evaluation.classify`.
        templates: prompts with one `{}` for the name.
        top: the k of the accuracies.
        classes: the labels that `class_names` stand for, where these are not 0, 1, 2...
        every_n_epochs: int.
        every_n_steps: int or None.
        name: str, before the names of the metrics.

    Raises:
        ValueError: data or arguments that do not suit, see `evaluation.zero_shot_accuracy`.

    Example:

    >>> images = {"image": np.zeros([2, 8, 8, 3], "uint8"), "label": np.array([0, 1])}
    >>> evaluation = keras_lit.callbacks.ZeroShotEvaluation(images, ["cat", "dog"], ["a {}."])

    and `model.fit(..., callbacks=[evaluation])`.

    Logs "zero_shot_accuracy@<k>" for each k of `top`, and "zero_shot_mean_per_class_recall": parts
    of 1, to monitor with `mode="max"`.

    Reference: the LiT paper, section 4.1 and Appendix I.1.
    """

    def __init__(
        self,
        images: Any,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = ("{}",),
        top: Sequence[int] = (1, 5),
        classes: Sequence[int] | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        name: str = "zero_shot",
    ):
        super().__init__(every_n_epochs, every_n_steps, name)
        checks.check_counts(top, "top")
        self.images = evaluation.Images(images)
        self.class_names = list(names_of_classes(self.images, class_names))
        check_prompts(self.class_names, templates)
        self.templates = list(templates)
        self.top = top
        self.classes = classes

    def _evaluate(self, model: Any) -> dict[str, float]:
        weights = evaluation.zero_shot_weights(
            lambda texts: model.encode_text(texts, verbose=0), self.class_names, self.templates
        )
        embeddings = self.images.embeddings(model)
        return evaluation.zero_shot_accuracy(
            embeddings,
            labels_of(self.images, self.class_names, self.classes),
            weights,
            self.top,
            self.classes,
        )


class RetrievalEvaluation(Evaluation):
    """Recall@k and median ranks inside `fit`.

    Args:
        pairs: what `evaluation.ImagesAndTexts` takes: "image", "text", maybe "name" (rows of one
            name share their image).
        ks: the k of the recalls.
        same_text: bool, whether images with the same text are equally right.
        every_n_epochs: int.
        every_n_steps: int or None.
        name: str, before the names of the metrics.

    Raises:
        ValueError: data or arguments that do not suit, see `evaluation.retrieval_recall`.

    Example:

    >>> pairs = {"image": np.zeros([2, 8, 8, 3], "uint8"), "text": ["a cat", "a dog"]}
    >>> evaluation = keras_lit.callbacks.RetrievalEvaluation(pairs, ks=(1, 5))

    and `model.fit(..., callbacks=[evaluation])`.

    Logs "retrieval_image_to_text_recall@<k>" and "retrieval_text_to_image_recall@<k>" for each k of
    `ks`, parts of 1, to monitor with `mode="max"`; "retrieval_image_to_text_median_rank" and
    "retrieval_text_to_image_median_rank", from 1, with `mode="min"`.

    Reference: the LiT paper, section 4.1 and Appendix I.3.
    """

    def __init__(
        self,
        pairs: Any,
        ks: Sequence[int] = (1, 5, 10),
        same_text: bool = False,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        name: str = "retrieval",
    ):
        super().__init__(every_n_epochs, every_n_steps, name)
        checks.check_counts(ks, "ks")
        self.pairs = evaluation.ImagesAndTexts(pairs)
        self.ks = ks
        self.groups = self.pairs.image_groups if same_text else None

    def _evaluate(self, model: Any) -> dict[str, float]:
        images, texts = self.pairs.embeddings(model)
        return evaluation.retrieval_recall(
            images, texts, self.pairs.image_index, self.ks, self.groups, verbose=0
        )


class FewShotEvaluation(Evaluation):
    """Few-shot accuracy of the image representation inside `fit`: the output before the head.

    Args:
        train: what `evaluation.Images` takes: images with "label", or (image, label).
        test: what `evaluation.Images` takes, as `train`.
        shots: how many images of each class a probe sees.
        seeds: int, how many draws to average over.
        l2: float, the penalty of the probe's weights.
        every_n_epochs: int.
        every_n_steps: int or None.
        name: str, before the names of the metrics.

    Raises:
        ValueError: data or arguments that do not suit, see `evaluation.few_shot_accuracy`.

    Example:

    >>> images = {"image": np.zeros([2, 8, 8, 3], "uint8"), "label": np.array([0, 1])}
    >>> evaluation = keras_lit.callbacks.FewShotEvaluation(images, images, shots=(1,))

    and `model.fit(..., callbacks=[evaluation])`.

    Logs "few_shot_<n>shot_accuracy" for each n of `shots`, a part of 1, to monitor with
    `mode="max"`, and "few_shot_<n>shot_deviation", its standard deviation over the draws. While the
    image tower is locked they stay the same.

    Reference: the LiT paper, section 4.1 and Fig. 4.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        shots: Sequence[int] = (1, 5, 10, 25),
        seeds: int = 3,
        l2: float = 1024.0,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        name: str = "few_shot",
    ):
        super().__init__(every_n_epochs, every_n_steps, name)
        self.train, self.test = evaluation.Images(train), evaluation.Images(test)
        self.settings: dict[str, Any] = {"shots": shots, "seeds": seeds, "l2": l2}
        self._known: tuple[Any, Any, dict[str, float]] = (None, None, {})

    def _evaluate(self, model: Any) -> dict[str, float]:
        train, test = self.train.features(model), self.test.features(model)
        if self._known[0] is not train or self._known[1] is not test:
            found = evaluation.few_shot_accuracy(
                train, self.train["label"], test, self.test["label"], **self.settings
            )
            self._known = train, test, found
        return self._known[2]


def _add(logs: dict[str, float] | None, metrics: dict[str, float]) -> None:
    if logs is not None:
        logs.update(metrics)

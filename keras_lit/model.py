"""LiT: an image tower and a text tower, joined by a contrastive loss."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, distribution, internals, losses
from keras_lit.alignment import aligning, choosing
from keras_lit.losses import distillation as distilling
from keras_lit.losses.arguments import TEMPERATURE_SHOULD_BE_FINITE
from keras_lit.losses.prefixes import check_dims
from keras_lit.optimizers import rules
from keras_lit.towers import (
    ImageTower,
    TextTower,
    Tower,
    clip,
    encoding,
    fingerprints,
    lengths,
    locks,
    settings,
    summaries,
)
from keras_lit.towers.base import differ
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.towers.patches import check_embeddable
from keras_lit.training import batches, micro_batches, pairs
from keras_lit.training.keras_model import PairsModel, pairs_of

Tuning = Literal["LU", "LL", "Lu", "UU", "UL", "Uu", "uU", "uL", "uu"]
Loss = Literal["softmax", "sigmoid"]
_SHOULD_BE_FINITE = (
    "The {0} tower's embeddings should be finite: lower the learning rate, or check what the "
    "{0} tower was given and made of."
)
_COMPILED_UPDATE_FROM = 4_000_000  # Weights: compiling it takes seconds, a step saves 2 ns each.
LOGS = ("loss", "chance_loss", "image_to_text_accuracy", "text_to_image_accuracy")


@keras.saving.register_keras_serializable("keras_lit")
class LiT(PairsModel):
    """Locked-image text Tuning: trains a text tower to read out an image tower, or any variant.

    Args:
        image_tower: a `keras_lit.ImageTower`.
        text_tower: a `keras_lit.TextTower`. Where its `projection_dim` is None it gets a head as
            wide as the image embedding.
        tuning: two letters, image tower then text tower. "L": as given and locked (no gradient,
            no optimizer slot, inference mode); "U": as given and trained; "u": re-initialised and
            trained. LiT is "Lu" (or "LU" from a pretrained text tower), CLIP "uu"; in "LL" the
            heads train alone.
        temperature: float, the initial multiplier of the cosine similarities; it is learned.
        loss: "softmax", or "sigmoid" (SigLIP's, with a learned bias).
        max_temperature: float, an upper bound of the multiplier (CLIP's is 100); None for none.
        lock_heads: bool, whether locking a tower also locks its head, as big_vision does.
            By default the head of a locked tower trains, as the paper describes.
        bias: float, the initial bias of the logits of the sigmoid loss. SigLIP's -10 is about minus
            the logarithm of its batch of 32,768; for 512 that is -6.2.
        local_loss: bool, whether each replica contrasts only its own pairs (Appendix F). By default
            the loss is that of the global batch, on any number of replicas.
        group_captions: bool, whether pairs of a batch with equal captions (the same token ids; of
            "text_features" beside their text the same strings) are positives of each other rather
            than negatives. Where pairs have a "group", that alone decides.
        image_options: a `keras_lit.Lock`: what of the image tower trains, for the letter "U": LoRA,
            the last blocks, a rate for each block. None: all.
        text_options: the same of the text tower.
        dims: widths that rise, for example (64, 128, 256): the first numbers of an embedding become
            an embedding too (`encode_*` and `keras_lit.export.save` take a `dim`). The loss is the
            sum over these prefixes and the whole, see `keras_lit.losses.sum_over_prefixes`; the
            accuracies are the whole's. A locked tower without a head keeps its features in their
            order, which says nothing; `align` first, which puts the best first. None: the whole
            alone.

    Call arguments:
        inputs: {"image": [batch, height, width, 3] float, preprocessed, "text": [batch,
            sequence_length] (or [batch, texts, sequence_length]) int}. For a locked image tower
            {"image_features": [batch, dim]}, its pooled output, may stand for "image", for a locked
            text tower {"text_features": [batch, dim]} for "text".
        training: bool.

    Returns:
        {"image_embeddings", "text_embeddings"}: [batch, dim] (of several texts [batch, texts, dim])
        float32 of unit-length rows. A subclass that wants others overrides a tower's `project`:
        `encode_*`, evaluations and exports ask the towers.

    Raises:
        ValueError: unknown tuning; embeddings of different width; options that contradict the
            tuning or the backbone.

    Example:

    >>> image_tower = keras_lit.ImageTower(
    ...     keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]),
    ...     preprocessor=keras_lit.preprocessing.ImagePreprocessor(32))
    >>> text_tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 32, 2, 64, 4))
    >>> model = keras_lit.LiT(image_tower, text_tower, tuning="Lu")
    >>> model.compile(keras_lit.optimizers.Adafactor(1e-3))
    >>> pairs = {"image": np.zeros([8, 40, 40, 3], "uint8"), "text": np.ones([8, 16], "int32")}
    >>> history = model.fit(pairs, batch_size=4, verbose=0)

    Reference: Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022
    (arXiv 2111.07991), section 3.
    """

    loss_name: Any = checks.Settled()
    max_temperature: Any = checks.Settled()

    def __init__(
        self,
        image_tower: ImageTower,
        text_tower: TextTower,
        tuning: Tuning = "Lu",
        temperature: float = 10.0,
        loss: Loss = "softmax",
        max_temperature: float | None = None,
        lock_heads: bool = False,
        bias: float = -10.0,
        local_loss: bool = False,
        group_captions: bool = True,
        image_options: locks.Lock | None = None,
        text_options: locks.Lock | None = None,
        dims: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        # The towers' layers cast for themselves; pixels must not reach them rounded to bfloat16.
        super().__init__(autocast=False, **kwargs)
        checks.check_one_of(tuning, get_args(Tuning), "tuning")
        checks.check_one_of(loss, get_args(Loss), "loss")
        checks.check_positive(temperature, "temperature")
        for side, tower, kind in (
            ("image", image_tower, ImageTower),
            ("text", text_tower, TextTower),
        ):
            if not isinstance(tower, kind):
                raise ValueError(
                    f"`{side}_tower` should be a `{kind.__name__}`: make one of a backbone, "
                    f"`keras_lit.{kind.__name__}(backbone)`. Received: {type(tower).__name__}."
                )
        if max_temperature is not None and max_temperature < temperature:
            raise ValueError(
                "`max_temperature` should be at least the initial `temperature`. Received: "
                f"{max_temperature} and {temperature}."
            )
        image_tower, text_tower = (
            tower.reinitialized() if letter == "u" else tower
            for letter, tower in zip(tuning, (image_tower, text_tower), strict=True)
        )
        _join(image_tower, text_tower)
        locks.check(image_tower, image_options, tuning[0], "image_options")
        locks.check(text_tower, text_options, tuning[1], "text_options")
        locks.apply(image_tower, image_options)
        locks.apply(text_tower, text_options)
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.loss_name = loss
        self.initial_temperature = float(temperature)
        self.max_temperature = max_temperature
        self.lock_heads = lock_heads
        self.tuning = tuning
        self.initial_bias = bias
        self.local_loss = local_loss
        self.group_captions = group_captions
        self.dims = None if dims is None else tuple(dims)
        if self.dims is not None:
            check_dims(self.dims, text_tower.embedding_dim)
        self.log_temperature = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(temperature)),
            dtype="float32",
            constraint=self._cap if max_temperature else None,
            name="log_temperature",
        )
        if loss == "sigmoid":
            self.bias = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(bias),
                dtype="float32",
                name="bias",
            )
        self.calibration = None
        self._trackers = {name: keras.metrics.Mean(name=name) for name in LOGS}
        self.built = True

    @classmethod
    def from_towers_of(
        cls,
        backbone: keras.Model,
        tokenizer: keras.layers.Layer | None = None,
        tuning: Tuning = "LU",
        **options: Any,
    ) -> "LiT":
        """A LiT of keras-hub's CLIP or SigLIP: zero-shot as it is, and a start for tuning.

        The towers are the backbone's own encoders, not copies. Loss, temperature and bias are those
        it was trained with. (SigLIP's text was also stripped of punctuation.)

        Args:
            backbone: a `keras_nlp.models.CLIPBackbone` or `SigLIPBackbone`.
            tokenizer: of the same preset, for text as strings; without it, token ids only.
            tuning: as for `LiT`.
            **options: of `LiT`.

        Returns:
            A `LiT`.

        Raises:
            ValueError: another kind of backbone.

        Example: `keras_lit.LiT.from_towers_of(CLIPBackbone.from_preset("clip_vit_base_patch32"))`.
        """
        parts = clip.take_apart(backbone, tokenizer)
        options = {**parts.options, **options}
        return cls(parts.image_tower, parts.text_tower, tuning, **options)

    @property
    def tuning(self) -> Tuning:
        """The two letters. Setting them locks and unlocks the towers; compile again afterwards.

        They decide what this model's `fit` trains. Another Keras model that uses one of its towers
        goes by `tower.trainable`.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> model.tuning, len(model.trainable_variables)  # The text head and the temperature.
        ('LL', 3)
        """
        return self._tuning

    @tuning.setter
    def tuning(self, tuning: Tuning) -> None:
        checks.check_one_of(tuning, get_args(Tuning), "tuning")
        towers = {"An image": self.image_tower, "A text": self.text_tower}
        for (name, tower), letter in zip(towers.items(), tuning, strict=True):
            if letter != "L" and isinstance(tower.backbone, FeaturesOnly):
                raise ValueError(
                    f"{name} tower `from_features` has nothing to train but its head. Choose a "
                    f'`tuning` with "L" for that tower: "Lu" for images, "LL" for both.'
                )
        self._tuning = tuning

    @property
    def image_options(self) -> locks.Lock | None:
        """The image tower's `keras_lit.Lock`, or None.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> keras_lit.LiT(*towers, tuning="LL").image_options is None
        True
        """
        return self.image_tower.lock

    @property
    def text_options(self) -> locks.Lock | None:
        """The text tower's `keras_lit.Lock`, or None.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> keras_lit.LiT(*towers, tuning="LL").text_options is None
        True
        """
        return self.text_tower.lock

    # What trains: what neither `tuning` and options lock, whatever flags say, nor the user froze.

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        locked = locked_variables(self)
        return [variable for variable in super().trainable_variables if id(variable) not in locked]

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.weights if id(variable) not in trained]

    @property
    def temperature(self) -> tf.Tensor:
        """The multiplier of the cosine similarities: a scalar, exp(`log_temperature`).

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> round(float(model.temperature), 3)
        10.0
        """
        return tf.exp(tf.convert_to_tensor(self.log_temperature))

    @property
    def calibration(self) -> dict[str, Any] | None:
        """The fields of a calibration of its cosines, or None; training drops it.

        Set a `keras_lit.evaluation.calibration.Calibration`, or its `to_dict()`. It is saved with
        the model, used by `keras_lit.evaluation.classify` and exported by `keras_lit.export.save`.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> model.calibration = keras_lit.evaluation.calibration.Calibration(temperature=40.0)
        >>> model.calibration["temperature"]
        40.0
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Any) -> None:
        if hasattr(calibration, "to_dict"):
            calibration = calibration.to_dict()
        if not isinstance(calibration, Mapping | None):
            raise ValueError(
                "`calibration` should be a `Calibration`, its `to_dict()`, or None. Received: "
                f"{calibration!r:.80}."
            )
        self._calibration = calibration if calibration is None else dict(calibration)

    def __repr__(self) -> str:
        if not self.built:
            return super().__repr__()
        with tf.init_scope():  # Also while a step is traced.
            temperature = float(self.temperature)
        return summaries.line(
            self,
            tuning=self.tuning,
            image_tower=type(self.image_tower.backbone).__name__,
            text_tower=type(self.text_tower.backbone).__name__,
            embedding_dim=self.text_tower.embedding_dim,
            loss=self.loss_name,
            temperature=f"{temperature:.4g}",
            **{f"{x}_options": y for x, y in _options(self).items()},
        )

    def summary(
        self,
        line_length: int | None = None,
        positions: Any = None,
        print_fn: Callable[[str], Any] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Any = None,
    ) -> None:
        """Prints the parts of both towers: output shapes, parameters and how many of these train.

        What trains follows from `tuning`, `lock_heads` and what was frozen by hand.

        Args:
            print_fn: called with the text, in place of `print`.
            expand_nested: bool, whether the backbones' own summaries follow, by
                `keras.Model.summary`, which takes the other arguments.
            line_length, positions, show_trainable, layer_range: of these.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(4)
        >>> keras_lit.LiT(*towers, tuning="LL").summary()
        <LiT name=..., tuning=LL, ...>
        image tower: locked; text tower: locked; heads of locked towers train
        part                               output shape  parameters  of which train
        ---...
        image_tower...: FeaturesOnly       (None, 8)              0               0
        text_tower...: FeaturesOnly        (None, 4)              0               0
        text_tower...: head (Dense)        (None, 8)             40              40
        log_temperature                    ()                     1               1
        ---...
        total                                                    41              41
        in memory: 0.0 MB
        """
        towers = (self.image_tower, self.text_tower)
        rows = [row for tower in towers for row in tower._rows()]
        rows += [summaries.Row(x.name, tuple(x.shape), [x]) for x in _other_weights(self)]
        table = summaries.table(rows, self.trainable_variables)
        summaries.show(f"{self!r}\n{_in_words(self)}\n{table}", print_fn)
        for tower in towers if expand_nested else ():
            tower._expand(line_length, positions, print_fn, show_trainable, layer_range)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Here, as Keras adds the arguments of `call` to what it raises: all bytes of a picture.
        pair = inputs if isinstance(inputs, dict) else {"pairs": inputs}
        for name in {"pairs", "image", "text"} & set(pair):
            raw = checks.is_raw(pair[name]) or checks.kind(pair[name]) == "uint8"
            if name == "pairs" or raw:
                raise ValueError(
                    "`model(...)` takes preprocessed pairs: pass `model.preprocess(pairs)`, with "
                    'pairs {"image": ..., "text": ...}. Received '
                    f"{name}: {checks.kind(pair[name])}."
                )
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, tf.Tensor]:
        given = {}
        for side, letter in zip(("image", "text"), self.tuning, strict=True):
            given[side] = inputs.get(f"{side}_features")
            if given[side] is None:
                given[side] = inputs[side]
            elif letter != "L" and not getattr(self, f"{side}_tower")._from_below(given[side]):
                raise ValueError(pairs.for_locked(side))

        def embed(tower: Tower, rows: Any, letter: str) -> tf.Tensor:
            trains = training and letter != "L"
            of_head = trains or (training and not self.lock_heads)
            return encoding.unit_length(tower(rows, training=trains, head_training=of_head))

        image = embed(self.image_tower, given["image"], self.tuning[0])
        text = tf.convert_to_tensor(given["text"])
        several = text.shape.rank == 3
        rows = tf.reshape(text, [-1, tf.shape(text)[2]]) if several else text
        trimmed = rows.shape[-1] is None and "text_features" not in inputs
        if training and self._texts_in_groups and trimmed:
            trains = self.tuning[1] != "L"
            of_group = functools.partial(self.text_tower.features, training=trains)
            rows = lengths.in_groups(of_group, rows, self.text_tower)
        embeddings = embed(self.text_tower, rows, self.tuning[1])
        if several:
            embeddings = tf.reshape(embeddings, [-1, text.shape[1], embeddings.shape[-1]])
        return {"image_embeddings": image, "text_embeddings": embeddings}

    train_function: Any
    test_function: Any
    predict_function: Any

    # Training: fit -> train_step -> loss -> gradient.

    distillation: distilling.Distillation | None = None

    def compile(
        self,
        optimizer: Any,
        micro_batch_size: int | None = None,
        distillation: distilling.Distillation | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training. The loss is LiT's own.

        Args:
            optimizer: any Keras optimizer, or its name.
            micro_batch_size: int, how many pairs each replica encodes at one time. The loss and the
                gradient remain those of the whole batch, the memory is that of this many pairs, and
                every tower that trains is run forward twice. (Batch norm that trains sees
                chunks; dropout is the same both times.) None: the whole batch.
            distillation: a `keras_lit.losses.Distillation`, to learn from a teacher's embeddings
                too, which `keras_lit.features.with_teacher` adds to the pairs. (Pairs to evaluate
                on may lack them: then the loss is the contrastive one.) None: no teacher.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as in `keras.Model`.
                "auto" compiles the whole step by XLA on one GPU, on one CPU the optimizer's update
                alone, from four million weights on; True on CPUs wants texts of one length and
                no depthwise convolutions.

        Raises:
            ValueError: a `loss` or `metrics` is passed, an optimizer that has slots for other
                variables, or one that does not train on several replicas as it does on one; another
                strategy than the model was built under; XLA on several CPU devices.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(4)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> model.compile(keras_lit.optimizers.Adafactor(1e-3), micro_batch_size=256)
        """
        if micro_batch_size is not None:
            checks.check_count(micro_batch_size, "micro_batch_size")
        if not isinstance(distillation, distilling.Distillation | None):
            raise ValueError(
                "`distillation` should be a `keras_lit.losses.Distillation`, or None. Received: "
                f"{distillation!r}. The teacher's embeddings come with the pairs, by "
                "`keras_lit.features.with_teacher`."
            )
        self.micro_batch_size = micro_batch_size
        self.distillation = distillation
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1 and micro_batch_size is not None and _synchronizes(self):
            raise ValueError(
                "Batch norms with `synchronized=True` cannot meet inside of micro-batches. Leave "
                "`micro_batch_size` or `synchronized` out."
            )
        on_tpu = distribution.on_tpu(self.distribute_strategy)
        if replicas > 1 and not on_tpu and kwargs.get("steps_per_execution", 1) != 1:
            raise ValueError(
                "`steps_per_execution` should be 1 on more than one replica, where Keras cannot "
                f"loop over steps. Received: {kwargs['steps_per_execution']}."
            )
        jit = kwargs.get("jit_compile") is True
        if jit and distribution.on_cpu_replicas(self.distribute_strategy):
            raise ValueError(
                "XLA compiles no step for several CPU devices of one process. Leave "
                "`jit_compile=True` out."
            )
        scope = tf.distribute.get_strategy().extended
        built_here = scope.variable_created_in_scope(self.log_temperature.value)
        if tf.distribute.has_strategy() and not built_here:
            raise ValueError(
                "The model was built outside of `strategy.scope()`: make the towers and `LiT` "
                "inside of it, too."
            )
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"LiT has its own contrastive loss and metrics; `compile` takes no `{name}`. "
                    'Choose the loss with `LiT(..., loss="softmax")`.'
                )
        trained = self.trainable_variables
        rules.check_built_for(optimizer, trained)
        super().compile(optimizer=optimizer, **kwargs)
        rules.check_on_replicas(self.optimizer, replicas)
        # Slots made now spare the first step from being traced a second time.
        with self.distribute_strategy.scope():
            self.optimizer.build(trained)
        of_images = {id(variable) for variable in self.image_tower.variables}
        rules.note_image_tower(self.optimizer, [x for x in trained if id(x) in of_images])
        rates = locks.multipliers(self.image_tower) | locks.multipliers(self.text_tower)
        rules.note_rates(self.optimizer, [(x, rates[id(x)]) for x in trained if id(x) in rates])
        self._compiled_for = tuple(map(id, [self.optimizer, *trained]))
        # Fused, an update reads and writes each weight and slot once. Not in bfloat16, which XLA
        # does not round where TensorFlow does; and others' optimizers may do what XLA cannot.
        auto = kwargs.get("jit_compile", "auto") == "auto" and not self.jit_compile
        large = sum(math.prod(x.shape) for x in trained) >= _COMPILED_UPDATE_FROM
        exact = all(x.dtype != "bfloat16" for x in self.optimizer.variables)
        known = type(self.optimizer).__module__.split(".")[0] in ("keras", "keras_lit")
        self._update_compiles = auto and large and exact and known and not self.run_eagerly

    def make_train_function(self, force: bool = False) -> Any:
        if not self.trainable_variables:
            raise ValueError("Nothing is trainable: all is locked by `tuning` or frozen.")
        if self._compiled_for != tuple(map(id, [self.optimizer, *self.trainable_variables])):
            raise ValueError(
                "What trains has changed since `compile`, by `tuning`, a `trainable`, LoRA or "
                "another `optimizer`. Compile again, with a new optimizer."
            )
        made = super().make_train_function(force or self._changed_since("train"))
        if made is None and self.jit_compile:
            self.train_function = _stopping_at_nan(self.train_function)
        return made

    def make_test_function(self, force: bool = False) -> Any:
        made = super().make_test_function(force or self._changed_since("test"))
        if made is None and self.jit_compile:
            self.test_function = _stopping_at_nan(self.test_function)
        return made

    def make_predict_function(self, force: bool = False) -> Any:
        return super().make_predict_function(force or self._changed_since("predict"))

    @functools.cached_property
    def _changed_since(self) -> Callable[[str], bool]:
        """Whether a step was compiled with other layers, such as an earlier head.

        Behind a call: Keras takes layers in a dict for the model's own.
        """
        made_of: dict[str, list[Any]] = {}

        def changed(step: str) -> bool:
            now = [*self.image_tower._made_of(), *self.text_tower._made_of()]
            now += [self.tuning, self.lock_heads, self.local_loss, self.group_captions, self.dims]
            now += [self.distillation, self._texts_in_groups]
            before, made_of[step] = made_of.get(step, now), now
            return differ(now, before)

        return changed

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        data, weights = pairs_of(data), self.trainable_weights
        with tf.GradientTape() as tape:
            if self.micro_batch_size is None:
                embeddings = self(data, training=True)
            else:
                embeddings = micro_batches.embed(self, data, self.micro_batch_size, tape)
            contrast, accuracies = self._contrast(
                embeddings, data.get("mask"), self._groups(data), self._teacher(data, required=True)
            )
            loss = self.compute_loss(data, y_pred={**embeddings, "loss": contrast})
            scaled_loss = self.optimizer.scale_loss(loss)
        # Embeddings' gradients list a token once per occurrence: optimizers need their sum.
        gradients = [
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(scaled_loss, weights)
        ]
        compiled = self._update_compiles and not tf.distribute.has_strategy()
        internals.apply_gradients(self.optimizer, gradients, weights, compiled)
        return self._logs(data, embeddings, loss, accuracies)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        data = pairs_of(data)
        if self.micro_batch_size is None:
            embeddings = self(data, training=False)
        else:
            embeddings = micro_batches.without_gradient(self, data, self.micro_batch_size, False)
        contrast, accuracies = self._contrast(
            embeddings, data.get("mask"), self._groups(data), self._teacher(data, required=False)
        )
        found = {**embeddings, "loss": contrast}
        loss = self.compute_loss(data, y_pred=found, training=False)
        return self._logs(data, embeddings, loss, accuracies)

    def compute_loss(
        self,
        x: Any = None,
        y: None = None,
        y_pred: Any = None,
        sample_weight: None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The contrastive loss and what layers add to it; a subclass may add more.

        Args:
            x: the batch, preprocessed.
            y: None.
            y_pred: {"loss": the contrastive loss, "image_embeddings", "text_embeddings"}: this
                replica's share of the global batch.
            sample_weight: None.
            training: bool.

        Returns:
            Scalar float32: this replica's share, the SUM over the replicas is the loss.

        Raises:
            ValueError: `add_loss` or an activity regularizer on several replicas or in
                micro-batches, where what they add depends on how a batch is divided.
        """
        of_locked = [loss for part in locked_parts(self) for loss in part.losses]
        known, replicas = {*map(id, of_locked)}, distribution.replica_count()
        losses = [loss for loss in self.losses if id(loss) not in known]
        of_weights = sum(x.regularizer is not None for x in self.trainable_weights)
        if len(losses) > of_weights and (replicas > 1 or self.micro_batch_size):
            raise ValueError(
                "What `add_loss` and activity regularizers of layers add depends on how a batch is "
                "divided. Train on one replica and without `micro_batch_size`, or regularize "
                "weights (`kernel_regularizer`)."
            )
        added = [tf.reduce_sum(tf.cast(loss, tf.float32)) / replicas for loss in losses]
        return tf.add_n([y_pred["loss"], *added])

    def predict_step(self, data: Any) -> dict[str, tf.Tensor]:
        data = pairs_of(data)
        mask = {name: data[name] for name in ("mask",) if name in data}
        return {**self(data, training=False), **mask}

    def _contrast(
        self,
        embeddings: dict[str, tf.Tensor],
        mask: tf.Tensor | None = None,
        groups: tf.Tensor | None = None,
        teacher: list[tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """This replica's shares of the loss and of the accuracies of the global batch.

        Of several kinds of text their sums, each with the groups of its own. A `teacher`'s
        embeddings add the distillation.
        """
        image, text = (
            tf.debugging.check_numerics(
                embeddings[f"{side}_embeddings"], _SHOULD_BE_FINITE.format(side) + " Received:"
            )
            for side in ("image", "text")
        )

        def contrast(image: tf.Tensor, text: tf.Tensor, mask: Any, groups: Any) -> Any:
            of_both: Any = {"mask": mask, "local": self.local_loss}
            options = {**of_both, "groups": groups, "accuracies": True}
            given = (image, text, self.log_temperature)
            if self.loss_name == "sigmoid":
                found = losses.sigmoid_contrastive_loss(*given, bias=self.bias, **options)
            else:
                found = losses.softmax_contrastive_loss(*given, **options)
            if self.distillation is None or teacher is None:
                return found
            return distilling.mixed(self.distillation, found, given, teacher, of_both)

        def of_kinds(image: tf.Tensor, text: tf.Tensor) -> Any:
            if text.shape.rank == 2:
                return contrast(image, text, mask, groups)
            texts, masks = (tf.unstack(x, axis=1) for x in (text, mask))
            several = groups is not None and groups.shape.rank == 2
            of_kinds = tf.unstack(groups, axis=1) if several else [groups] * len(texts)
            kinds = zip(texts, masks, of_kinds, strict=True)
            found = [contrast(image, *kind) for kind in kinds]
            return keras.tree.map_structure(lambda *x: tf.add_n(x), *found)

        if self.dims is None:
            return of_kinds(image, text)
        return losses.sum_over_prefixes(of_kinds, image, text, self._widths())

    def _widths(self) -> list[int]:
        """Those of the losses: `dims` and the whole embedding's."""
        return sorted({*(self.dims or ()), self.text_tower.embedding_dim})

    def _teacher(self, data: dict[str, tf.Tensor], required: bool) -> list[tf.Tensor] | None:
        return None if self.distillation is None else distilling.teacher_of(data, required)

    def _groups(self, data: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """[batch] (of captions of several kinds [batch, texts]) int64, equal for positives."""
        if "group" in data:
            return data["group"]
        if not self.group_captions:
            return None
        if pairs.CAPTION in data:
            return data[pairs.CAPTION]
        if "text_features" in data:
            return pairs.caption_ids(tf.bitcast(data["text_features"], tf.int32))
        tower = self.text_tower
        return pairs.caption_ids(data["text"], tower.sequence_length, tower.pad_token_id)

    def _logs(
        self,
        data: dict[str, tf.Tensor],
        embeddings: dict[str, tf.Tensor],
        loss: tf.Tensor,
        accuracies: dict[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Adds the global batch, the same on every replica, to the means since the epoch began."""
        if "mask" in data:
            counts = tf.reduce_sum(tf.cast(data["mask"], tf.float32), axis=0)
        else:
            counts = tf.cast(tf.shape(embeddings["text_embeddings"])[0], tf.float32)
        counts = tf.unstack(tf.reshape(counts, [-1]))  # Of pairs, for each kind of text.
        sums = distribution.sum_over_replicas([loss, *accuracies.values(), *counts])
        counts = tf.stack(sums[3:])
        contrasted = counts / distribution.replica_count() if self.local_loss else counts
        chance_loss = tf.reduce_sum(tf.math.log(tf.maximum(contrasted, 1.0)))
        chance_loss *= len(self._widths())
        # A kind of text that the global batch lacks counts neither as right nor as wrong.
        kinds = tf.maximum(tf.math.count_nonzero(counts, dtype=tf.float32), 1.0)
        values = (sums[0], chance_loss, *(x / kinds for x in sums[1:3]))
        count = tf.reduce_sum(counts)
        for tracker, value in zip(self._trackers.values(), values, strict=True):
            tracker.update_state(value, sample_weight=count)
        logs = {name: tracker.result() for name, tracker in self._trackers.items()}
        if self.jit_compile:
            sums = distribution.sum_over_replicas([*map(tf.reduce_sum, embeddings.values())])
            logs |= dict(zip(embeddings, sums, strict=True))  # See `_stopping_at_nan`.
        return distribution.logs({**logs, "temperature": self.temperature})

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        others = [metric for metric in super().metrics if metric.name not in self._trackers]
        return [*self._trackers.values(), *others]

    # Heads in closed form.

    def align(
        self,
        x: Any,
        method: choosing.Method = "cca",
        dim: int | None = None,
        penalties: Sequence[float] = choosing.PENALTIES,
        folds: int = 5,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
    ) -> choosing.Alignment:
        """Sets both heads in closed form, in one pass over the pairs: a start for `fit`.

        Regularised canonical correlation analysis takes the towers' features as they are, and
        chooses penalties, width and temperature by recalls of pairs that it holds out. Equal
        captions, or those of one "group", are never on both sides. With few pairs most of what can
        be learned is learned here; `fit` goes on from it. The pass may be long: its memory is
        8 (image_dim + text_dim)² bytes for each fold, and up to 2,000 pairs of each.

        The heads become linear and as wide as the embeddings; compile after it, as other weights
        train. They train or not as `tuning` and `lock_heads` say. A
        `keras_lit.backbones.ResidualHead` keeps its width, which then is the default of `dim`; its
        linear part is set, and the rest adds nothing until it is trained. A
        `keras_lit.backbones.TokenHead` keeps its width too: the linear layer after its blocks is
        set. "cca" puts the directions that correlate most first, so that the first numbers of an
        embedding are the best of its width, a start for `dims`.

        Args:
            x: batches of pairs, in any form that `fit` takes: raw, preprocessed or features. Each
                of several captions of an image is a pair; in rows of their own give them one
                "group", so that they are held out together. Random crops are not drawn. Or
                `keras_lit.alignment.Folds` that have seen the pairs already
                (`keras_lit.alignment.beam` gathers those of millions).
            method: "cca", or "ridge": the regression from image features to text features of unit
                length, a baseline (the text head then is the identity).
            dim: int, the width of the embeddings. None: what is best, for "ridge" that of the text
                features.
            penalties: floats to choose from, for images and for texts, in multiples of the mean
                variance of the features.
            folds: int, of the cross-validation.
            batch_size: int, for a dict of arrays (32 by default).
            verbose: 0, 1 or "auto": progress bars.

        Returns:
            What was chosen, a `keras_lit.alignment.Alignment`: `image_penalty`, `text_penalty`,
            `dim`, `temperature`, and `recalls`, `mean_recall` of held-out pairs.

        Raises:
            ValueError: as `fit`; as `keras_lit.alignment.choose`; a head that is not linear.
            tf.errors.InvalidArgumentError: a bad row, named in the message.

        Example:

        >>> image_tower = keras_lit.ImageTower.from_features(8)
        >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 8, 1, 16, 2)
        >>> model = keras_lit.LiT(image_tower, keras_lit.TextTower(backbone), tuning="LU")
        >>> rng = np.random.default_rng(0)
        >>> pairs = {
        ...     "image_features": rng.normal(size=[60, 8]), "text": rng.integers(1, 100, [60, 16])}
        >>> found = model.align(pairs, dim=4, verbose=0)
        >>> found.dim, model.encode_text(pairs["text"]).shape
        (4, (60, 4))

        Reference: "CSA", ICLR 2025 (arXiv 2410.07610).
        """
        if "u" in self.tuning:
            warnings.warn(
                f'`tuning`={self.tuning!r} has re-initialised a tower ("u"): unless it was trained '
                'since, its features say little for heads in closed form. Use "U" or "L" for a '
                "pretrained tower.",
                stacklevel=2,
            )
        if self.dims is not None and dim is not None:
            check_dims(self.dims, dim)
        with self.distribute_strategy.scope():
            options = {"method": method, "dim": dim, "penalties": penalties}
            found = aligning.align(
                x,
                self.image_tower,
                self.text_tower,
                folds,
                batch_size,
                verbose,
                loss=self.loss_name,
                **options,
            )
            self._drop_calibration()
            if self.dims is not None:
                self.dims = tuple(x for x in self.dims if x <= found.dim) or None
            most = self.max_temperature or math.inf
            self.log_temperature.assign(math.log(min(found.temperature, most)))
            if found.bias is not None:
                self.bias.assign(found.bias)
        return found

    # Embeddings.

    def encode_image(
        self,
        images: Any,
        batch_size: int = 32,
        verbose: int | Literal["auto"] = "auto",
        dim: int | None = None,
    ) -> np.ndarray:
        """Embeds images.

        Args:
            images: one image, or a list or an iterator of images: file names (str or path), encoded
                images (bytes), PIL images or uint8 arrays [height, width, channels], which may
                differ in size; a glob ("photos/*.jpg", its files by name); an array or tensor of
                encoded images [n], uint8 pixels [n, height, width, channels] or preprocessed floats
                [n, height, width, 3] or precomputed features [n, feature_dim]; or batches of these
                (but file names), of (image, label) or of pairs, in any form that `fit` takes.
            batch_size: int, how many to embed at a time (a dataset has its own batches).
            verbose: 0, 1 or "auto": a progress bar for more than 10 batches.
            dim: int, how many of the first numbers of each embedding to keep (`dims` trains them to
                do without the others). None: all.

        Returns:
            [n, dim] float32 array of unit-length rows.

        Raises:
            ValueError: no images, or an unsupported dtype or rank.
            tf.errors.InvalidArgumentError: an image does not decode, named in the message; NaN.
            tf.errors.NotFoundError: no such file, named in the message.

        Example:

        >>> image_tower = keras_lit.ImageTower(
        ...     keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(image_tower, keras_lit.TextTower.from_features(4), "LL")
        >>> pixels = np.zeros([2, 40, 40, 3], "uint8")
        >>> model.encode_image([pixels[0], pixels[1, :20]]).shape
        (2, 8)
        """
        images = batches.of_images(images, self.image_tower, batch_size)
        return encoding.embed(self.image_tower, images, verbose, dim)

    def encode_patches(
        self,
        images: Any,
        batch_size: int = 32,
        verbose: int | Literal["auto"] = "auto",
        dim: int | None = None,
    ) -> np.ndarray:
        """Embeds the patches of images, in the space of the texts; `evaluation.heat_maps` uses it.

        Args:
            images: as for `encode_image`; of features only those that are tokens.
            batch_size, verbose, dim: as there.

        Returns:
            [n, rows, columns, dim] float32 array of unit-length vectors; see
            `keras_lit.ImageTower.patch_embeddings`.

        Raises:
            ValueError, tf.errors.OpError: as `encode_image`; a pooling or head for which patches
                have no embeddings.

        Example:

        >>> image_tower = keras_lit.ImageTower(
        ...     keras.Sequential([keras.layers.Conv2D(8, 32, strides=32)]))
        >>> model = keras_lit.LiT(image_tower, keras_lit.TextTower.from_features(4), "LL")
        >>> model.encode_patches(np.zeros([2, 40, 40, 3], "uint8")).shape
        (2, 7, 7, 8)
        """
        check_embeddable(self.image_tower)
        images = batches.of_images(images, self.image_tower, batch_size)
        return encoding.embed(self.image_tower, images, verbose, dim, "patches")

    def encode_text(
        self,
        text: Any,
        batch_size: int = 256,
        verbose: int | Literal["auto"] = "auto",
        dim: int | None = None,
    ) -> np.ndarray:
        """Embeds text.

        Args:
            text: a string, or a list, an iterator, array or tensor of strings [n], or token ids
                [n, sequence_length], or precomputed features [n, feature_dim]; or batches of these,
                or of pairs that hold them, in any form that `fit` takes.
            batch_size: int, how many to embed at a time (a dataset has its own batches).
            verbose: 0, 1 or "auto": a progress bar for more than 10 batches.
            dim: int, how many of the first numbers of each embedding to keep (`dims` trains them to
                do without the others). None: all.

        Returns:
            [n, dim] float32 array of unit-length rows.

        Raises:
            ValueError: no text, an unsupported dtype or rank, or strings without a tokenizer.
            tf.errors.InvalidArgumentError: a token id is outside of the vocabulary.

        Example:

        >>> captions = ["a red balloon", "a dog in the snow"]
        >>> tokenizer = keras_lit.tokenizers.train_wordpiece(captions, 40)
        >>> backbone = keras_lit.backbones.TextTransformer(40, 16, 8, 1, 16, 2)
        >>> text_tower = keras_lit.TextTower(backbone, tokenizer)
        >>> model = keras_lit.LiT(keras_lit.ImageTower.from_features(8), text_tower)
        >>> model.encode_text(["a dog", "a red dog"]).shape
        (2, 8)
        """
        text, places = batches.by_length(text, self.text_tower, batch_size)
        text = batches.of_text(text, self.text_tower, batch_size, self.tuning[1] == "L")
        return encoding.embed(self.text_tower, text, verbose, dim)[places]

    # Another tower, and saving.

    def with_image_tower(self, image_tower: ImageTower) -> "LiT":
        """This model with the image tower whose features it was trained on, to encode and export.

        Args:
            image_tower: an `ImageTower` without a head; it receives this model's image head. Text
                tower, head and image tower are shared with the new model, not copied.

        Returns:
            A `LiT`, not compiled, with this model's weights.

        Raises:
            ValueError: the features were another tower's, or it has a head already.

        Example:

        >>> text_tower = keras_lit.TextTower.from_size("Ti", vocabulary_size=100)
        >>> model = keras_lit.LiT(keras_lit.ImageTower.from_features(8), text_tower)
        >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
        >>> model = model.with_image_tower(keras_lit.ImageTower(backbone))
        >>> model.encode_image(np.zeros([2, 40, 40, 3], "uint8")).shape
        (2, 8)
        """
        return self._with_tower("image", image_tower)

    def with_text_tower(self, text_tower: TextTower) -> "LiT":
        """This model with the text tower whose features it was trained on, to encode and export.

        Args:
            text_tower: a `TextTower` without a head; it receives this model's text head. Image
                tower, head and text tower are shared with the new model, not copied.

        Returns:
            A `LiT`, not compiled, with this model's weights.

        Raises:
            ValueError: the features were another tower's, or it has a head already.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(16)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 16, 1, 32, 2)
        >>> model = model.with_text_tower(keras_lit.TextTower(backbone))
        >>> model.encode_text(np.ones([2, 16], "int32")).shape
        (2, 8)
        """
        return self._with_tower("text", text_tower)

    def _with_tower(self, side: str, tower: Tower) -> "LiT":
        towers: dict[str, Any] = {"image": self.image_tower, "text": self.text_tower}
        known = towers[side]
        fingerprints.check_same_features(known, tower, side)
        config = self.get_config()
        for name in ("image_tower", "text_tower"):
            del config[name]
        tuning = config.pop("tuning")
        frozen, changed = config.pop("frozen"), config.pop("layers")
        calibration = config.pop("calibration", None)
        tower._take_head(known.head, known.head_kind, known.projection_dim)
        with self.distribute_strategy.scope():
            image_tower, text_tower = {**towers, side: tower}.values()
            model = type(self)(image_tower, text_tower, tuning.replace("u", "U"), **config)
            settings.apply(_other_layers(model), changed)
        model.tuning, model.calibration = tuning, calibration
        for weight, known in zip(_other_weights(model), _other_weights(self), strict=True):
            weight.assign(known)
        _freeze(model, frozen)
        return model

    def get_config(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in super().get_config().items() if k != "autocast"},
            "image_tower": keras.saving.serialize_keras_object(self.image_tower),
            "text_tower": keras.saving.serialize_keras_object(self.text_tower),
            "tuning": self.tuning,
            "temperature": self.initial_temperature,
            "loss": self.loss_name,
            "max_temperature": self.max_temperature,
            "lock_heads": self.lock_heads,
            "bias": self.initial_bias,
            "local_loss": self.local_loss,
            "group_captions": self.group_captions,
            "dims": self.dims,
            "frozen": [x.name for x in internals.own_parameters(self) if not x.trainable],
            "layers": settings.read(_other_layers(self)),
            **({"calibration": dict(self.calibration)} if self.calibration else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LiT":
        towers = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("image_tower", "text_tower")
        }
        config = dict(config)
        frozen, changed = config.pop("frozen", ()), config.pop("layers", None)
        calibration = config.pop("calibration", None)
        # The weights are about to be loaded, so nothing is initialised a second time.
        model = cls(**{**config, **towers, "tuning": config["tuning"].replace("u", "U")})
        model.tuning, model.calibration = config["tuning"], calibration
        _freeze(model, frozen)
        if changed:
            settings.apply(_other_layers(model), changed)
        return model

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        if not config:  # Not compiled.
            return config
        distillation = keras.saving.serialize_keras_object(self.distillation)
        more = {"micro_batch_size": self.micro_batch_size, "distillation": distillation}
        return {**config, **more}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to build, and Keras 3.15 fails here with several workers."""

    def _cap(self, log_temperature: tf.Tensor) -> tf.Tensor:
        return tf.minimum(log_temperature, math.log(self.max_temperature))


def locked_parts(model: LiT) -> list[keras.Layer]:
    """What is locked of the towers, whatever their flags say."""
    towers = zip(model.tuning, (model.image_tower, model.text_tower), strict=True)
    parts = [
        (tower.backbone, tower.attention_pooling, tower.head if model.lock_heads else None)
        for letter, tower in towers
        if letter == "L"
    ]
    return [part for part in itertools.chain.from_iterable(parts) if part is not None]


def locked_variables(model: LiT) -> set[int]:
    """The ids of the variables of the locked towers, and of what options lock of the others."""
    of_options = itertools.chain(*map(locks.locked, (model.image_tower, model.text_tower)))
    of_towers = (variable for part in locked_parts(model) for variable in part.variables)
    return {id(variable) for variable in itertools.chain(of_towers, of_options)}


def _options(model: LiT) -> dict[str, locks.Lock]:
    """Those of the towers that train."""
    options = {"image": model.image_options, "text": model.text_options}
    letters = dict(zip(options, model.tuning, strict=True))
    return {side: x for side, x in options.items() if x is not None and letters[side] != "L"}


def _in_words(model: LiT) -> str:
    """The two letters."""
    words = {"L": "locked", "U": "trains", "u": "re-initialised, trains"}
    towers = zip(("image", "text"), model.tuning, strict=True)
    options = _options(model)
    more = {side: f", {options[side]}" if side in options else "" for side in ("image", "text")}
    said = "; ".join(f"{side} tower: {words[letter]}{more[side]}" for side, letter in towers)
    if "L" not in model.tuning:
        return said
    return f"{said}; heads of locked towers {'are locked too' if model.lock_heads else 'train'}"


def _other_layers(model: LiT) -> list[keras.Layer]:
    """Those beside the towers, which a subclass has."""
    towers = (model.image_tower, model.text_tower)
    known = {id(x) for tower in towers for x in internals.flat_layers(tower)} | {id(model)}
    return [x for x in internals.flat_layers(model) if id(x) not in known]


def _other_weights(model: LiT) -> list[keras.Variable]:
    """Those beside the towers: temperature, bias and what a subclass has."""
    known = {id(x) for tower in (model.image_tower, model.text_tower) for x in tower.weights}
    return [x for x in model.weights if id(x) not in known]


def _freeze(model: LiT, names: Iterable[str]) -> None:
    for variable in internals.own_parameters(model):
        variable.trainable = variable.name not in names


def _synchronizes(model: LiT) -> bool:
    return any(getattr(layer, "synchronized", False) for layer in internals.flat_layers(model))


def _stopping_at_nan(function: Any) -> Any:
    """XLA drops checks of numbers inside a step; this looks at the flag that the step returns."""

    def checked(iterator: Any) -> dict[str, tf.Tensor]:
        logs = function(iterator)
        for side in ("image", "text"):
            if not np.isfinite(logs.pop(f"{side}_embeddings")).all():
                message = _SHOULD_BE_FINITE.format(side)
                raise tf.errors.InvalidArgumentError(None, None, message)
        if not np.isfinite(logs["temperature"]).all():
            raise tf.errors.InvalidArgumentError(None, None, TEMPERATURE_SHOULD_BE_FINITE)
        return logs

    return checked


def _join(image_tower: ImageTower, text_tower: TextTower) -> None:
    """Gives the text tower its head where that was left open, and compares the widths."""
    if image_tower.head is None and len(image_tower.feature_shape) > 1:
        raise ValueError(
            'An image tower of `pooling`="tokens" needs a head that pools: give it `blocks`, or a '
            "`keras_lit.backbones.TokenHead` as its `head`."
        )
    if image_tower.head is not None and image_tower.head is text_tower.head:
        raise ValueError(
            "Each tower should have a head of its own. Received one layer for both: "
            f"{image_tower.head.name}. Make two."
        )
    if text_tower.projection_dim is None:
        text_tower.add_head(image_tower.embedding_dim, text_tower.head_kind)
    if text_tower.embedding_dim != image_tower.embedding_dim:
        raise ValueError(
            "Image and text embeddings should have the same width. Received: image "
            f"{image_tower.embedding_dim}, text {text_tower.embedding_dim}. Give a tower a head "
            f"that fits, for example `TextTower(..., projection_dim={image_tower.embedding_dim})`."
        )

"""What both towers share."""

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.towers import heads, locks, onnx_gelu, settings, summaries
from keras_lit.towers.lower import Lower
from keras_lit.towers.pooling import attention_pooling, pool

Output = Literal["embeddings", "features", "patches"]
_serialized = keras.saving.serialize_keras_object


def check_is_model(backbone: Any) -> None:
    """Raises ValueError unless a backbone is Keras' own."""
    if not isinstance(backbone, keras.Layer):
        raise ValueError(
            "`backbone` should be a Keras model, such as `keras_nlp.models.Backbone.from_preset"
            f"(name)`. Received: {backbone!r:.80}."
        )


class Tower(keras.Model):
    """Features (backbone and pooling), then an optional head.

    A tower knows no loss. It returns embeddings that are not normalised; `LiT` does that.
    """

    POOLINGS: ClassVar[tuple[str, ...]] = ()
    FAMILIES: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        backbone: keras.Model,
        pooling: str,
        projection_dim: int | None,
        preprocessor: keras.layers.Layer | None,
        **kwargs: Any,
    ):
        # The layers inside cast for themselves; pixels must not reach them rounded to bfloat16.
        super().__init__(autocast=False, **kwargs)
        check_is_model(backbone)
        checks.check_one_of(pooling, self.POOLINGS, "pooling")
        if isinstance(projection_dim, bool) or not (projection_dim is None or projection_dim >= 0):
            raise ValueError(
                "`projection_dim` should be the width of the head, or 0 for none. "
                f"Received: {projection_dim!r}."
            )
        self.backbone = backbone
        self.preprocessor: Any = preprocessor  # None where it is not needed
        self.pooling = pooling
        self.projection_dim = projection_dim
        self.head: Any = None
        self.head_kind = "linear"
        self.lock: locks.Lock | None = None  # Of `LiT(..., text_options=)`.

    def _build(self, inputs: keras.KerasTensor, head: heads.Head) -> None:
        """Settles "auto", builds everything, notes the width of the features."""
        self._input = keras.InputSpec(inputs.dtype, inputs.shape)
        states = self._states(inputs, training=False)
        if self.pooling == "auto":
            self.pooling = self._auto_pooling(states)
        if (self.pooling == "none") != (len(states.shape) == 2):
            raise ValueError(
                f"`pooling`={self.pooling!r} does not fit the output of shape {states.shape} of "
                f"{type(self.backbone).__name__}: 'none' is for [batch, dim], the others are for "
                "[batch, tokens, dim] (and mean, max, map for [batch, height, width, dim])."
            )
        self.attention_pooling: Any = None
        if self.pooling == "map":
            self.attention_pooling = attention_pooling(
                self.backbone, states.shape[-1], self.dtype_policy
            )
        self._states_shape = tuple(states.shape)
        self.feature_shape = tuple(map(int, self._pool(inputs, states).shape[1:]))
        self.feature_dim = self.feature_shape[-1]
        if self.projection_dim == 0 and head != "linear":
            raise ValueError("`projection_dim`=0 means no head. Leave it or `head` out.")
        if self.projection_dim or not isinstance(head, str):
            self.add_head(self.projection_dim, head)
        else:  # Settled later, if ever.
            checks.check_one_of(head, heads.HEADS, "head")
            self.head_kind = head
        self.built = True

    def add_head(self, projection_dim: int | None = None, head: heads.Head = "linear") -> None:
        """Gives the tower a new head, in place of the one it may have.

        Args:
            projection_dim: int, its width. None: that of a layer.
            head: "linear" (with bias), "mlp" (`keras_lit.backbones.MLPHead` as it is by default),
                or a `keras.layers.Layer` from [batch, feature_dim] to [batch, projection_dim].

        Raises:
            ValueError: no width, or a layer of another one.

        Example:

        >>> tower = keras_lit.ImageTower.from_features(768)
        >>> tower.add_head(head=keras_lit.backbones.MLPHead(64, width=256))
        >>> tower.embedding_dim
        64
        """
        self._take_head(*heads.made(head, projection_dim, self.feature_shape, self.dtype_policy))

    def _take_head(self, head: keras.layers.Layer | None, kind: str, width: int | None) -> None:
        """Puts a head that is built, or none, in the place of the tower's own."""
        if self.head is not None:
            internals.forget(self, self.head)
        self.head, self.head_kind, self.projection_dim = head, kind, width

    _below: Lower | None = None  # Whose output, if any, stands for what the tower takes.

    @property
    def _cached_shape(self) -> tuple[int, ...]:
        """Of precomputed features, for one input."""
        return self.feature_shape if self._below is None else (self._below.dim,)

    def _from_below(self, inputs: Any) -> bool:
        """Whether these (or what has their shape) are features that enter the last blocks."""
        return False

    @property
    def embedding_dim(self) -> int:
        """The width of the tower's output.

        Example:

        >>> keras_lit.ImageTower.from_features(768, projection_dim=512).embedding_dim
        512
        """
        return self.projection_dim or self.feature_dim

    def features(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """The pooled output of the backbone, before any head.

        Args:
            inputs: what the tower takes: pixels or token ids, preprocessed.
            training: bool.

        Returns:
            [batch, feature_dim] float tensor; where a head pools (`pooling`="tokens"), [batch,
            tokens, feature_dim].

        Example:

        >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
        >>> tower = keras_lit.ImageTower(backbone, projection_dim=4)
        >>> tower.features(np.zeros([2, 224, 224, 3], "float32")).shape
        TensorShape([2, 8])
        """
        if isinstance(inputs, np.ndarray | list):
            inputs = keras.ops.convert_to_tensor(inputs)
        return self._pool(inputs, self._states(inputs, training=training))

    def project(self, features: Any, training: bool = False) -> keras.KerasTensor:
        """Applies the head, if there is one.

        Args:
            features: [batch, feature_dim] float tensor.
            training: bool, for the dropout and batch norm that a head may have.

        Returns:
            [batch, embedding_dim] float tensor.

        Example:

        >>> tower = keras_lit.ImageTower.from_features(8, projection_dim=4)
        >>> tower.project(np.zeros([2, 8], "float32")).shape
        TensorShape([2, 4])
        """
        return features if self.head is None else self.head(features, training=training)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Here, as Keras adds the arguments of `call` to what it raises: all bytes of a picture.
        if checks.is_raw(inputs) or (checks.kind(inputs) == "uint8" and len(inputs.shape) == 4):
            raise ValueError(
                "A tower takes what is preprocessed: pass `tower.preprocessor(...)` of it, or call "
                f"`model.encode_image` or `model.encode_text`. Received: {checks.kind(inputs)}."
            )
        return super().__call__(inputs, *args, **kwargs)

    def call(
        self, inputs: Any, training: bool = False, head_training: bool | None = None
    ) -> keras.KerasTensor:
        if not self._are_features(inputs):
            inputs = self.features(inputs, training=training)
        head_training = training if head_training is None else head_training
        # A linear head is the same in training: a `project` of a subclass need not know of it.
        if head_training and self.head_kind != "linear":
            return self.project(inputs, training=True)
        return self.project(inputs)

    def _made_of(self) -> list[Any]:
        """What a compiled function of the tower holds; if it `differ`s, the function is stale."""
        of_layers = [
            x
            for layer in internals.flat_layers(self)
            for x in (layer.dtype_policy, getattr(layer, "lora_enabled", False))
        ]
        return [*self.weights, *of_layers, self.pooling, getattr(self, "pad_token_id", None)]

    @functools.cached_property
    def inference(self) -> Callable[..., Any]:
        """Gives the tower, or its `features` or patches, as a tf.function that all callers share.

        Until layers change, by LoRA, quantisation or a new head, or `pooling` and `pad_token_id`.
        Behind a call: a SavedModel keeps every tf.function that it finds.
        """
        made_of: list[Any] = []
        compiled: dict[tuple[str, bool], Any] = {}

        def current(output: Output = "embeddings", below: bool = False) -> Any:
            nonlocal made_of
            if differ(now := self._made_of(), made_of):
                made_of = now
                compiled.clear()
            # One for each rank of inputs: traced for both, a function forgets all shapes.
            if (output, below) not in compiled:
                names = {"features": "features", "patches": "patch_embeddings"}
                function = getattr(self, names[output]) if output in names else self
                compiled[output, below] = tf.function(function, reduce_retracing=True)
            return compiled[output, below]

        return current

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """The tower as a SavedModel, ONNX or LiteRT file, like `keras.Model.export`.

        What it takes is what the tower takes, preprocessed pixels or token ids, and embeddings are
        not normalised. `keras_lit.export.save` writes an artifact for image bytes and strings.

        Args:
            filepath, format, verbose, **kwargs: as in `keras.Model.export`.
            input_signature: as there. None: batches of any size.
        """
        signature = [self._input] if input_signature is None else input_signature
        if format == "onnx":
            onnx_gelu.teach_tf2onnx()
        with settings.merged(self._all_layers()):
            super().export(filepath, format, verbose, signature, **kwargs)

    def merge_lora(self) -> None:
        """Adds the product of LoRA's matrices to the kernels; then there is neither LoRA nor lock.

        Embeddings stay what they are, up to rounding, and all of the backbone can train again:
        compile after it. Exports are merged by themselves.

        Raises:
            ValueError: there is no LoRA, or a layer is quantised.

        Example:

        >>> tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 8, 1, 16, 2))
        >>> image_tower, options = keras_lit.ImageTower.from_features(8), keras_lit.Lock(lora=2)
        >>> model = keras_lit.LiT(image_tower, tower, "LU", text_options=options)
        >>> tower.merge_lora()
        >>> model.text_options is None
        True
        """
        locks.merge_lora(self)

    def __repr__(self) -> str:
        if not self.built:
            return super().__repr__()
        return summaries.line(
            self,
            backbone=type(self.backbone).__name__,
            input_shape=tuple(self._input.shape),
            pooling=self.pooling,
            feature_dim=self.feature_dim,
            head=None if self.head is None else self.head_kind,
            embedding_dim=self.embedding_dim,
            **({} if self.lock is None else {"lock": self.lock}),
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
        """Prints backbone, pooling and head with output shapes, parameters and how many train.

        In a `LiT` the `tuning` decides what trains: see `LiT.summary`.

        Args:
            print_fn: called with the text, in place of `print`.
            expand_nested: bool, whether the backbone's own summary follows, by
                `keras.Model.summary`, which takes the other arguments.
            line_length, positions, show_trainable, layer_range: of that one.

        Example:

        >>> keras_lit.ImageTower.from_features(8, projection_dim=4).summary()
        <ImageTower name=..., backbone=FeaturesOnly, ..., feature_dim=8, ..., embedding_dim=4>
        part                          output shape  parameters  of which train
        ---...
        image_tower...: FeaturesOnly  (None, 8)              0               0
        image_tower...: head (Dense)  (None, 4)             36              36
        ---...
        total                                               36              36
        in memory: 0.0 MB
        """
        table = summaries.table(self._rows(), self.trainable_variables)
        summaries.show(f"{self!r}\n{table}", print_fn)
        if expand_nested:
            self._expand(line_length, positions, print_fn, show_trainable, layer_range)

    def _expand(
        self, line_length: Any, positions: Any, print_fn: Any, show_trainable: bool, layers: Any
    ) -> None:
        self.backbone.summary(line_length, positions, print_fn, True, show_trainable, layers)

    def _rows(self) -> list[summaries.Row]:
        """What `summary` lists: the parts, of which the tower is the last."""
        backbone, head = self.backbone, self.head
        rows = [(f"{type(backbone).__name__}", self._states_shape, backbone.weights)]
        if self.pooling != "none":
            of_pooling = self.attention_pooling.weights if self.attention_pooling else []
            rows.append((f"{self.pooling} pooling", (None, *self.feature_shape), of_pooling))
        if head is not None:
            rows.append((f"head ({type(head).__name__})", (None, self.embedding_dim), head.weights))
        return [summaries.Row(f"{self.name}: {name}", *others) for name, *others in rows]

    def reinitialized(self) -> "Tower":
        """A tower of the same architecture with new initial weights; this one stays as it is.

        Returns:
            A tower of the same class.

        Raises:
            ValueError: the backbone cannot be rebuilt from its config, or is quantised.

        Example:

        >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
        >>> tower = keras_lit.ImageTower(backbone)
        >>> fresh = tower.reinitialized()
        >>> fresh.feature_dim, np.array_equal(fresh.weights[0], tower.weights[0])
        (8, False)
        """
        if self.lock is not None and self.lock.lora is not None:
            raise ValueError(
                "A 'u' in `tuning` draws all weights anew, and the tower has LoRA. Call "
                "`merge_lora()` first, or choose 'U'."
            )
        quantised = [weight.path for weight in self.backbone.weights if weight.dtype == "int8"]
        if quantised:
            raise ValueError(
                "A 'u' in `tuning` needs weights that can be initialised and trained. Received: "
                f"{quantised[0]}, which is of int8. Choose 'L' or 'U', or pass a backbone that is "
                "not quantised."
            )
        try:
            backbone = type(self.backbone).from_config(self.backbone.get_config())
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"A 'u' in `tuning` needs a backbone that can be rebuilt from its config. "
                f"{type(self.backbone).__name__} cannot: {error} Give it `get_config`, or pass a "
                "freshly initialised one with 'U'."
            ) from error
        config = {**self.get_config(), "lock": None}
        return self._rebuilt(config, {"backbone": backbone, "preprocessor": self.preprocessor})

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        settings.save_lora(self._all_layers()[1:], store)

    def load_own_variables(self, store: Any) -> None:
        settings.load_lora(self._all_layers()[1:], store)
        super().load_own_variables(settings.without_lora(store))

    def _auto_pooling(self, states: keras.KerasTensor) -> str:
        if len(states.shape) == 2:
            return "none"
        if len(states.shape) == 4:
            return "mean"
        family = type(self.backbone).__name__
        # By these names a backbone says that it has no such token.
        flags = [getattr(self.backbone, x, True) for x in ("class_token", "use_class_token")]
        for pooling, families in self.FAMILIES.items():
            if family in families and not (pooling == "first" and False in flags):
                return pooling
        raise ValueError(
            f"`pooling`='auto' does not know {family}, whose output has shape {states.shape}. "
            f"Choose one of {', '.join(repr(x) for x in self.POOLINGS if x != 'auto')}."
        )

    def _pool(self, inputs: Any, states: Any) -> keras.KerasTensor:
        mask = self._pooling_mask(inputs, states)
        return pool(states, self.pooling, mask, inputs, self.attention_pooling)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "backbone": _serialized(self.backbone),
            "preprocessor": _serialized(self.preprocessor),
            "pooling": self.pooling,
            "projection_dim": self.projection_dim,
            "head": self.head_kind if self.head_kind in heads.HEADS else _serialized(self.head),
            "layers": settings.read(self._all_layers()),
            "lock": _serialized(self.lock),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tower":
        load = keras.saving.deserialize_keras_object
        parts = {name: load(config[name]) for name in ("backbone", "preprocessor")}
        return cls._rebuilt(config, parts)

    @classmethod
    def _rebuilt(cls, config: dict[str, Any], parts: dict[str, Any]) -> "Tower":
        if isinstance(config.get("head"), dict):
            parts = {**parts, "head": keras.saving.deserialize_keras_object(config["head"])}
        tower = cls(**{k: v for k, v in config.items() if k not in ("layers", "lock")} | parts)
        if "layers" in config:
            settings.apply(tower._all_layers(), config["layers"])
        elif not tower.backbone.trainable_variables:  # Older files say locked.
            for layer in internals.flat_layers(tower.backbone):
                layer.trainable = layer.name != "pooled_dense"
        if config.get("lock"):
            locks.take(tower, keras.saving.deserialize_keras_object(config["lock"]))
        return tower

    def _all_layers(self) -> list[keras.Layer]:
        parts = (self.backbone, self.attention_pooling, self.head)
        of_parts = [internals.flat_layers(part) for part in parts if part is not None]
        return [self, *itertools.chain.from_iterable(of_parts)]

    # What a kind of tower defines.

    def _are_features(self, inputs: Any) -> bool:
        """Whether these are features that were computed before."""
        raise NotImplementedError

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        """The backbone's output before pooling."""
        raise NotImplementedError

    def _pooling_mask(self, inputs: Any, states: Any) -> keras.KerasTensor | None:
        """[batch, tokens] bool, False at padding; None where every position counts."""
        return None


def differ(now: list[Any], before: list[Any]) -> bool:
    """Whether these are other objects."""
    return len(now) != len(before) or any(map(operator.is_not, now, before))


def input_names(model: keras.Model) -> tuple[str, ...]:
    """What a functional model calls its inputs; () for one input, or another kind of model."""
    inputs = getattr(model, "input", None)
    return tuple(inputs) if isinstance(inputs, dict) else ()

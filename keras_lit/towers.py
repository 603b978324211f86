"""Image and text towers: backbone -> pooling -> optional linear head, and the preprocessing."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks
from keras_lit.backbones import AttentionPooling, FeaturesOnly, TextTransformer
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor


class Tower(keras.Model):
    """What both towers share: features (backbone and pooling), then an optional linear head.

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
        super().__init__(**kwargs)
        checks.check_one_of(pooling, ("auto", *self.POOLINGS), "pooling")
        if isinstance(projection_dim, bool) or not (projection_dim is None or projection_dim >= 0):
            raise ValueError(
                "`projection_dim` should be the width of the linear head, or 0 for none. "
                f"Received: {projection_dim!r}."
            )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pooling = pooling
        self.projection_dim = projection_dim
        self.locked = False
        self.head = None

    def _build_pooling(self, inputs: keras.KerasTensor) -> None:
        """Settles "auto", builds everything but the head, notes the width of the features."""
        states = self._states(inputs, training=False)
        if self.pooling == "auto":
            self.pooling = self._auto_pooling(states)
        if (self.pooling == "none") != (len(states.shape) == 2):
            raise ValueError(
                f"`pooling`={self.pooling!r} does not fit the output of shape {states.shape} of "
                f"{type(self.backbone).__name__}: 'none' is for [batch, dim], the others are for "
                "[batch, tokens, dim] (and mean, max, map for [batch, height, width, dim])."
            )
        self.attention_pooling = None
        if self.pooling == "map":
            self.attention_pooling = _attention_pooling(self.backbone, states.shape[-1])
        self.feature_dim = int(self._pool(inputs, states).shape[-1])
        if self.projection_dim:
            self.add_head(self.projection_dim)
        self.built = True

    def add_head(self, projection_dim: int) -> None:
        """Gives the tower a new linear head (with bias) of this width."""
        self.__dict__.pop("inference", None)  # It was traced without this head.
        self.projection_dim = projection_dim
        self.head = keras.layers.Dense(
            projection_dim, kernel_initializer="lecun_normal", name="head"
        )
        self.head.build((None, self.feature_dim))

    @property
    def embedding_dim(self) -> int:
        """The width of the tower's output."""
        return self.projection_dim or self.feature_dim

    def features(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """The pooled output of the backbone, before any head: [batch, feature_dim]."""
        if isinstance(inputs, np.ndarray | list):
            inputs = keras.ops.convert_to_tensor(inputs)
        return self._pool(inputs, self._states(inputs, training=training and not self.locked))

    def project(self, features: Any) -> keras.KerasTensor:
        """Applies the linear head, if there is one: [batch, feature_dim] -> [batch, dim]."""
        return features if self.head is None else self.head(features)

    def call(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        return self.project(self.features(inputs, training=training))

    @functools.cached_property
    def inference(self) -> Callable[[], Any]:
        """Gives the tower as a tf.function, which is traced once for all callers.

        Behind a call, since a SavedModel keeps every tf.function that it finds.
        """
        compiled = tf.function(self, reduce_retracing=True)
        return lambda: compiled

    def lock(self, locked: bool = True, head: bool = False) -> None:
        """Locks (or unlocks) backbone and pooling; the head only together with them and `head`.

        What is locked gets no gradient and no optimizer slot and runs in inference mode (no
        dropout, batch-norm statistics still). Unlocking keeps layers frozen that the user froze.
        """
        self.locked = locked
        for part in (self.backbone, self.attention_pooling):
            if part is None:
                continue
            if locked or not part.trainable:
                # Keras skips an assignment that changes nothing here, whatever the layers inside
                # say (after loading they disagree), so it is changed twice.
                part.trainable = locked
                part.trainable = not locked
        if self.head is not None:
            self.head.trainable = not (locked and head)

    def reinitialized(self) -> "Tower":
        """A tower of the same make with freshly initialised weights; this one stays as it is.

        Raises:
            ValueError: the backbone cannot be rebuilt from its config.
        """
        try:
            backbone = type(self.backbone).from_config(self.backbone.get_config())
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"A 'u' in `tuning` needs a backbone that can be rebuilt from its config. "
                f"{type(self.backbone).__name__} cannot: {error} Give it `get_config`, or pass a "
                "freshly initialised one with 'U'."
            ) from error
        config = {**self.get_config(), "backbone": backbone, "preprocessor": self.preprocessor}
        return type(self)(**config)

    def _auto_pooling(self, states: keras.KerasTensor) -> str:
        if len(states.shape) == 2:
            return "none"
        if len(states.shape) == 4:
            return "mean"
        family = type(self.backbone).__name__
        for pooling, families in self.FAMILIES.items():
            if family in families and not (pooling == "first" and self._lacks_class_token()):
                return pooling
        raise ValueError(
            f"`pooling`='auto' does not know {family}, whose output has shape {states.shape}. "
            f"Choose one of {', '.join(map(repr, self.POOLINGS))}."
        )

    def _lacks_class_token(self) -> bool:
        names = ("class_token", "use_class_token")
        return False in [getattr(self.backbone, name, True) for name in names]

    def _pool(self, inputs: Any, states: Any) -> keras.KerasTensor:
        if self.pooling == "none":
            return states
        mask = self._mask(inputs)
        if len(states.shape) == 4:
            if self.pooling in ("first", "last", "end"):
                raise ValueError(
                    f"`pooling`={self.pooling!r} is for token sequences. Received a feature map "
                    f"of shape {states.shape}; choose 'mean', 'max' or 'map'."
                )
            states = keras.ops.reshape(states, (-1, *_grid(states.shape)))
        if self.pooling == "map":
            return self.attention_pooling(states, mask=mask)
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "end":
            return _at(states, keras.ops.argmax(inputs, axis=1))
        if self.pooling == "last":
            return states[:, -1] if mask is None else _last_real(states, mask)
        if self.pooling == "mean":
            return _mean(states, mask)
        if mask is not None:
            states = keras.ops.where(mask[..., None], states, float("-inf"))
        return keras.ops.max(states, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "pooling": self.pooling,
            "projection_dim": self.projection_dim,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tower":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("backbone", "preprocessor")
        }
        return cls(**{**config, **parts})

    # What a kind of tower defines.

    def _build(self) -> None:
        raise NotImplementedError

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        """The backbone's output before pooling."""
        raise NotImplementedError

    def _mask(self, inputs: Any) -> keras.KerasTensor | None:
        """[batch, tokens] bool, False at padding; None where every position counts."""
        return None


@keras.saving.register_keras_serializable("keras_lit")
class ImageTower(Tower):
    """An image backbone, its pooling, an optional linear head and its preprocessing.

    Args:
        backbone: any `keras.Model` from images [batch, height, width, 3] to a feature map
            [batch, h, w, dim], a pyramid of them (the coarsest is taken), tokens
            [batch, tokens, dim] or vectors [batch, dim].
        pooling: "mean", "first", "max", "map" (attention pooling), "none" (vectors), or "auto":
            mean for feature maps, and what the family was trained with for token sequences (first
            token for ViT, DeiT, DINOv2, DINOv3 and CLIP, mean for Swin and MLP-Mixer).
        projection_dim: int, the width of the linear head. None or 0: no head, as in LiT.
        preprocessor: a `keras_lit.preprocessing.ImagePreprocessor`. None makes one of the
            backbone's own image size (224 where that is free), with pixels in 0..255 for a
            backbone that rescales by itself (keras-cv's `include_rescaling`) and in -1..1, as in
            LiT, for any other: pass one where the backbone was trained differently.

    Call arguments:
        inputs: [batch, height, width, 3] float tensor of preprocessed images, or [batch,
            feature_dim], their features (before the head).
        training: bool.

    Returns:
        [batch, embedding_dim] tensor, not normalised.

    Raises:
        ValueError: "auto" does not know the backbone, or the pooling does not fit its output.

    Example:

    >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
    >>> tower = keras_lit.ImageTower(backbone, preprocessor=ImagePreprocessor(32))
    >>> tower(np.zeros([2, 32, 32, 3], "float32")).shape
    TensorShape([2, 8])

    Reference: the LiT paper, sections 3.3 and 4.2.
    """

    POOLINGS = ("mean", "first", "max", "map", "none")
    FAMILIES: ClassVar[dict[str, tuple[str, ...]]] = {
        "mean": ("MLPMixer", "SwinTransformerBackbone"),
        "first": (
            "VisionTransformer",
            "ViTBackbone",
            "DeiTBackbone",
            "DINOV2Backbone",
            "DINOV3Backbone",
            "CLIPVisionEncoder",
        ),
    }

    def __init__(
        self,
        backbone: keras.Model,
        pooling: str = "auto",
        projection_dim: int | None = None,
        preprocessor: ImagePreprocessor | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            backbone,
            pooling,
            projection_dim,
            _default_image_preprocessor(backbone) if preprocessor is None else preprocessor,
            **kwargs,
        )
        self._build()

    @classmethod
    def from_features(
        cls,
        dim: int,
        projection_dim: int | None = None,
        fingerprint: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> "ImageTower":
        """A locked tower without a backbone, to train on precomputed features of width `dim`.

        `LiT.with_image_tower` puts the real one in its place afterwards.

        Args:
            dim: int, the width of the features.
            projection_dim: as for `ImageTower`.
            fingerprint: of the tower that made them, see `keras_lit.features.image_tower`; features
                of another are then refused.
            **kwargs: passed on to `ImageTower`.

        Returns:
            An `ImageTower` that takes "image_features" and refuses images.

        Example:

        >>> keras_lit.ImageTower.from_features(768, projection_dim=512).embedding_dim
        512

        Reference: the LiT paper, section 5.6.
        """
        return cls(FeaturesOnly(dim, fingerprint), "none", projection_dim, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        if len(inputs.shape) == 2:  # Features that were computed before.
            return self.project(inputs)
        return super().call(inputs, training=training)

    @property
    def has_no_backbone(self) -> bool:
        """Whether the tower takes precomputed features only."""
        return isinstance(self.backbone, FeaturesOnly)

    def lock(self, locked: bool = True, head: bool = False) -> None:
        if self.has_no_backbone and not locked:
            raise ValueError(
                "An image tower `from_features` has nothing to train but its head. Choose a "
                '`tuning` with "L" for the image tower, for example "Lu".'
            )
        super().lock(locked, head)

    def _build(self) -> None:
        self._build_pooling(keras.KerasTensor((None, *self.preprocessor.image_size, 3)))

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        signature = self.backbone.input if _is_functional(self.backbone) else None
        if isinstance(signature, dict):
            inputs = dict.fromkeys(signature, inputs)
        outputs = self.backbone(inputs, training=training)
        if not isinstance(outputs, dict):
            return outputs
        for name in ("sequence_output", *sorted(outputs, reverse=True)):
            if name in outputs and (name == "sequence_output" or name[0] in "Pp"):
                return outputs[name]
        raise ValueError(
            "An image backbone with several outputs should call them 'P2', 'P3', ... (a pyramid) "
            f"or 'sequence_output'. Received: {', '.join(outputs)}."
        )


@keras.saving.register_keras_serializable("keras_lit")
class TextTower(Tower):
    """A text backbone, its pooling, a linear head and its preprocessing.

    Args:
        backbone: a `keras.Model` from token ids to [batch, tokens, dim]: one of keras-nlp's
            (token ids with or without padding mask and segments), or one that takes an int32
            tensor [batch, tokens].
        tokenizer: a keras-nlp tokenizer, for text as strings. Without one (and without
            `preprocessor`) the tower takes token ids only, padded with 0.
        sequence_length: int, text is cut or padded to so many tokens (16 in the paper).
        pooling: "first", "last" (the last real token where the backbone takes a padding mask),
            "end" (the highest token id, which in CLIP ends the text), "mean" (over real tokens),
            "max", "map" (attention pooling), "none", or "auto": the first token for BERT's
            relatives, the last for the paper's own transformer and GPT's.
        projection_dim: int, the width of the linear head. None: a head as wide as the image
            embedding, settled when `LiT` joins the towers. 0: no head.
        preprocessor: a `keras_lit.preprocessing.TextPreprocessor`, in place of `tokenizer` and
            `sequence_length`, for all its options.

    Call arguments:
        inputs: [batch, sequence_length] int32 tensor of token ids.
        training: bool.

    Returns:
        [batch, embedding_dim] tensor, not normalised.

    Raises:
        ValueError: "auto" does not know the backbone; the text is longer than the backbone
            takes; the tokenizer has more words than the backbone.

    Example:

    >>> tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 32, 2, 64, 4))
    >>> tower(np.ones([3, 16], "int32")).shape
    TensorShape([3, 32])

    Reference: the LiT paper, sections 4.2 and 5.4.
    """

    POOLINGS = ("first", "last", "end", "mean", "max", "map", "none")
    FAMILIES: ClassVar[dict[str, tuple[str, ...]]] = {
        "first": (
            "BertEncoder",
            "BertBackbone",
            "DistilBertBackbone",
            "RobertaBackbone",
            "XLMRobertaBackbone",
            "AlbertBackbone",
            "DebertaV3Backbone",
            "ElectraBackbone",
            "FNetBackbone",
            "RoformerV2Backbone",
        ),
        "end": ("CLIPTextEncoder",),
        "last": (
            "TextTransformer",
            "GPT2Backbone",
            "GPTNeoXBackbone",
            "OPTBackbone",
            "BloomBackbone",
            "LlamaBackbone",
            "MistralBackbone",
            "GemmaBackbone",
        ),
    }

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: keras.layers.Layer | None = None,
        sequence_length: int = 16,
        pooling: str = "auto",
        projection_dim: int | None = None,
        preprocessor: TextPreprocessor | None = None,
        **kwargs: Any,
    ):
        if preprocessor is not None and tokenizer is not None:
            raise ValueError(
                "Pass either `tokenizer` or `preprocessor` (which holds one), not both."
            )
        if tokenizer is not None:
            preprocessor = TextPreprocessor(tokenizer, sequence_length)
        super().__init__(backbone, pooling, projection_dim, preprocessor, **kwargs)
        self.sequence_length = preprocessor.sequence_length if preprocessor else sequence_length
        self.pad_token_id = preprocessor.pad_token_id if preprocessor else 0
        longest = getattr(backbone, "max_sequence_length", None)
        if longest is not None and self.sequence_length > longest:
            raise ValueError(
                f"`sequence_length` should be at most {longest}, the longest text of "
                f"{type(backbone).__name__}. Received: {self.sequence_length}."
            )
        words = _known_vocabulary_size(preprocessor)
        if words is not None and self.vocabulary_size is not None and words > self.vocabulary_size:
            raise ValueError(
                f"The tokenizer has {words} words, more than the {self.vocabulary_size} token "
                f"embeddings of {type(backbone).__name__}. Use the backbone's own vocabulary."
            )
        self._build()

    @classmethod
    def from_size(
        cls,
        size: str,
        tokenizer: keras.layers.Layer | None = None,
        vocabulary_size: int | None = None,
        sequence_length: int = 16,
        projection_dim: int | None = None,
        dropout: float = 0.0,
        pooling: str = "last",
        **kwargs: Any,
    ) -> "TextTower":
        """The paper's text transformer by size, randomly initialised.

        Args:
            size: "Ti", "S", "B", "L", "H" or "g" (width 192, 384, 768, 1024, 1280, 1408).
            tokenizer: as for `TextTower`.
            vocabulary_size: int, for use without a tokenizer, whose size is taken otherwise.
            sequence_length: int, the number of tokens.
            projection_dim: as for `TextTower`.
            dropout: float, 0 in the paper.
            pooling: as for `TextTower`. For "last" (the paper's) and "first" the backbone pools by
                itself, which spares it the rest of its last block.
            **kwargs: passed on to `TextTower`.

        Returns:
            A `TextTower`.

        Raises:
            ValueError: unknown size; neither tokenizer nor vocabulary size.

        Example:

        >>> keras_lit.TextTower.from_size("Ti", vocabulary_size=1000).embedding_dim
        192
        """
        if vocabulary_size is None:
            if tokenizer is None:
                raise ValueError("`from_size` needs a `tokenizer` or a `vocabulary_size`.")
            vocabulary_size = tokenizer.vocabulary_size()
        of_backbone = pooling if pooling in ("first", "last") else None
        backbone = TextTransformer.from_size(
            size, vocabulary_size, sequence_length, dropout=dropout, pooling=of_backbone
        )
        kwargs |= {"pooling": "none" if of_backbone else pooling, "projection_dim": projection_dim}
        return cls(backbone, tokenizer, sequence_length, **kwargs)

    @property
    def vocabulary_size(self) -> int | None:
        """The number of token ids that the backbone knows, where it tells."""
        return getattr(self.backbone, "vocabulary_size", None)

    def _build(self) -> None:
        unused = "pooled_dense" in {layer.name for layer in self.backbone.layers}
        if unused:  # BERT's pooler is not on the way, so nothing should train it.
            self.backbone.get_layer("pooled_dense").trainable = False
        self._build_pooling(keras.KerasTensor((None, self.sequence_length), "int32"))

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        named = {"token_ids": inputs, "padding_mask": self._mask(inputs)}
        if "segment_ids" in self._input_names:
            named["segment_ids"] = keras.ops.zeros_like(inputs)
        if self._input_names:
            inputs = {name: named[name] for name in self._input_names}
        outputs = self.backbone(inputs, training=training)
        return outputs["sequence_output"] if isinstance(outputs, dict) else outputs

    def _mask(self, inputs: Any) -> keras.KerasTensor | None:
        if "padding_mask" not in self._input_names:
            return None
        return keras.ops.not_equal(inputs, self.pad_token_id)

    @property
    def _input_names(self) -> tuple[str, ...]:
        signature = self.backbone.input if _is_functional(self.backbone) else None
        if not isinstance(signature, dict):
            return ()
        unknown = set(signature) - {"token_ids", "padding_mask", "segment_ids"}
        if unknown:
            raise ValueError(
                "A text backbone should take 'token_ids' and maybe 'padding_mask' and "
                f"'segment_ids'. {type(self.backbone).__name__} also takes {sorted(unknown)}: "
                "build a `keras.Model` of its text encoder alone and pass that."
            )
        return tuple(signature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sequence_length": self.sequence_length}


def _attention_pooling(backbone: keras.Model, width: int) -> AttentionPooling:
    """Of the backbone's own heads and MLP where it is a transformer that tells them."""
    heads = getattr(backbone, "num_heads", None)
    if not isinstance(heads, int) or width % heads:
        return AttentionPooling(max(1, width // 64), name="attention_pooling")
    inner = getattr(backbone, "intermediate_dim", None)
    inner = inner if isinstance(inner, int) else None
    return AttentionPooling(heads, inner, name="attention_pooling")


def _is_functional(model: keras.Model) -> bool:
    return isinstance(getattr(model, "input", None), keras.KerasTensor | dict)


def _grid(shape: tuple[int | None, ...]) -> tuple[int, int]:
    tokens = -1 if None in shape[1:3] else shape[1] * shape[2]
    return tokens, shape[3]


def _mean(states: Any, mask: Any) -> keras.KerasTensor:
    if mask is None:
        return keras.ops.mean(states, axis=1)
    weights = keras.ops.cast(mask, states.dtype)[..., None]
    total = keras.ops.maximum(keras.ops.sum(weights, axis=1), 1)
    return keras.ops.sum(states * weights, axis=1) / total


def _last_real(states: Any, mask: Any) -> keras.KerasTensor:
    positions = keras.ops.arange(mask.shape[1])
    return _at(states, keras.ops.max(keras.ops.where(mask, positions, 0), axis=1))


def _at(states: Any, positions: Any) -> keras.KerasTensor:
    return keras.ops.take_along_axis(states, positions[:, None, None], axis=1)[:, 0]


def _default_image_preprocessor(backbone: keras.Model) -> ImagePreprocessor:
    shape = getattr(backbone, "input_shape", None)
    if isinstance(shape, dict):
        shape = next(iter(shape.values()))
    size = shape[1:3] if shape and len(shape) == 4 and None not in shape[1:3] else (224, 224)
    rescales = getattr(backbone, "include_rescaling", False)
    return ImagePreprocessor(size, value_range="0..255" if rescales else "-1..1")


def _known_vocabulary_size(preprocessor: TextPreprocessor | None) -> int | None:
    """None while a model is being loaded: the tokenizer gets its words after it was built."""
    try:
        return preprocessor.tokenizer.vocabulary_size() if preprocessor else None
    except (AttributeError, ValueError, NotImplementedError):
        return None

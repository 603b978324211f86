"""The text tower."""

from typing import Any, ClassVar, Literal, get_args

import keras

from keras_lit import checks, internals
from keras_lit.backbones import TextTransformer
from keras_lit.preprocessing import TextPreprocessor
from keras_lit.towers.base import Tower, input_names
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.towers.heads import Head

TextPooling = Literal["auto", "first", "last", "end", "mean", "max", "map", "none"]


@keras.saving.register_keras_serializable("keras_lit")
class TextTower(Tower):
    """A text backbone, its pooling, a head and its preprocessing.

    Args:
        backbone: a `keras.Model` from token ids to [batch, tokens, dim]: one of keras-nlp's
            (token ids with or without padding mask and segments), or one that takes an int32
            tensor [batch, tokens].
        tokenizer: a keras-nlp tokenizer, for text as strings. Without one (and without
            `preprocessor`) the tower takes token ids only.
        sequence_length: int, the number of tokens that text is cut or padded to (16 in the paper).
        pooling: "first", "last" (the last real token where the backbone takes a padding mask),
            "end" (the highest token id, which in CLIP ends the text), "mean" (over real tokens),
            "max", "map" (attention pooling), "none", or "auto": the first token for BERT's
            relatives, the last for the paper's own transformer and GPT's.
        projection_dim: int, the width of the head. None: a head as wide as the image embedding,
            settled when `LiT` joins the towers. 0: no head.
        preprocessor: a `keras_lit.preprocessing.TextPreprocessor`, in place of `tokenizer` and
            `sequence_length`.
        pad_token_id: int, the id of padding. None: the preprocessor's; without one 1 for RoBERTa's
            relatives and 0 for all others.
        head: "linear", "mlp", or any layer, as of `add_head`; a layer has its own width.

    Call arguments:
        inputs: [batch, sequence_length] int32 tensor of token ids, or [batch, feature_dim] float,
            their features (before the head).
        training: bool.

    Returns:
        [batch, embedding_dim] tensor, not normalised.

    Raises:
        ValueError: "auto" does not know the backbone, the text is too long or the vocabulary too
            large for it, or the head does not fit the `projection_dim`.

    Example:

    >>> tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 32, 2, 64, 4))
    >>> tower(np.ones([3, 16], "int32")).shape
    TensorShape([3, 32])

    Reference: the LiT paper, sections 4.2 and 5.4.
    """

    POOLINGS = get_args(TextPooling)
    FAMILIES: ClassVar[dict[str, tuple[str, ...]]] = {
        "first": (
            *("BertEncoder", "BertBackbone", "DistilBertBackbone", "RobertaBackbone"),
            *("XLMRobertaBackbone", "AlbertBackbone", "DebertaV3Backbone", "ElectraBackbone"),
            *("FNetBackbone", "RoformerV2Backbone"),
        ),
        "end": ("CLIPTextEncoder",),
        "last": (
            *("TextTransformer", "GPT2Backbone", "GPTNeoXBackbone", "OPTBackbone"),
            *("BloomBackbone", "LlamaBackbone", "MistralBackbone", "GemmaBackbone"),
        ),
    }

    sequence_length: Any = checks.Settled()

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: keras.layers.Layer | None = None,
        sequence_length: int = 16,
        pooling: TextPooling = "auto",
        projection_dim: int | None = None,
        preprocessor: TextPreprocessor | None = None,
        pad_token_id: int | None = None,
        head: Head = "linear",
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
        self.pad_token_id: Any = pad_token_id
        if pad_token_id is None:
            of_family = int("Roberta" in type(backbone).__name__)
            self.pad_token_id = preprocessor.pad_token_id if preprocessor else of_family
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
        if "pooled_dense" in {layer.name for layer in backbone.layers}:
            # BERT's pooler is not used, so it should not train.
            backbone.get_layer("pooled_dense").trainable = False
        self._build(keras.KerasTensor((None, self.sequence_length), "int32"), head)

    @classmethod
    def from_size(
        cls,
        size: Literal["Ti", "S", "B", "L", "H", "g"],
        tokenizer: keras.layers.Layer | None = None,
        vocabulary_size: int | None = None,
        sequence_length: int = 16,
        projection_dim: int | None = None,
        dropout: float = 0.0,
        pooling: TextPooling = "last",
        **kwargs: Any,
    ) -> "TextTower":
        """The paper's text transformer by size, randomly initialised.

        Args:
            size: "Ti", "S", "B", "L", "H" or "g" (width 192, 384, 768, 1024, 1280, 1408).
            tokenizer: as for `TextTower`.
            vocabulary_size: int, needed without a tokenizer; None: the tokenizer's.
            sequence_length: int, the number of tokens.
            projection_dim: as for `TextTower`.
            dropout: float, 0 in the paper.
            pooling: as for `TextTower`. For "last" (the paper's) and "first" the backbone itself
                pools, which saves most of its last block.
            **kwargs: passed on to `TextTower`.

        Returns:
            A `TextTower`.

        Raises:
            ValueError: unknown size; neither a tokenizer nor a vocabulary size.

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

    @classmethod
    def from_features(
        cls,
        dim: int,
        projection_dim: int | None = None,
        fingerprint: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> "TextTower":
        """A locked tower without a backbone, to train on precomputed features of width `dim`.

        `LiT.with_text_tower` puts the real one in its place afterwards.

        Args:
            dim: int, the width of the features.
            projection_dim: as for `TextTower`.
            fingerprint: that of the tower that made them, see `keras_lit.features.text_tower`;
                features of another tower are then refused.
            **kwargs: passed on to `TextTower`, for example `head="mlp"`.

        Returns:
            A `TextTower` that takes "text_features" and refuses text.

        Example:

        >>> text_tower = keras_lit.TextTower.from_features(384)
        >>> model = keras_lit.LiT(keras_lit.ImageTower.from_features(768), text_tower, "LL")
        >>> text_tower.embedding_dim
        768

        Reference: the LiT paper, section 5.6.
        """
        backbone = FeaturesOnly(dim, fingerprint, "text")
        return cls(backbone, None, pooling="none", projection_dim=projection_dim, **kwargs)

    @property
    def vocabulary_size(self) -> int | None:
        """The number of token embeddings of the backbone, or None if unknown.

        Example:

        >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 12, 1, 24, 3)
        >>> keras_lit.TextTower(backbone).vocabulary_size
        100
        """
        electra = getattr(self.backbone, "vocab_size", None)  # keras-hub's calls it so.
        return getattr(self.backbone, "vocabulary_size", electra)

    @property
    def ignores_padding(self) -> bool:
        """Whether a text has the same embedding with less padding, so that `fit` can trim it.

        This holds where the backbone takes a padding mask and texts of any length, as BERT does.

        Example:

        >>> keras_lit.TextTower(keras_lit.backbones.BertEncoder(100, 1, 2, 8, 16)).ignores_padding
        True
        >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 8, 1, 16, 2)
        >>> keras_lit.TextTower(backbone).ignores_padding
        False
        """
        if "padding_mask" not in self._input_names:
            return False
        return self.backbone.input["token_ids"].shape[1] is None

    def _are_features(self, inputs: Any) -> bool:
        return len(inputs.shape) == 2 and "float" in keras.backend.standardize_dtype(inputs.dtype)

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        named = {"token_ids": inputs, "padding_mask": self._mask(inputs)}
        if "segment_ids" in self._input_names:
            named["segment_ids"] = keras.ops.zeros_like(inputs)
        if self._input_names:
            inputs = {name: named[name] for name in self._input_names}
        outputs = self.backbone(inputs, training=training)
        return outputs["sequence_output"] if isinstance(outputs, dict) else outputs

    def _mask(self, inputs: Any) -> keras.KerasTensor | None:
        """[batch, tokens] bool, False at padding, for a backbone that takes it."""
        if "padding_mask" not in self._input_names:
            return None
        return keras.ops.not_equal(inputs, self.pad_token_id)

    def _pooling_mask(self, inputs: Any, states: Any) -> keras.KerasTensor | None:
        mask = self._mask(inputs)
        if mask is None:  # Of `Embedding(mask_zero=True)`.
            mask = internals.mask_of(states)
        if mask is None and self.pooling in ("mean", "max"):
            mask = keras.ops.not_equal(inputs, self.pad_token_id)
        return mask

    @property
    def _input_names(self) -> tuple[str, ...]:
        names = input_names(self.backbone)
        unknown = set(names) - {"token_ids", "padding_mask", "segment_ids"}
        if unknown:
            raise ValueError(
                "A text backbone should take 'token_ids' and maybe 'padding_mask' and "
                f"'segment_ids'. {type(self.backbone).__name__} also takes {sorted(unknown)}: "
                "build a `keras.Model` of its text encoder alone and pass that."
            )
        return names

    def get_config(self) -> dict[str, Any]:
        own = {"sequence_length": self.sequence_length, "pad_token_id": self.pad_token_id}
        return {**super().get_config(), **own}


def _known_vocabulary_size(preprocessor: TextPreprocessor | None) -> int | None:
    """None while a model is being loaded: the tokenizer gets its vocabulary after it is built."""
    try:
        return preprocessor.tokenizer.vocabulary_size() if preprocessor else None
    except (AttributeError, ValueError, NotImplementedError):
        return None

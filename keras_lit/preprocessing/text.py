"""Strings to the token ids that a text tower takes."""

from typing import Any, Literal

import keras
import keras_nlp
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.preprocessing import tokenizers
from keras_lit.preprocessing.compiling import compiled


@keras.saving.register_keras_serializable("keras_lit")
class TextPreprocessor(keras.layers.Layer):
    """Turns strings into the token ids that a text tower takes.

    Text that is longer than `sequence_length` is cut. The three special tokens are "auto", an id,
    or None for none. "auto" asks the tokenizer: BERT's gives [CLS] and [SEP] around the text and
    pads with [PAD]; T5's gives `</s>` at the end; a plain SentencePiece tokenizer follows LiT: no
    start and no end token, the text cut to `sequence_length - 1` and padded with its end (`</s>`,
    Gemma's `<eos>`), so that the last token is always the end. The released BERT LiT models want
    `end_token_id=None`.

    Args:
        tokenizer: a keras-nlp tokenizer, or another Keras layer from strings to ragged token ids.
        sequence_length: int, the number of token ids, special tokens included.
        lowercase: bool, whether to lower-case the text (as UTF-8) first.
        start_token_id: "auto", int or None.
        end_token_id: "auto", int or None.
        pad_token_id: "auto" or int.

    Call arguments:
        text: [batch] or scalar string tensor, or a list of str.

    Returns:
        [batch, sequence_length] (or [sequence_length]) int32 tensor.

    Raises:
        ValueError: the text is not strings.

    Example:

    >>> tokenizer = keras_nlp.models.BertTokenizer(
    ...     vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"])
    >>> keras_lit.preprocessing.TextPreprocessor(tokenizer, 5)(["a dog"]).numpy()
    array([[2, 5, 6, 3, 0]], dtype=int32)

    Reference: the LiT paper, section 4.2 and Appendix E (16 tokens).
    """

    sequence_length: Any = checks.Settled()
    start_token_id: Any = checks.Settled()
    end_token_id: Any = checks.Settled()
    pad_token_id: Any = checks.Settled()

    def __init__(
        self,
        tokenizer: keras.layers.Layer,
        sequence_length: int = 16,
        lowercase: bool = False,
        start_token_id: Literal["auto"] | int | None = "auto",
        end_token_id: Literal["auto"] | int | None = "auto",
        pad_token_id: Literal["auto"] | int = "auto",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        checks.check_count(sequence_length, "sequence_length")
        if not isinstance(tokenizer, keras.Layer):
            raise ValueError(
                "`tokenizer` should be a Keras layer, such as `keras_nlp.models.Tokenizer."
                f"from_preset(name)`. Received: {tokenizer!r:.80}."
            )
        # Settled here and kept in the config: a tokenizer that is being loaded has no words yet.
        plain = type(tokenizer) is keras_nlp.tokenizers.SentencePieceTokenizer
        if start_token_id == "auto":
            # T5's start token is its decoder's.
            encodes = not isinstance(tokenizer, keras_nlp.models.T5Tokenizer)
            start_token_id = getattr(tokenizer, "start_token_id", None) if encodes else None
        if end_token_id == "auto":
            end_token_id = getattr(tokenizer, "end_token_id", None)
        if pad_token_id == "auto" and plain:
            pad_token_id = tokenizers.end_token_id(tokenizer)
            end_token_id = pad_token_id if end_token_id is None else end_token_id
        elif pad_token_id == "auto":
            pad_token_id = getattr(tokenizer, "pad_token_id", 0)
        self.tokenizer = tokenizer
        self.sequence_length = int(sequence_length)
        self.lowercase = lowercase
        self.start_token_id = start_token_id
        self.end_token_id = end_token_id
        self.pad_token_id = pad_token_id
        self._packer = keras_nlp.layers.StartEndPacker(
            self.sequence_length, start_token_id, end_token_id, pad_token_id
        )
        internals.takes_raw_input(self)
        self._packer.built = tokenizer.built = True  # `model.quantize` asks every layer.
        parts = lambda: (self.tokenizer, self._packer, self.lowercase)  # noqa: E731
        self._compiled = compiled(self._preprocess, parts)
        self._counted = compiled(self._count, parts)

    def call(self, text: Any) -> tf.Tensor:
        text = tf.convert_to_tensor(text)
        if text.dtype != tf.string or text.shape.rank not in (0, 1):
            raise ValueError(
                "Text should be strings of rank 0 or 1, one caption a row. Received: "
                f"{text.dtype.name} of shape {text.shape}."
            )
        internals.keep_alive(self.tokenizer)
        rows = text[tf.newaxis] if text.shape.rank == 0 else text
        token_ids = tf.ensure_shape(self._compiled(rows), [rows.shape[0], self.sequence_length])
        return token_ids[0] if text.shape.rank == 0 else token_ids

    def _preprocess(self, text: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):
            return tf.cast(self._packer(self._tokens(text)), tf.int32)

    def _tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        return self.tokenizer(tf.strings.lower(text, encoding="utf-8") if self.lowercase else text)

    def token_counts(self, text: Any) -> tf.Tensor:
        """How many token ids each text has before it is cut or padded.

        Args:
            text: [batch] strings.

        Returns:
            [batch] int64 tensor, special tokens included.

        Example:

        >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog", "a cat"], 40)
        >>> preprocessor = keras_lit.preprocessing.TextPreprocessor(tokenizer, 8)
        >>> preprocessor.token_counts(["a dog", "a cat, a dog"]).numpy()  # Letters, [CLS], [SEP].
        array([ 6, 11])
        """
        internals.keep_alive(self.tokenizer)
        return self._counted(tf.convert_to_tensor(text))

    def _count(self, text: tf.Tensor) -> tf.Tensor:
        special = (self.start_token_id is not None) + (self.end_token_id is not None)
        return self._tokens(text).row_lengths() + special

    def compute_output_spec(self, text: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor([None, self.sequence_length], "int32")

    def get_config(self) -> dict[str, Any]:
        names = "sequence_length lowercase start_token_id end_token_id pad_token_id"
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "tokenizer_vocabulary": tokenizers.to_json(self.tokenizer),
            **{name: getattr(self, name) for name in names.split()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TextPreprocessor":
        config = dict(config)
        words, tokenizer = config.pop("tokenizer_vocabulary", None), config["tokenizer"]
        if words is not None:
            of_tokenizer = {**tokenizer["config"], **tokenizers.from_json(words)}
            tokenizer = {**tokenizer, "config": of_tokenizer}
        return cls(**{**config, "tokenizer": keras.saving.deserialize_keras_object(tokenizer)})

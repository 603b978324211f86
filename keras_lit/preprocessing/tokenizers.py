"""Vocabularies: train SentencePiece and WordPiece tokenizers on captions; files of them."""

import base64
import io
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_lit import checks, files, internals

__all__ = ["load", "save", "train_sentencepiece", "train_wordpiece"]

# Captions that are kept to be read again: unigram's frequent strings are too few in fewer.
_SMALL_CORPUS = 100_000
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_sentencepiece(
    captions: Iterable[str | bytes] | tf.data.Dataset,
    vocabulary_size: int = 32_000,
    lowercase: bool = True,
    **options: Any,
) -> keras_nlp.tokenizers.SentencePieceTokenizer:
    """Trains a unigram SentencePiece vocabulary.

    Args:
        captions: strings, or pairs with "text", as a tf.data.Dataset, batched or not, an iterable
            or a dict of arrays (with all captions of an image: of a dataset that draws some a
            warning says so); read once, as a stream.
        vocabulary_size: int, the number of pieces at most (the paper uses 32,000, the released
            small models 16,000); a warning gives their number if the captions yield fewer.
        lowercase: bool, whether the vocabulary itself folds case.
        **options: of `sentencepiece.SentencePieceTrainer`. Without a "model_type", a small corpus
            from which the unigram model makes fewer pieces (nearly letters) gets byte-pair
            encoding.

    Returns:
        A keras-nlp tokenizer, with `</s>` for the end and the padding of a text.

    Raises:
        ValueError: no captions, a caption is not a string, or too small a vocabulary.

    Example:

    >>> captions = ["a red balloon", "a green balloon over the sea", "the sea"]
    >>> keras_lit.tokenizers.train_sentencepiece(captions, 40).vocabulary_size() <= 40
    True

    Reference: the LiT paper, section 4.2; Kudo 2018 (arXiv 1804.10959).
    """
    import sentencepiece

    checks.check_count(vocabulary_size, "vocabulary_size")
    _warn_of_draws(captions)
    settings = {
        "hard_vocab_limit": False,
        "normalization_rule_name": "nmt_nfkc_cf" if lowercase else "nmt_nfkc",
        "minloglevel": 2,
        **options,
    }

    def train(captions: Iterator[str], **more: Any) -> tuple[bytes, int]:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=captions,
                model_writer=model,
                vocab_size=vocabulary_size,
                **{**settings, **more},
            )
        except RuntimeError as error:
            raise ValueError(
                f"SentencePiece could not train a vocabulary of {vocabulary_size} on these "
                f"captions (too few captions, or fewer pieces than characters): {error}"
            ) from error
        proto = model.getvalue()
        return proto, sentencepiece.SentencePieceProcessor(model_proto=proto).get_piece_size()

    kept: list[str] = []

    def keeping() -> Iterator[str]:
        for caption in _strings(captions):
            if len(kept) < _SMALL_CORPUS:
                kept.append(caption)
            yield caption

    proto, pieces = train(keeping())
    if pieces < vocabulary_size and len(kept) < _SMALL_CORPUS and "model_type" not in options:
        proto, pieces = train(iter(kept), model_type="bpe")
    if pieces != vocabulary_size:
        _warn_of_size(pieces, vocabulary_size)
    return keras_nlp.tokenizers.SentencePieceTokenizer(proto=proto)


def train_wordpiece(
    captions: Iterable[str | bytes] | tf.data.Dataset,
    vocabulary_size: int = 32_000,
    lowercase: bool = True,
) -> keras_nlp.models.BertTokenizer:
    """Trains a WordPiece vocabulary with BERT's special tokens.

    Args:
        captions: as for `train_sentencepiece`.
        vocabulary_size: int, the number of pieces to aim at, special tokens included; a warning
            gives their number if it differs by more than a tenth.
        lowercase: bool, whether to lower-case and to strip accents, as BERT's uncased vocabulary.

    Returns:
        A keras-nlp `BertTokenizer`.

    Raises:
        ValueError: no captions, a caption is not a string, or too small a vocabulary.

    Example:

    >>> captions = ["a red balloon", "a green balloon over the sea", "the sea"]
    >>> keras_lit.tokenizers.train_wordpiece(captions, 60).pad_token_id
    0

    Reference: the LiT paper, section 5.4.
    """
    checks.check_count(vocabulary_size, "vocabulary_size")
    _warn_of_draws(captions)
    wrong: list[ValueError] = []

    def strings() -> Iterator[str]:
        try:
            yield from _strings(captions)
        except ValueError as error:
            wrong.append(error)
            raise

    dataset = tf.data.Dataset.from_generator(strings, output_signature=tf.TensorSpec([], tf.string))
    try:
        vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
            dataset.batch(1000),
            vocabulary_size,
            lowercase=lowercase,
            strip_accents=lowercase,
            reserved_tokens=list(_BERT_TOKENS),
        )
    except tf.errors.InvalidArgumentError as error:
        raise (wrong[0] if wrong else error) from None
    if abs(len(vocabulary) - vocabulary_size) > vocabulary_size / 10:  # It is only aimed at.
        _warn_of_size(len(vocabulary), vocabulary_size)
    return keras_nlp.models.BertTokenizer(
        vocabulary=vocabulary, lowercase=lowercase, strip_accents=lowercase
    )


def end_token_id(tokenizer: keras_nlp.tokenizers.SentencePieceTokenizer) -> int:
    """The id of a SentencePiece vocabulary's end, whatever it is called: `</s>`, `<eos>`..."""
    import sentencepiece

    end = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto).eos_id()
    if end < 0:
        raise ValueError(
            "This SentencePiece vocabulary has no token for the end of a text, with which LiT "
            "pads. Pass `end_token_id` and `pad_token_id` to `TextPreprocessor`, or train it with "
            "an `eos_id`."
        )
    return end


def to_json(tokenizer: keras.layers.Layer) -> str | None:
    """The vocabulary as arguments of the tokenizer's class; None where there is none (yet)."""
    of = keras_nlp.tokenizers
    if isinstance(tokenizer, of.SentencePieceTokenizer) and tokenizer.proto is not None:
        return json.dumps({"proto": base64.b64encode(tokenizer.proto).decode()})
    if isinstance(tokenizer, of.BytePairTokenizer) and tokenizer.vocabulary is not None:
        words = {"vocabulary": dict(tokenizer.vocabulary), "merges": list(tokenizer.merges)}
        return json.dumps(words, ensure_ascii=False)
    if isinstance(tokenizer, of.WordPieceTokenizer) and tokenizer.vocabulary is not None:
        return json.dumps({"vocabulary": list(tokenizer.vocabulary)}, ensure_ascii=False)
    return None


def from_json(words: str) -> dict[str, Any]:
    """The arguments that `to_json` wrote."""
    arguments = json.loads(words)
    if "proto" in arguments:
        arguments["proto"] = base64.b64decode(arguments["proto"])
    return arguments


def _warn_of_size(pieces: int, asked: int) -> None:
    message = f"These captions give a vocabulary of {pieces} pieces; {asked} were asked for."
    warnings.warn(message, stacklevel=3)


def _warn_of_draws(captions: Any) -> None:
    if isinstance(captions, tf.data.Dataset) and any(
        getattr(dataset, "draws_captions", False) for dataset in internals.made_from(captions)
    ):
        warnings.warn(
            "These captions are drawn, one of several of an image, so the vocabulary sees some of "
            'them only: train it on `image_text_pairs(..., captions="all")`.',
            stacklevel=3,
        )


def _strings(captions: Any) -> Iterator[str]:
    caption = None
    for caption in _each(_texts_of(captions)):
        yield caption if isinstance(caption, str) else caption.decode("utf-8")
    if caption is None:
        raise ValueError("There are no captions to train a vocabulary on.")


def _texts_of(captions: Any) -> Any:
    """The captions of pairs, in any form; strings as they are."""
    if isinstance(captions, str | bytes):
        raise ValueError(
            f"Captions should be several strings. Received one: {captions[:99]!r}. Pass a list, or "
            "the lines of a file, `open(path)`."
        )
    if isinstance(captions, tf.data.Dataset):
        if isinstance(captions.element_spec, dict):
            _texts_of(captions.element_spec)  # Raises here, not inside of a graph.
            captions = captions.map(_texts_of)
        return captions.as_numpy_iterator()
    if isinstance(captions, dict):
        texts = [captions[name] for name in ("text", "texts") if name in captions]
        if not texts:
            raise ValueError(
                f'Pairs should have their captions as "text". Received: {sorted(captions)}. '
                + checks.renaming(captions, ["text"])
            )
        return texts[0]
    return captions


def _each(captions: Iterable[Any]) -> Iterator[str | bytes]:
    """The strings among strings, lists or arrays of them, and pairs."""
    for caption in captions:
        if isinstance(caption, str | bytes):
            yield caption
        elif isinstance(caption, dict | list | np.ndarray):
            texts = _texts_of(caption)
            yield from [texts] if isinstance(texts, str | bytes) else _each(texts)
        elif isinstance(caption, tuple):
            raise ValueError(
                f"Captions should be strings. Received a tuple of {len(caption)}: map your "
                "dataset, for example `dataset.map(lambda image, text: text)`."
            )
        else:
            raise ValueError(
                f"Captions should be strings. Received: {str(caption)[:99]} "
                f"({type(caption).__name__})."
            )


def save(tokenizer: keras.layers.Layer, path: str | os.PathLike) -> pathlib.Path:
    """Writes a vocabulary to a file that other programs read as well.

    Args:
        tokenizer: a SentencePiece or WordPiece tokenizer of keras-nlp.
        path: ending in .model for SentencePiece, in .txt for WordPiece (one token a line).

    Returns:
        The path.

    Raises:
        ValueError: an unsupported tokenizer or suffix.

    Example:

    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog", "a cat"], 40)
    >>> keras_lit.tokenizers.save(tokenizer, tempfile.mkdtemp() + "/words.txt").name
    'words.txt'
    """
    path = pathlib.Path(path)
    if isinstance(tokenizer, keras_nlp.tokenizers.SentencePieceTokenizer):
        checks.check_one_of(path.suffix, (".model",), "path's ending")
        content = tokenizer.proto
    elif isinstance(tokenizer, keras_nlp.tokenizers.WordPieceTokenizer):
        checks.check_one_of(path.suffix, (".txt",), "path's ending")
        content = "".join(f"{token}\n" for token in tokenizer.get_vocabulary()).encode()
    else:
        raise ValueError(
            "`tokenizer` should be a SentencePiece or WordPiece tokenizer. Received: "
            f"{type(tokenizer).__name__}."
        )
    with files.whole(path) as working:
        working.write_bytes(content)
    return path


def load(path: str | os.PathLike, lowercase: bool = True) -> keras.layers.Layer:
    """Reads a vocabulary: one saved here, or that of a released LiT or BERT model.

    Args:
        path: a .model file of SentencePiece, or a .txt file of WordPiece, one token a line.
        lowercase: bool, for WordPiece, whether to lower-case and to strip accents, as BERT's
            uncased models want. SentencePiece files hold their normalisation themselves; the
            released small LiT models' does not fold case (`TextPreprocessor(lowercase=True)`).

    Returns:
        A keras-nlp `SentencePieceTokenizer` or `BertTokenizer`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown suffix, or not a vocabulary.

    Example:

    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog", "a cat"], 40)
    >>> path = keras_lit.tokenizers.save(tokenizer, tempfile.mkdtemp() + "/words.txt")
    >>> keras_lit.tokenizers.load(path).vocabulary_size() == tokenizer.vocabulary_size()
    True

    Reference: the LiT model card; vision_transformer's `models_lit`.
    """
    path = pathlib.Path(path)
    checks.check_one_of(path.suffix, (".model", ".txt"), "path's ending")
    if path.suffix == ".txt":
        try:
            tokens = path.read_text("utf-8-sig").rstrip("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} should be UTF-8: {error}. Save it so.") from error
        lines = {token: i for i, token in reversed([*enumerate(tokens, 1)])}
        twice = [i for i, token in enumerate(tokens, 1) if lines[token] != i]
        if twice:
            raise ValueError(
                f"{path} should hold each token once. Received {tokens[twice[0] - 1]!r} in the "
                f"lines {lines[tokens[twice[0] - 1]]} and {twice[0]}: take a whole copy of it."
            )
        missing = [token for token in _BERT_TOKENS[:4] if token not in tokens]
        if missing:
            raise ValueError(f"{path} should hold BERT's tokens, one a line. Missing: {missing}.")
        return keras_nlp.models.BertTokenizer(
            vocabulary=tokens, lowercase=lowercase, strip_accents=lowercase
        )
    import sentencepiece

    proto = path.read_bytes()
    try:
        if not proto:
            raise RuntimeError("it is empty")
        sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(f"{path} should be a SentencePiece model: {error}") from error
    return keras_nlp.tokenizers.SentencePieceTokenizer(proto=proto)

"""LiT models from the files of the authors' releases, and of big_vision's training."""

import os
from pathlib import Path
from typing import Any

from keras_lit import checks
from keras_lit.checkpoints import build
from keras_lit.checkpoints.fill import fill
from keras_lit.checkpoints.names import canonical
from keras_lit.checkpoints.npz import Archive
from keras_lit.checkpoints.released import RELEASED, TEXT_LENGTH, fetch
from keras_lit.checkpoints.slots import slots_of_model
from keras_lit.model import LiT
from keras_lit.preprocessing import TextPreprocessor, tokenizers


def load_lit(
    path: str | os.PathLike,
    text_heads: int | None = None,
    tokenizer: Any = None,
    image_size: int | None = None,
    sequence_length: int = TEXT_LENGTH,
    cache_dir: str | os.PathLike | None = None,
) -> LiT:
    """Loads a LiT that the authors released, or any two-tower model of big_vision.

    Args:
        path: an `.npz` file; or "LiT-B16B", "LiT-B16B_2", "LiT-L16L", "LiT-L16S" or "LiT-L16Ti",
            which are downloaded once.
        text_heads: int, the attention heads of a BERT, which its shapes do not tell. Not needed
            where the file has the name of a released model.
        tokenizer: a keras-nlp tokenizer, or the path of a vocabulary (a BERT's `.txt`, else a
            SentencePiece `.model`). None takes the vocabulary of the same name beside the file;
            where there is none the model takes token ids only.
        image_size: int, the image's side in pixels, where it should not be the file's: position
            embeddings are resampled.
        sequence_length: int, the tokens of a BERT's text (16 in the released models).
        cache_dir: where downloads are kept; None for `$KERAS_LIT_CACHE` or `~/.cache/keras_lit`.

    Returns:
        A `LiT` with tuning "LU" and `lock_heads=True`: `fit` tunes the text tower (and the
        temperature) and nothing of the image tower.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds other arrays than a model of its kind: missing,
            left over, of another shape, not finite. The message names the array.

    Example: `keras_lit.checkpoints.load_lit("LiT-B16B_2.npz").encode_text(["a dog"])`.

    Reference: the LiT paper, section 5.2; vit_jax's `models_lit.py` for the released layout.
    """
    path = _local(path, cache_dir)
    arrays = canonical(Archive(path))
    if text_heads is None and path.stem in RELEASED:
        text_heads = RELEASED[path.stem].text_heads
    sequence_length = build.text_length(arrays) or sequence_length
    preprocessor = _preprocessor(tokenizer, path, build.is_bert(arrays), sequence_length)
    image_tower = build.image_tower(arrays, "img/", image_size)
    text_tower = build.text_tower(arrays, text_heads, sequence_length, preprocessor)
    loss = "sigmoid" if "b" in arrays else "softmax"
    model = LiT(image_tower, text_tower, tuning="LU", loss=loss, lock_heads=True)
    fill(slots_of_model(model), arrays, path)
    model.initial_temperature = float(model.temperature)
    return model


def _local(path: str | os.PathLike, cache_dir: str | os.PathLike | None) -> Path:
    if path in RELEASED:
        return fetch(path, cache_dir)
    path = Path(path)
    if not path.exists() and path.stem in RELEASED:
        raise FileNotFoundError(
            f"There is no checkpoint {path}. To download it pass its name alone: "
            f"load_lit({path.stem!r})."
        )
    return path


def _preprocessor(
    tokenizer: Any, path: Path, bert: bool, sequence_length: int
) -> TextPreprocessor | None:
    ending = ".txt" if bert else ".model"
    if tokenizer is None:
        beside = path.with_suffix(ending)
        tokenizer = beside if beside.exists() else None
    if isinstance(tokenizer, str | os.PathLike):
        checks.check_one_of(Path(tokenizer).suffix, (ending,), "tokenizer's ending")
        tokenizer = tokenizers.load(tokenizer)
    if tokenizer is None:
        return None
    if bert:  # [CLS] and the words, without [SEP].
        return TextPreprocessor(tokenizer, sequence_length, end_token_id=None)
    return TextPreprocessor(tokenizer, sequence_length, lowercase=True)

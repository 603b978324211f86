"""Loads and saves whole files: LiT models and image towers of the authors' code."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras_nlp
import numpy as np

from keras_lit import checks, files
from keras_lit.backbones import BertEncoder, TextTransformer, VisionTransformer
from keras_lit.checkpoints import build
from keras_lit.checkpoints.npz import Archive, Array, canonical, stacked
from keras_lit.checkpoints.released import RELEASED, TEXT_LENGTH, fetch
from keras_lit.checkpoints.slots import fill, slots_of_model, slots_of_tower
from keras_lit.model import LiT, Loss
from keras_lit.preprocessing import TextPreprocessor, tokenizers
from keras_lit.towers import ImageTower, TextTower, Tower

# What follows the pooled features.
_CLASSIFIER = ("head/", "pre_logits/")
_FIRST_OF_IMAGE_TOWERS = ("embedding/kernel", "stem/kernel", "root_block/conv_root/kernel")
# The logits of a higher one are all or nothing; released models have 10 to 120.
_HIGHEST_TEMPERATURE = 10_000
# The released files keep the class token's position with the others, in a module of the encoder.
_POSITIONS = "img/Transformer/posembed_input/pos_embedding"


def load_lit(
    path: str | os.PathLike,
    text_heads: int | None = None,
    tokenizer: Any = None,
    image_size: int | None = None,
    sequence_length: int = TEXT_LENGTH,
    cache_dir: str | os.PathLike | None = None,
) -> LiT:
    """Loads a LiT that the authors released, or any two-tower model of big_vision (SigLIP 1, 2).

    Args:
        path: an `.npz` file; or "LiT-B16B", "LiT-B16B_2", "LiT-L16L", "LiT-L16S" or "LiT-L16Ti",
            which are downloaded once.
        text_heads: int, the attention heads of a BERT, which its shapes do not show. Not needed
            where the file has the name of a released model.
        tokenizer: a keras-nlp tokenizer, or the path of a vocabulary (a BERT's `.txt`, else a
            SentencePiece `.model`, padded with its own end: `</s>`, Gemma's `<eos>`). None takes
            the vocabulary of the same name beside the file; where there is none the model takes
            token ids only.
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
            left over, of another shape, not finite, no logarithm as temperature. The message names
            the array, or the loader that reads the file.

    Example: `keras_lit.checkpoints.load_lit("LiT-B16B_2.npz").encode_text(["a dog"])`.

    Reference: the LiT paper, section 5.2; vit_jax's `models_lit.py` for the released layout.
    """
    path = _local(path, cache_dir)
    arrays = canonical(Archive(path))
    if not _has(arrays, "img/") or not _has(arrays, "txt/"):
        lone = "img/" if _has(arrays, "img/") else ""
        is_image = lone or any(name in arrays for name in _FIRST_OF_IMAGE_TOWERS)
        raise ValueError(
            f"{path} should hold two towers, arrays named 'img/...' and 'txt/...'. Received "
            + (
                f"an image tower alone: load it with `load_image_tower({str(path)!r})`."
                if is_image
                else f"{len(arrays)} arrays, the first {list(arrays)[:3]}."
            )
        )
    if text_heads is None and path.stem in RELEASED:
        text_heads = RELEASED[path.stem].text_heads
    sequence_length = build.text_length(arrays) or sequence_length
    preprocessor = _preprocessor(tokenizer, path, build.is_bert(arrays), sequence_length)
    image_tower = build.image_tower(arrays, "img/", image_size)
    text_tower = build.text_tower(arrays, text_heads, sequence_length, preprocessor)
    loss: Loss = "sigmoid" if "b" in arrays else "softmax"
    model = LiT(image_tower, text_tower, tuning="LU", loss=loss, lock_heads=True)
    fill(slots_of_model(model), arrays, path)
    if not 1 / _HIGHEST_TEMPERATURE < float(model.temperature) < _HIGHEST_TEMPERATURE:
        raise ValueError(
            f"'t' of {path} should be the logarithm of a temperature above 0 and below "
            f"{_HIGHEST_TEMPERATURE:,}. Received: {float(arrays['t'].read()[0]):g}. Write its "
            "logarithm if it is the temperature itself."
        )
    model.initial_temperature = float(model.temperature)
    _warn_of_vocabulary(text_tower, path)
    return model


def load_image_tower(
    path: str | os.PathLike, image_size: int | None = None, head: bool = False
) -> ImageTower:
    """Loads a pretrained image tower, to be locked in a `LiT`.

    Args:
        path: an `.npz` file of vit_jax, big_vision or BiT: a ViT (AugReg's and the original ones;
            pooled by class token, mean or attention), an MLP-Mixer or a BiT ResNet.
        image_size: int, the image's side in pixels, where it should not be the file's: a ViT's
            position embeddings are resampled. A BiT takes any size (by default 224), an MLP-Mixer
            no other.
        head: bool, whether to keep the linear head, which the file should then have. In pretraining
            that is a classifier, so it is left out by default, as in LiT.

    Returns:
        An `ImageTower` that takes pixels as -1..1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds other arrays than a model of its kind. The message
            names the array, or the loader that reads the file.

    Example: `keras_lit.checkpoints.load_image_tower("B_16-i21k-300ep-lr_0.001.npz")`.

    Reference: Steiner et al. 2021 (arXiv 2106.10270) for AugReg; the LiT paper, section 4.2.
    """
    arrays = canonical(Archive(path))
    if _has(arrays, "txt/"):
        raise ValueError(
            f"{path} holds two towers, 'img/...' and 'txt/...', and not an image tower alone. Load "
            f"it with `load_lit({str(path)!r}).image_tower`."
        )
    arrays = {name.removeprefix("img/"): array for name, array in arrays.items()}
    if head and "head/kernel" not in arrays:
        raise ValueError(f"{path} holds no head. Pass `head=False`.")
    if not head:
        arrays = {name: a for name, a in arrays.items() if not name.startswith(_CLASSIFIER)}
    tower = build.image_tower(arrays, image_size=image_size)
    fill(slots_of_tower(tower), arrays, Path(path))
    return tower


def save_lit(model: LiT, path: str | os.PathLike, scan: bool = False) -> None:
    """Writes a model's weights as an `.npz` in the layout of the released LiT models.

    `load_lit` gives the same weights again, bit by bit, and big_vision reads the file too. What
    shapes do not show (the tokenizer, a BERT's heads, preprocessing, dropout) is not in it.

    Args:
        model: a `LiT` whose towers' backbones are of `keras_lit.backbones`.
        path: of the file, which appears complete or not at all.
        scan: bool, whether the arrays of a transformer's blocks are stacked, as in SigLIP 2's files
            and as big_vision reads them with `scan=True`.

    Raises:
        ValueError: a tower has no place in this layout, or a pooling that it cannot express.

    Example:

    >>> image_tower = keras_lit.ImageTower(
    ...     keras_lit.backbones.VisionTransformer(32, 8, 12, 2, 24, 3), "first")
    >>> text_tower = keras_lit.TextTower(keras_lit.backbones.TextTransformer(100, 16, 12, 2, 24, 3))
    >>> path = tempfile.mkdtemp() + "/lit.npz"
    >>> keras_lit.checkpoints.save_lit(keras_lit.LiT(image_tower, text_tower), path)
    >>> keras_lit.checkpoints.load_lit(path).encode_text(np.ones([1, 16], "int32")).shape
    (1, 12)

    Reference: vit_jax's `models_lit.py`; big_vision's `models/proj/image_text/two_towers.py`.
    """
    slots = slots_of_model(model)
    for tower in (model.image_tower, model.text_tower):
        _check_pooling(tower)
    if "img/cls" in slots:
        slots[_POSITIONS] = slots.pop("img/pos_embedding")
    with files.whole(path) as working, zipfile.ZipFile(working, "w") as file:
        groups = stacked(slots) if scan else {name: [slot] for name, slot in slots.items()}
        for name, group in groups.items():
            arrays = [slot.variable.numpy().reshape(slot.shape) for slot in group]
            array = np.stack(arrays) if "encoderblock/" in name else arrays[0]
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _has(arrays: dict[str, Array], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in arrays)


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
    if tokenizer is None and path.with_suffix(ending).exists():
        tokenizer = path.with_suffix(ending)
    if isinstance(tokenizer, str | os.PathLike):
        checks.check_one_of(Path(tokenizer).suffix, (ending,), "tokenizer's ending")
        tokenizer = tokenizers.load(tokenizer)
    if tokenizer is None:
        return None
    if bert:  # [CLS] and the words, without [SEP].
        return TextPreprocessor(tokenizer, sequence_length, end_token_id=None)
    if not isinstance(tokenizer, keras_nlp.tokenizers.SentencePieceTokenizer):
        return TextPreprocessor(tokenizer, sequence_length, lowercase=True)
    # Whatever start and padding it has: big_vision's `bos="no", eos="sticky"`.
    end = tokenizers.end_token_id(tokenizer)
    return TextPreprocessor(tokenizer, sequence_length, True, None, end, end)


def _warn_of_vocabulary(tower: TextTower, path: Path) -> None:
    """A vocabulary with more words than there are embeddings is refused by the tower."""
    words = tower.preprocessor.tokenizer.vocabulary_size() if tower.preprocessor else None
    if words is not None and tower.vocabulary_size and words < tower.vocabulary_size:
        warnings.warn(
            f"The tokenizer has {words:,} words, and {path} embeddings of {tower.vocabulary_size:,}"
            ": with another vocabulary than the model's own its texts mean nothing.",
            stacklevel=3,
        )


def _check_pooling(tower: Tower) -> None:
    """Raises unless whoever loads the file pools as the tower does."""
    backbone = tower.backbone
    pooling = getattr(backbone, "pooling", None) or tower.pooling
    known: tuple[str, ...] = ("mean",)
    if isinstance(backbone, VisionTransformer):
        known = ("first",) if backbone.class_token else ("mean", "map")
    elif isinstance(backbone, BertEncoder):
        known = ("first",)
    elif isinstance(backbone, TextTransformer):
        known = ("last", "map")
    if pooling not in known:
        raise ValueError(
            f"In this layout {type(backbone).__name__} is pooled as {' or '.join(known)}. "
            f"Received: {pooling!r}. Save the model as a .keras file instead."
        )

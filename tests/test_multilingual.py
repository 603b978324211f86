"""keras-nlp's multilingual backbones, small, with their own kinds of tokenizer, on real captions."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from sentencepiece import SentencePieceProcessor

from keras_lit import ImageTower, LiT, TextTower, backbones
from keras_lit.preprocessing import tokenizers
from tests.preprocessing.test_tokenizers import SCRIPTS

LENGTH = 32
models = keras_nlp.models


def sentencepiece(**options):
    return tokenizers.train_sentencepiece(
        SCRIPTS * 4, 400, lowercase=False, character_coverage=1.0, **options
    ).proto


def xlm_roberta():
    proto = sentencepiece()
    tokenizer = models.XLMRobertaTokenizer(proto=proto)
    backbone = models.XLMRobertaBackbone(tokenizer.vocabulary_size(), 1, 2, 12, 24)

    def ids(text):
        """fairseq's: <s>, <pad>, </s>, <unk> come first, so that pieces move by one."""
        return [
            0,
            *(piece + 1 for piece in SentencePieceProcessor(model_proto=proto).encode(text)),
            2,
        ]

    return backbone, tokenizer, "auto", ids, 1


def mt5():
    proto = sentencepiece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = models.T5Tokenizer(proto=proto)
    t5 = models.T5Backbone(
        tokenizer.vocabulary_size(),
        1,
        2,
        12,
        24,
        activation="gelu",
        use_gated_activation=True,
        tie_embedding_weights=False,
    )

    def ids(text):
        return [*SentencePieceProcessor(model_proto=proto).encode(text), 1]

    return backbones.t5_encoder(t5), tokenizer, "mean", ids, 0


def multilingual_bert():
    tokenizer = tokenizers.train_wordpiece(SCRIPTS * 4, 600, lowercase=False)
    vocabulary = tokenizer.get_vocabulary()

    def ids(text):
        """The longest pieces first, of words without punctuation and CJK alone."""
        spaced = "".join(f" {c} " if not c.isalnum() and c in ".!！。-" else c for c in text)
        spaced = "".join(f" {c} " if "\u4e00" <= c <= "\u9fff" else c for c in spaced)
        found = ["[CLS]"]
        for word in spaced.split():
            start = 0
            while start < len(word):
                pieces = {end: "##"[: 2 * start] + word[start:end] for end in range(start + 1, 99)}
                start = max(end for end, piece in pieces.items() if piece in vocabulary)
                found.append(pieces[start])
        return [vocabulary.index(piece) for piece in [*found, "[SEP]"]]

    backbone = models.BertBackbone(tokenizer.vocabulary_size(), 1, 2, 12, 24)
    return backbone, tokenizer, "auto", ids, 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [xlm_roberta, mt5, multilingual_bert])
def test_a_multilingual_backbone_reads_all_scripts_and_trains(kind):
    keras.utils.set_random_seed(0)
    backbone, tokenizer, pooling, ids, pad = kind()
    text_tower = TextTower(backbone, tokenizer, LENGTH, pooling=pooling)

    rows = [ids(text) for text in SCRIPTS]
    expected = [row + [pad] * (LENGTH - len(row)) for row in rows]
    assert max(map(len, rows)) <= LENGTH
    dataset = tf.data.Dataset.from_tensor_slices(SCRIPTS)
    in_data = list(dataset.map(text_tower.preprocessor).as_numpy_iterator())
    np.testing.assert_array_equal(text_tower.preprocessor(SCRIPTS), expected)
    np.testing.assert_array_equal(in_data, expected)
    longer = TextTower(backbone, tokenizer, LENGTH + 8, pooling=pooling)
    embeddings = text_tower(text_tower.preprocessor(SCRIPTS))
    padded = longer(longer.preprocessor(SCRIPTS))
    np.testing.assert_allclose(padded, embeddings, atol=1e-5)  # padding is masked

    grid = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 4, strides=4)])
    model = LiT(ImageTower(grid), text_tower, "LU")
    before = [variable.numpy() for variable in text_tower.trainable_variables]
    image = np.random.default_rng(0).integers(0, 256, [len(SCRIPTS), 8, 8, 3]).astype("uint8")
    pairs = tf.data.Dataset.from_tensor_slices({"image": image, "text": SCRIPTS})
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit(pairs.repeat(12).batch(len(SCRIPTS)), verbose=0, epochs=2).history
    assert history["loss"][1] < history["loss"][0]
    moved = [
        (variable.numpy() != old).any()
        for variable, old in zip(text_tower.trainable_variables, before, strict=True)
    ]
    assert np.mean(moved) > 0.8

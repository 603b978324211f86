"""Any Unicode at all: the same ids eagerly, in tf.data and in a graph; lengths and ends hold."""

import functools

import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lit.preprocessing import TextPreprocessor, tokenizers

CAPTIONS = ["a red balloon", "two dogs in the snow", "Ein Bär über dem Meer", "赤い風船"] * 3
LENGTH = 8
TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=4)


@functools.cache
def made(kind):
    """(preprocessor, a graph of it, its ids in tf.data of what is put into a list)."""
    if kind == "wordpiece":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a2e赤い.", "##e", "##n", "snow"]
        tokenizer = keras_nlp.models.BertTokenizer(
            vocabulary=words, lowercase=True, strip_accents=True
        )
    else:
        tokenizer = tokenizers.train_sentencepiece(CAPTIONS, 80)
    preprocessor = TextPreprocessor(tokenizer, LENGTH)
    rows = []
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([np.array(rows, dtype=object)]),
        output_signature=tf.TensorSpec([None], tf.string),
    ).map(preprocessor)
    graph = tf.function(preprocessor, input_signature=[tf.TensorSpec([None], tf.string)])
    return preprocessor, graph, rows, dataset


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_any_text(kind):
    preprocessor, graph, rows, dataset = made(kind)
    tokenizer = preprocessor.tokenizer

    @settings(max_examples=15)
    @given(TEXTS)
    def check(texts):
        ids = preprocessor(texts).numpy()
        assert ids.shape == (len(texts), LENGTH) and ids.dtype == np.int32
        assert (ids >= 0).all() and (ids < tokenizer.vocabulary_size()).all()
        np.testing.assert_array_equal(graph(tf.constant(texts)), ids)
        rows[:] = texts
        (in_data,) = dataset
        np.testing.assert_array_equal(in_data, ids)
        for text, row in zip(texts, ids, strict=True):
            np.testing.assert_array_equal(preprocessor(text), row)
            pads = row == preprocessor.pad_token_id
            if kind == "wordpiece":  # [CLS] text [SEP] [PAD]...
                assert row[0] == tokenizer.cls_token_id
                assert (row == tokenizer.sep_token_id).sum() == 1
                assert not pads[: np.argmax(row == tokenizer.sep_token_id)].any()
            else:  # Once the text has ended there are ends only, at least one.
                assert pads[-1] and pads[np.argmax(pads) :].all()

    check()


@pytest.mark.parametrize(("kind", "suffix"), [("wordpiece", ".txt"), ("sentencepiece", ".model")])
def test_a_saved_vocabulary_gives_the_same_ids(kind, suffix, tmp_path):
    preprocessor = made(kind)[0]
    path = tokenizers.save(preprocessor.tokenizer, tmp_path / f"vocabulary{suffix}")
    loaded = TextPreprocessor(tokenizers.load(path), LENGTH)

    @given(TEXTS)
    def check(texts):
        np.testing.assert_array_equal(loaded(texts), preprocessor(texts))

    check()

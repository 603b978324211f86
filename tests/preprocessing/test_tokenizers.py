import json
import unicodedata
import warnings

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from sentencepiece import SentencePieceProcessor

from keras_lit.data.captions import draw
from keras_lit.preprocessing import TextPreprocessor, tokenizers
from keras_lit.towers import fingerprints
from tests.small import COLOURS, THINGS

CAPTIONS = ["a red balloon", "a green balloon over the sea", "The Sea", "two dogs in the snow"] * 3


@pytest.fixture(scope="module")
def sentencepiece():
    return tokenizers.train_sentencepiece(CAPTIONS, 60)


def test_sentencepiece_is_padded_with_its_end_token(sentencepiece):
    end = sentencepiece.token_to_id("</s>")
    assert end != sentencepiece.token_to_id("<unk>")
    short, long = TextPreprocessor(sentencepiece, 8)(["sea", "the red balloon over the green sea"])
    assert short[-1] == end and long[-1] == end, "the last token is always </s>"
    pieces = sentencepiece.tokenize(tf.constant(["sea"]))[0]
    np.testing.assert_array_equal(short[: len(pieces)], pieces)
    assert (short[len(pieces) :] == end).numpy().all()
    assert (long[:-1] != end).numpy().all(), "cut, not shortened"


def test_sentencepiece_folds_case(sentencepiece):
    preprocessor = TextPreprocessor(sentencepiece, 8)
    np.testing.assert_array_equal(preprocessor("THE SEA"), preprocessor("the sea"))
    cased = TextPreprocessor(tokenizers.train_sentencepiece(CAPTIONS, 60, lowercase=False), 8)
    assert (cased("THE SEA") != cased("the sea")).numpy().any()


def test_wordpiece_has_berts_tokens():
    tokenizer = tokenizers.train_wordpiece(CAPTIONS, 80)
    assert tokenizer.get_vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = TextPreprocessor(tokenizer, 8)("a red BALLOON").numpy()
    assert ids[0] == 2 and 3 in ids and 1 not in ids


def byte_pairs(captions, size):
    letters = ["<|startoftext|>", "<|endoftext|>", *"abdeghlnorstwv", *"abdeghlnorstwv"]
    letters[16:] = [f"{letter}</w>" for letter in letters[16:]]
    merges = ["s e", "t h", "th e</w>", "se a</w>"]
    words = [*letters, *(merge.replace(" ", "") for merge in merges)]
    ids = {word: i for i, word in enumerate(words)}
    return keras_nlp.models.CLIPTokenizer(ids, merges, name="one")


def of_t5(captions, size):
    proto = tokenizers.train_sentencepiece(captions, size, pad_id=3).proto
    return keras_nlp.models.T5Tokenizer(proto)


@pytest.mark.parametrize(
    "make", [tokenizers.train_sentencepiece, tokenizers.train_wordpiece, byte_pairs, of_t5]
)
def test_the_configuration_holds_the_vocabulary(make):
    """As JSON, without the assets of a .keras file, and also where Keras trusts nobody's files."""
    preprocessor = TextPreprocessor(make(CAPTIONS, 60), 9)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(preprocessor)))
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(again.tokenizer) is type(preprocessor.tokenizer)
    expected = preprocessor(["the sea", "sea the"])
    assert len(np.unique(expected)) >= 3
    np.testing.assert_array_equal(again(["the sea", "sea the"]), expected)
    assert fingerprints.of_preprocessor(again) == fingerprints.of_preprocessor(preprocessor)


@pytest.mark.parametrize("train", [tokenizers.train_sentencepiece, tokenizers.train_wordpiece])
def test_captions_may_be_a_dataset(train):
    first = train(CAPTIONS, 60).get_vocabulary()
    assert first == train(tf.data.Dataset.from_tensor_slices(CAPTIONS), 60).get_vocabulary()


@pytest.mark.parametrize("train", [tokenizers.train_sentencepiece, tokenizers.train_wordpiece])
def test_drawn_captions_are_said_to_be_some_only(train):
    """Of `captions="random"`, whatever was done to the pairs since."""
    pairs = tf.data.Dataset.from_tensor_slices({"text": np.reshape(CAPTIONS, [6, 2])})
    drawn = draw(pairs).shuffle(9).map(lambda pair: pair["text"])
    with pytest.warns(UserWarning, match=r"captions are drawn.*`image_text_pairs\(.*\"all\""):
        train(drawn, 60)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*drawn")
        train(pairs.unbatch().shuffle(9), 40)


@pytest.mark.parametrize("train", [tokenizers.train_sentencepiece, tokenizers.train_wordpiece])
@pytest.mark.parametrize(
    ("captions", "message"), [([], "no captions"), (["a", 3], r"should be strings\. Received: 3")]
)
def test_bad_captions(train, captions, message):
    with pytest.raises(Exception, match=message):
        train(captions, 60)


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="could not train a vocabulary of 4"):
        tokenizers.train_sentencepiece(CAPTIONS, 4)


def test_a_seed_does_not_kill_the_vocabulary(sentencepiece):
    preprocessor = TextPreprocessor(sentencepiece, 8)
    before = preprocessor("the sea")
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(preprocessor("the sea"), before)
    other = TextPreprocessor(tokenizers.train_sentencepiece(CAPTIONS[:2] * 9, 40), 8)
    assert (other("the sea") != before).numpy().any(), "each vocabulary has its own table"


# Real captions of Tux Paint's stamps (the toucan, the onion, the electric guitar).
SCRIPTS = [
    "وإيكيدنا.",
    "الغيتار الكهربائي.",
    "גיטרה חשמלית.",
    "エレキギター",
    "たまねぎ！",
    "ひよこ",
    "电吉他。",
    "전자 기타.",
    "กีตาร์ไฟฟ้า",
    "एक इलेक्ट्रिक गिटार.",
    "ഒരു ഇലക്ട്രിക് ഗിറ്റാർ.",
    "ហ្គីតាអគ្គីសនី",
    "Μια ηλεκτρική κιθάρα.",
    "Một cây đàn ghi-ta điện.",
    "Elektro gitāra.",
]


def test_scripts_survive_normalisation():
    """Right-to-left, CJK, combining marks: NFKC and case folding, and nothing else."""
    tokenizer = tokenizers.train_sentencepiece(SCRIPTS * 4, 400, character_coverage=1.0)
    ids = tf.function(tokenizer.tokenize)(tf.constant(SCRIPTS))
    assert not (ids.flat_values == tokenizer.token_to_id("<unk>")).numpy().any()
    for text, back in zip(SCRIPTS, tf.function(tokenizer.detokenize)(ids).numpy(), strict=True):
        expected = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        assert back.decode() == expected


@pytest.mark.slow
def test_scripts_of_all_stamps_survive(stamps):
    examples = stamps.as_dataset(split="test").as_numpy_iterator()
    captions = [text.decode() for example in examples for text in example["captions"]["text"]]
    tokenizer = tokenizers.train_sentencepiece(captions, 8_000, character_coverage=1.0)
    ids = tf.function(tokenizer.tokenize)(tf.constant(captions))
    assert not (ids.flat_values == tokenizer.token_to_id("<unk>")).numpy().any()
    letters = 0
    for text, back in zip(captions, tf.function(tokenizer.detokenize)(ids).numpy(), strict=True):
        expected = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        letters += "".join(back.decode().split()) == "".join(expected.split())
    assert letters / len(captions) > 0.99


@pytest.mark.parametrize(
    ("train", "ending"),
    [(tokenizers.train_sentencepiece, "model"), (tokenizers.train_wordpiece, "txt")],
)
def test_a_file_gives_the_same_ids_everywhere(train, ending, tmp_path):
    trained = train(CAPTIONS, 80)
    path = tokenizers.save(trained, tmp_path / f"vocabulary.{ending}")
    assert tokenizers.load(path).get_vocabulary() == trained.get_vocabulary()
    preprocessor = TextPreprocessor(tokenizers.load(path), 8)
    texts = ["a red BALLOON", "two dogs", "naïve snow"]
    expected = TextPreprocessor(trained, 8)(texts).numpy()
    np.testing.assert_array_equal(preprocessor(texts), expected)
    mapped = tf.data.Dataset.from_tensor_slices(texts).batch(3).map(preprocessor)
    np.testing.assert_array_equal(next(iter(mapped)), expected)
    archive = keras.export.ExportArchive()
    archive.track(preprocessor)
    archive.add_endpoint(
        "serve", preprocessor.call, [tf.TensorSpec([None], tf.string, name="text")]
    )
    archive.write_out(str(tmp_path / "saved"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved")).serve(tf.constant(texts))
    np.testing.assert_array_equal(served, expected)


def test_the_file_is_the_stock_format(tmp_path):
    path = tokenizers.save(tokenizers.train_sentencepiece(CAPTIONS, 60), tmp_path / "v.model")
    stock = SentencePieceProcessor(model_file=str(path))
    np.testing.assert_array_equal(
        TextPreprocessor(tokenizers.load(path), 12)("the sea")[: len(stock.encode("the sea"))],
        stock.encode("the sea"),
    )
    path = tokenizers.save(tokenizers.train_wordpiece(CAPTIONS, 80), tmp_path / "v.txt")
    assert path.read_text().split("\n")[:3] == ["[PAD]", "[UNK]", "[CLS]"]


def test_a_cased_vocabulary(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Café", "cafe"]))
    for lowercase, expected in ((False, [5, 6]), (True, [6, 6])):
        preprocessor = TextPreprocessor(tokenizers.load(path, lowercase), 3)
        assert preprocessor(["Café", "cafe"]).numpy()[:, 1].tolist() == expected


def test_files_that_are_no_vocabularies(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "a.model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"BERT's tokens.*Missing: \['\[PAD\]'"):
        tokenizers.load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="should be a SentencePiece model"):
        tokenizers.load(tmp_path / "a.model")
    with pytest.raises(ValueError, match="'.model', '.txt'. Received: '.json'"):
        tokenizers.load(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        tokenizers.load(tmp_path / "none.model")
    with pytest.raises(ValueError, match="one of '.txt'. Received: '.model'"):
        tokenizers.save(tokenizers.train_wordpiece(CAPTIONS, 80), tmp_path / "v.model")
    with pytest.raises(ValueError, match="SentencePiece or WordPiece tokenizer. Received: Dense"):
        tokenizers.save(keras.layers.Dense(1), tmp_path / "v.model")
    words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n"
    (tmp_path / "words.txt").write_text(f"{words}\n\n", "utf-8-sig")  # As Windows' editor saves it.
    assert tokenizers.load(tmp_path / "words.txt")("a dog").tolist() == [5, 6]
    for content, message in (
        ((words + "a\n").encode(), "each token once. Received 'a' in the lines 6 and 8"),
        (words.encode("utf-16"), r"words\.txt should be UTF-8"),
    ):
        (tmp_path / "words.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            tokenizers.load(tmp_path / "words.txt")
    (tmp_path / "empty.model").write_bytes(b"")
    with pytest.raises(ValueError, match="should be a SentencePiece model: it is empty"):
        tokenizers.load(tmp_path / "empty.model")


CORPUS = [f"a small {c} {t} by the river" for c in COLOURS for t in THINGS]


def test_a_small_corpus_gets_words_and_not_letters():
    """Unigram's model would make 9 words some 20 pieces, of which a text tower cuts most."""
    with pytest.warns(UserWarning, match=r"a vocabulary of (\d+) pieces; 8000 were asked for") as w:
        tokenizer = tokenizers.train_sentencepiece(CORPUS, 8000)
    assert f" {tokenizer.vocabulary_size()} pieces" in str(w[0].message)
    assert len(tokenizer("a small red dog by the river")) == 7
    with pytest.warns(UserWarning, match="pieces"):
        letters = tokenizers.train_sentencepiece(CORPUS, 8000, model_type="unigram")
    assert len(letters("a small red dog by the river")) > 12


def test_a_corpus_with_fewer_wordpieces_than_asked_for():
    with pytest.warns(UserWarning, match=r"a vocabulary of (\d+) pieces; 8000 were asked for") as w:
        tokenizer = tokenizers.train_wordpiece(CORPUS, 8000)
    assert f" {tokenizer.vocabulary_size()} pieces" in str(w[0].message)


def test_a_vocabulary_as_large_as_asked_for_is_no_news():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = tokenizers.train_sentencepiece(CORPUS, 30)
    assert tokenizer.vocabulary_size() == 30


def test_pairs_give_their_text():
    pairs = tf.data.Dataset.from_tensor_slices(
        {"image": [b"\x89PNG"] * len(CORPUS), "text": CORPUS}
    )
    found, expected = (tokenizers.train_sentencepiece(x, 30) for x in (pairs, CORPUS))
    assert found.proto == expected.proto
    with pytest.raises(ValueError, match=r'^Pairs should have their captions as "text".{0,150}$'):
        tokenizers.train_sentencepiece([{"image": b"\x89PNG" * 999}])


@pytest.mark.parametrize("train", [tokenizers.train_sentencepiece, tokenizers.train_wordpiece])
def test_captions_are_found_in_pairs(train):
    captions = ["a red balloon over the sea", "a green balloon", "the sea and the sun"] * 3
    pairs = {"image": [b"\xff\xd8"] * 9, "text": captions}
    dataset = tf.data.Dataset.from_tensor_slices(pairs)
    expected = train(captions, 40).get_vocabulary()
    for given in (pairs, dataset, dataset.batch(4), dataset.as_numpy_iterator()):
        assert train(given, 40).get_vocabulary() == expected
    renamed = dataset.map(lambda x: {"image": x["image"], "caption": x["text"]})
    with pytest.raises(
        ValueError, match=r"Received: \['caption', 'image'\].*\"text\": x\[\"caption\"\]"
    ):
        train(renamed, 40)
    with pytest.raises(ValueError, match="a tuple of 2: map your dataset"):
        train(dataset.map(lambda x: (x["image"], x["text"])), 40)
    with pytest.raises(ValueError, match="several strings. Received one: 'a red"):
        train(captions[0], 40)

"""Released LiT models: what the authors' code computes from files of the same layout."""

import json

import keras
import numpy as np
import pytest

from keras_lit import checkpoints
from keras_lit.demo.pretrained import MINILM_FOLDER, MINILM_PACKAGE, package_file
from keras_lit.preprocessing import tokenizers
from tests.checkpoints.files import GOLDEN, RELEASES, arrays_of, renamed

TEXT = "lit_text_transformer"
BERT = "lit_bert_no_image_head"


def load(path, **options):
    return checkpoints.load_lit(path, text_heads=4, **options)


@pytest.mark.parametrize("name", RELEASES)
def test_embeddings_equal_the_authors(name):
    expected = np.load(GOLDEN / f"{name}_expected.npz")
    model = load(GOLDEN / f"{name}.npz")
    np.testing.assert_allclose(model.encode_image(expected["images"]), expected["zimg"], atol=1e-6)
    np.testing.assert_allclose(model.encode_text(expected["tokens"]), expected["ztxt"], atol=1e-6)
    np.testing.assert_array_equal(np.reshape(model.temperature, [1]), expected["temperature"])
    assert model.count_params() == RELEASES[name]["parameters"]
    np.testing.assert_allclose(model.get_config()["temperature"], expected["temperature"])


def old_layout(arrays):
    """As AugReg's files count their modules."""
    blocks = [name for name in arrays if "/encoderblock_" in name]
    old = renamed(
        {name: arrays[name] for name in blocks},
        ("LayerNorm_1", "LayerNorm_2"),
        ("MlpBlock_0", "MlpBlock_3"),
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
    )
    return {name: array for name, array in arrays.items() if name not in blocks} | old


def new_layout(arrays):
    """As big_vision keeps positions: the class token's is added to the token itself."""
    arrays = dict(arrays)
    positions = arrays.pop("img/Transformer/posembed_input/pos_embedding")
    arrays["img/pos_embedding"] = positions[:, 1:]
    arrays["img/cls"] = arrays["img/cls"] + positions[:, :1]
    return arrays


def positions_of_the_encoder(arrays):
    return renamed(arrays, ("posembed_input/", ""))


def doubled_positions(arrays):
    """As some old text towers had it."""
    positions = arrays["txt/pos_embedding"]
    halves = {"txt/pos_embedding": positions / 4, "txt/Encoder_0/pos_embedding": positions * 0.75}
    return {**arrays, **halves}


def training_checkpoint(arrays):
    """Beside the model the optimizer's state."""
    return {**{f"params/{name}": a for name, a in arrays.items()}, "opt/0/mu/t": np.zeros(1, "f")}


def old_training_checkpoint(arrays):
    return {**{f"opt/target/{name}": a for name, a in arrays.items()}, "opt/state/t": np.zeros(1)}


@pytest.mark.parametrize(
    "layout",
    [
        old_layout,
        new_layout,
        positions_of_the_encoder,
        doubled_positions,
        training_checkpoint,
        old_training_checkpoint,
    ],
)
def test_every_layout_gives_the_same(layout, tmp_path):
    expected = np.load(GOLDEN / f"{TEXT}_expected.npz")
    arrays = arrays_of(TEXT)
    changed = layout(arrays)
    assert set(changed) != set(arrays)
    np.savez(tmp_path / "lit.npz", **changed)
    model = load(tmp_path / "lit.npz")
    np.testing.assert_allclose(model.encode_image(expected["images"]), expected["zimg"], atol=1e-6)
    np.testing.assert_allclose(model.encode_text(expected["tokens"]), expected["ztxt"], atol=1e-6)


def test_two_layouts_at_once_are_refused(tmp_path):
    arrays = arrays_of(TEXT)
    np.savez(tmp_path / "lit.npz", **old_layout(arrays) | arrays)
    with pytest.raises(ValueError, match=r"encoderblock_0/.*encoderblock_0/.* the same array"):
        load(tmp_path / "lit.npz")


def test_half_precision(tmp_path):
    arrays = {name: array.astype("float16") for name, array in arrays_of(TEXT).items()}
    np.savez(tmp_path / "lit.npz", **arrays)
    model = load(tmp_path / "lit.npz")
    value = model.image_tower.backbone.get_layer("patch_embedding").cls.numpy()
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, arrays["img/cls"])


def test_another_resolution_resamples_the_positions(tmp_path):
    """4 x 4 positions that are linear in both directions stay so on 7 x 7."""
    arrays = arrays_of(TEXT)
    shift = arrays["img/Transformer/posembed_input/pos_embedding"][:, :1]
    x, y = np.meshgrid(np.arange(4.0), np.arange(4.0))
    linear = (x[..., None] * np.linspace(1, 2, 40) - y[..., None] * 3).reshape(1, 16, 40)
    positions = np.concatenate([shift, linear], axis=1).astype("float32")
    arrays["img/Transformer/posembed_input/pos_embedding"] = positions
    np.savez(tmp_path / "lit.npz", **arrays)
    model = load(tmp_path / "lit.npz", image_size=56)
    assert model.image_tower.preprocessor.image_size == (56, 56)
    x, y = np.meshgrid(np.arange(7) / 2, np.arange(7) / 2)
    wanted = (x[..., None] * np.linspace(1, 2, 40) - y[..., None] * 3).reshape(49, 40)
    found = model.image_tower.backbone.get_layer("patch_embedding").position_embedding.numpy()[0]
    np.testing.assert_array_equal(found[:1], shift[0])
    np.testing.assert_allclose(found[1:], wanted, atol=1e-5)
    assert model.encode_image(np.zeros([1, 56, 56, 3], "float32")).shape == (1, 40)


@pytest.mark.slow
def test_three_steps_of_fit_change_the_text_tower_only():
    rng = np.random.default_rng(0)
    model = load(GOLDEN / "lit_bert_image_head.npz")
    image = rng.uniform(-1, 1, [12, 32, 32, 3]).astype("float32")
    pairs = {"image": image, "text": rng.integers(1, 97, [12, 16])}
    before = [weight.numpy() for weight in model.image_tower.weights]
    text = {weight.path: weight.numpy() for weight in model.text_tower.trainable_weights}
    model.compile("sgd")
    trained = {id(weight) for weight in model.trainable_weights}
    assert trained and not trained & {id(weight) for weight in model.image_tower.weights}
    model.fit(pairs, batch_size=4, verbose=0)
    for weight, old in zip(model.image_tower.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    same = [w.path for w in model.text_tower.weights if (w.numpy() == text[w.path]).all()]
    # A bias of all keys changes no attention, so that its gradient is 0.
    assert [path for path in same if not path.endswith("key/bias")] == []


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("LiT-B16B", 195_871_489),
        ("LiT-B16B_2", 195_280_897),
        ("LiT-L16L", 638_443_521),
        ("LiT-L16S", 331_140_353),
        ("LiT-L16Ti", 311_913_089),
    ],
)
def test_parameters_of_the_released(name, count):
    with keras.StatelessScope(initialize_variables=False):
        model = checkpoints.architecture(name)
    keras.utils.clear_session()  # Or the next scope would make the variables.
    assert model.count_params() == count
    assert model.image_tower.preprocessor.image_size == (224, 224)
    assert model.text_tower.sequence_length == 16


@pytest.mark.parametrize("name", checkpoints.RELEASED)
def test_names_resolve_to_the_authors_files(name, monkeypatch, tmp_path):
    fetched = []

    def get_file(file, origin, cache_dir, cache_subdir):
        fetched.append(origin)
        return f"{cache_dir}/{cache_subdir}/{file}"

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    assert checkpoints.fetch(name, tmp_path) == tmp_path / "lit" / f"{name}.npz"
    vocabulary = {"S": "model", "i": "model"}.get(name[-1], "txt")
    assert sorted(fetched) == sorted(
        f"https://storage.googleapis.com/vit_models/lit/{name}.{suffix}"
        for suffix in ("npz", vocabulary)
    )
    monkeypatch.setenv("KERAS_LIT_CACHE", str(tmp_path / "cache"))
    assert checkpoints.fetch(name) == tmp_path / "cache" / "lit" / f"{name}.npz"
    with pytest.raises(FileNotFoundError, match=rf"download it .*load_lit\('{name}'\)"):
        checkpoints.load_lit(tmp_path / f"{name}.npz")


def test_a_released_name_is_fetched(monkeypatch, tmp_path):
    path = tmp_path / "LiT-L16Ti.npz"
    path.write_bytes((GOLDEN / f"{TEXT}.npz").read_bytes())
    monkeypatch.setattr(checkpoints.load_and_save, "fetch", lambda name, cache_dir: path)
    assert checkpoints.load_lit("LiT-L16Ti").text_tower.embedding_dim == 40
    with pytest.raises(ValueError, match="`name` should be one of 'LiT-B16B'"):
        checkpoints.fetch("LiT-B32B")


def test_a_released_name_tells_the_heads_of_bert(monkeypatch, tmp_path):
    path = tmp_path / "LiT-B16B_2.npz"
    path.write_bytes((GOLDEN / f"{BERT}.npz").read_bytes())
    made = checkpoints.RELEASED["LiT-B16B_2"]
    assert made.text_heads == 12 and checkpoints.RELEASED["LiT-L16L"].text_heads == 16
    with pytest.raises(ValueError, match="divisible by `num_heads`. Received: 40 and 12"):
        checkpoints.load_lit(path)
    with pytest.raises(ValueError, match="Pass `text_heads`"):
        checkpoints.load_lit(GOLDEN / f"{BERT}.npz")


def test_a_vocabulary_beside_a_bert(tmp_path):
    """Lower case without accents, [CLS], no [SEP], 0 after the end."""
    (tmp_path / "lit.npz").write_bytes((GOLDEN / f"{BERT}.npz").read_bytes())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cafe", "##s"]
    (tmp_path / "lit.txt").write_text("\n".join(words))
    model = load(tmp_path / "lit.npz")
    token_ids = model.text_tower.preprocessor(["A DOG", "Cafés", "a " * 20]).numpy()
    assert token_ids.tolist() == [[2, 5, 6] + [0] * 13, [2, 7, 8] + [0] * 13, [2] + [5] * 15]
    np.testing.assert_array_equal(
        model.encode_text(["a dog"]), model.encode_text(np.array(token_ids[:1]))
    )


def test_a_vocabulary_of_another_kind_is_refused(tmp_path):
    (tmp_path / "lit.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"tokenizer's ending.*'.txt'.*Received: '.model'"):
        load(GOLDEN / f"{BERT}.npz", tokenizer=tmp_path / "lit.model")


def test_a_vocabulary_beside_a_text_transformer(tmp_path):
    """Lower case, at most 15 pieces, `</s>` after the end."""
    (tmp_path / "lit.npz").write_bytes((GOLDEN / f"{TEXT}.npz").read_bytes())
    trained = tokenizers.train_sentencepiece(["a dog", "a cat by the sea"] * 9, 40, lowercase=False)
    (tmp_path / "lit.model").write_bytes(trained.proto)
    with pytest.warns(UserWarning, match="40 words, and .*lit.npz embeddings of 97"):
        model = load(tmp_path / "lit.npz")
    end = trained.token_to_id("</s>")
    short, long = model.text_tower.preprocessor(["A DOG", "a dog " * 9]).numpy()
    expected = trained("a dog").tolist()
    assert short.tolist() == expected + [end] * (16 - len(expected))
    assert end not in long[:15] and long[15] == end
    again = load(GOLDEN / f"{TEXT}.npz", tokenizer=tmp_path / "lit.model")
    np.testing.assert_array_equal(again.encode_text(["a dog"]), model.encode_text(["a dog"]))


@pytest.mark.slow
def test_berts_vocabulary_gives_the_authors_token_ids(tmp_path):
    """The standard vocabulary beside a small BERT with as many words."""
    vocabulary = package_file(MINILM_PACKAGE, f"{MINILM_FOLDER}/vocab.txt")
    (tmp_path / "lit.txt").write_bytes(vocabulary.read_bytes())
    arrays = arrays_of(BERT)
    arrays["txt/BertEncoder_0/embedder/embedders_token_ids/embedding"] = np.zeros([30_522, 40], "f")
    np.savez(tmp_path / "lit.npz", **arrays)
    texts = json.loads((GOLDEN / "preprocessing.json").read_text())["texts"]
    expected = np.load(GOLDEN / "preprocessing.npz")["token_ids"]
    found = load(tmp_path / "lit.npz").text_tower.preprocessor(texts)
    np.testing.assert_array_equal(found, expected)

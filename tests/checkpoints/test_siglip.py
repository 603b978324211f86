"""SigLIP and SigLIP 2: two towers with attention pooling, blocks one by one or stacked.

The network is written out in NumPy, after big_vision's `models/vit.py` and `text_transformer.py`.
"""

import io

import keras
import keras_nlp
import numpy as np
import pytest
import sentencepiece

from keras_lit import checkpoints

WIDTH, HEADS, INNER, DEPTH, WORDS, LENGTH, PATCH, GRID = 12, 3, 20, 3, 30, 8, 4, 3
RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, [2, 12, 12, 3]).astype("uint8")
TOKENS = RNG.integers(0, WORDS, [3, LENGTH])


def numbers(*shape):
    return RNG.normal(0.2, 0.4, shape).astype("float32")


def dense(name, *shape):
    return {f"{name}/kernel": numbers(*shape), f"{name}/bias": numbers(*shape[1:])}


def norm(name):
    return {f"{name}/scale": numbers(WIDTH), f"{name}/bias": numbers(WIDTH)}


def attention_and_mlp(name):
    head = WIDTH // HEADS
    inner = f"{name}/MultiHeadDotProductAttention_0"
    out = {f"{inner}/out/kernel": numbers(HEADS, head, WIDTH), f"{inner}/out/bias": numbers(WIDTH)}
    for part in ("query", "key", "value"):
        out |= dense(f"{inner}/{part}", WIDTH, HEADS, head)
    out |= dense(f"{name}/MlpBlock_0/Dense_0", WIDTH, INNER) | norm(f"{name}/LayerNorm_0")
    return out | dense(f"{name}/MlpBlock_0/Dense_1", INNER, WIDTH)


def blocks(name):
    found = norm(f"{name}/encoder_norm")
    for i in range(DEPTH):
        found |= attention_and_mlp(f"{name}/encoderblock_{i}")
        found |= norm(f"{name}/encoderblock_{i}/LayerNorm_1")
    return found


ARRAYS = {
    **dense("img/embedding", PATCH, PATCH, 3, WIDTH),
    "img/embedding/bias": numbers(WIDTH),
    "img/pos_embedding": numbers(1, GRID**2, WIDTH),
    **blocks("img/Transformer"),
    "img/MAPHead_0/probe": numbers(1, 1, WIDTH),
    **attention_and_mlp("img/MAPHead_0"),
    "txt/Embed_0/embedding": numbers(WORDS, WIDTH),
    "txt/pos_embedding": numbers(1, LENGTH, WIDTH),
    **blocks("txt/Encoder_0"),
    **dense("txt/head", WIDTH, WIDTH),
    "t": np.array([2.3], "float32"),
    "b": np.array([-10.0], "float32"),
}


def scanned(arrays):
    """As `nn.scan` keeps them: one array for all blocks, stacked along the first axis."""
    found = {}
    for name, array in arrays.items():
        if "/encoderblock_0/" in name:
            rest = [arrays[name.replace("block_0", f"block_{i}")] for i in range(1, DEPTH)]
            found[name.replace("block_0", "block")] = np.stack([array, *rest])
        elif "/encoderblock_" not in name:
            found[name] = array
    return found


def normed(x, arrays, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def attended(queries, keys, arrays, name):
    query, key, value = (
        np.einsum("nld,dhk->nhlk", x, arrays[f"{name}/{part}/kernel"])
        + arrays[f"{name}/{part}/bias"][:, np.newaxis]
        for x, part in ((queries, "query"), (keys, "key"), (keys, "value"))
    )
    weights = np.exp(query @ key.swapaxes(2, 3) / np.sqrt(WIDTH / HEADS))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return (
        np.einsum("nhlk,hkd->nld", mixed, arrays[f"{name}/out/kernel"]) + arrays[f"{name}/out/bias"]
    )


def mlp(x, arrays, name):
    x = x @ arrays[f"{name}/Dense_0/kernel"] + arrays[f"{name}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ arrays[f"{name}/Dense_1/kernel"] + arrays[f"{name}/Dense_1/bias"]


def encoded(x, arrays, name):
    for i in range(DEPTH):
        block = f"{name}/encoderblock_{i}"
        y = normed(x, arrays, f"{block}/LayerNorm_0")
        x = x + attended(y, y, arrays, f"{block}/MultiHeadDotProductAttention_0")
        x = x + mlp(normed(x, arrays, f"{block}/LayerNorm_1"), arrays, f"{block}/MlpBlock_0")
    return normed(x, arrays, f"{name}/encoder_norm")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of_images(arrays):
    a = {name: array.astype("float64") for name, array in arrays.items()}
    x = (IMAGES / 127.5 - 1).reshape(2, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3)
    x = x.reshape(2, GRID**2, -1) @ a["img/embedding/kernel"].reshape(-1, WIDTH)
    x = encoded(x + a["img/embedding/bias"] + a["img/pos_embedding"], a, "img/Transformer")
    probe = np.repeat(a["img/MAPHead_0/probe"], 2, axis=0)
    x = attended(probe, x, a, "img/MAPHead_0/MultiHeadDotProductAttention_0")
    return unit(
        (x + mlp(normed(x, a, "img/MAPHead_0/LayerNorm_0"), a, "img/MAPHead_0/MlpBlock_0"))[:, 0]
    )


def of_texts(arrays):
    a = {name: array.astype("float64") for name, array in arrays.items()}
    x = encoded(a["txt/Embed_0/embedding"][TOKENS] + a["txt/pos_embedding"], a, "txt/Encoder_0")
    return unit(x[:, -1] @ a["txt/head/kernel"] + a["txt/head/bias"])


def saved(folder, arrays, name="siglip.npz"):
    np.savez(folder / name, **arrays)
    return folder / name


def check_embeddings(model):
    np.testing.assert_allclose(model.encode_image(IMAGES), of_images(ARRAYS), atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TOKENS), of_texts(ARRAYS), atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_embeddings_equal_the_network_in_numpy(scan, tmp_path):
    arrays = scanned(ARRAYS) if scan else ARRAYS
    assert any("encoderblock/" in name for name in arrays) == scan
    model = checkpoints.load_lit(saved(tmp_path, arrays))
    check_embeddings(model)
    assert model.loss_name == "sigmoid"
    np.testing.assert_allclose([model.temperature, model.bias], [np.exp(2.3), -10], rtol=1e-6)
    checkpoints.save_lit(model, tmp_path / "again.npz", scan=scan)
    with np.load(tmp_path / "again.npz") as again:
        assert set(again) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array)


def test_one_tower_may_be_stacked_and_in_16_bits(tmp_path):
    image = {name: array for name, array in ARRAYS.items() if name.startswith("img/")}
    half = {name: array.astype("float16") for name, array in scanned(image).items()}
    tower = checkpoints.load_image_tower(saved(tmp_path, half))
    expected = of_images({name: array.astype("float16") for name, array in image.items()})
    found = tower(tower.preprocessor(IMAGES))
    np.testing.assert_allclose(unit(np.array(found)), expected, atol=1e-5)
    mixed = scanned(image) | {name: a for name, a in ARRAYS.items() if name not in image}
    check_embeddings(checkpoints.load_lit(saved(tmp_path, mixed)))


def test_a_training_checkpoint(tmp_path):
    """The optimizer's state and counters are passed over, whatever is in them."""
    arrays = {f"params/{name}": array for name, array in scanned(ARRAYS).items()}
    arrays |= {f"opt/0/mu/{name}": np.full_like(a, np.nan) for name, a in ARRAYS.items()}
    arrays |= {"opt/0/count": np.int32(4), "chrono/accum_examples_seen": np.array([9])}
    check_embeddings(checkpoints.load_lit(saved(tmp_path, arrays)))
    arrays = {f"opt/target/{name}": array for name, array in ARRAYS.items()}
    check_embeddings(
        checkpoints.load_lit(saved(tmp_path, arrays | {"opt/state/step": np.int64(4)}))
    )


def test_scalars_without_an_axis_and_a_step(tmp_path):
    scalars = {"t": np.float32(2.3), "b": np.float32(-10), "step": np.int32(7)}
    model = checkpoints.load_lit(saved(tmp_path, ARRAYS | scalars))
    np.testing.assert_allclose([model.temperature, model.bias], [np.exp(2.3), -10], rtol=1e-6)


def without(*names):
    return {name: array for name, array in ARRAYS.items() if name not in names}


def towers(*prefixes):
    return {name: array for name, array in ARRAYS.items() if name.startswith(prefixes)}


KERNEL = "img/Transformer/encoderblock/LayerNorm_0/scale"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            lambda: ARRAYS | {"img/pos_embedding": numbers(GRID, GRID, WIDTH)},
            r"'img/pos_embedding' should have .* \(3, 3, 12\).*NaFlex.*siglip2_b16_256.npz",
        ),
        (lambda: ARRAYS | {"img/embedding/kernel": numbers(48, WIDTH)}, "NaFlex"),
        (lambda: without("img/pos_embedding"), "lacks 'img/pos_embedding'.*sincos2d"),
        (lambda: towers("img/"), r"siglip.npz should hold two.*load_image_tower\('.*siglip.npz'"),
        (
            lambda: {name[4:]: array for name, array in towers("img/").items()},
            r"image tower alone: load it with `load_image_tower\('",
        ),
        (lambda: towers("txt/"), "Received .* arrays, the first .'txt/Embed_0/embedding'"),
        (
            lambda: ARRAYS | {"t": np.float32(10_000.0)},
            "'t' of .*siglip.npz should be the logarithm.*below 10,000. Received: 10000",
        ),
        (lambda: ARRAYS | {"t": np.float32(-200.0)}, "should be the logarithm.*Received: -200"),
        (lambda: ARRAYS | {"t": np.array([2])}, "refused at 't': it should hold floats"),
        (
            lambda: scanned(ARRAYS) | {KERNEL: numbers(DEPTH - 1, WIDTH)},
            "Missing: 'img/Transformer/encoderblock_2/LayerNorm_0/scale'",
        ),
        (lambda: ARRAYS | {KERNEL: numbers(DEPTH, WIDTH)}, "same array in different layouts"),
    ],
)
def test_what_does_not_load_says_why(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        checkpoints.load_lit(saved(tmp_path, arrays()))


def test_the_wrong_loader_names_the_right_one(tmp_path):
    with pytest.raises(ValueError, match=r"two towers.*load_lit\('.*siglip.npz'\).image_tower"):
        checkpoints.load_image_tower(saved(tmp_path, ARRAYS))
    with pytest.raises(ValueError, match=r"siglip.npz holds no head. Pass `head=False`"):
        checkpoints.load_image_tower(saved(tmp_path, towers("img/")), head=True)
    keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]).save(tmp_path / "tower.keras")
    with pytest.raises(ValueError, match=r"tower.keras is refused.*keras.saving.load_model"):
        checkpoints.load_lit(tmp_path / "tower.keras")
    np.savez(tmp_path / "torch.pt.npz", **{"archive/data": np.zeros(1)})
    content = (
        (tmp_path / "torch.pt.npz").read_bytes().replace(b"archive/data.npy", b"archive/data.pkl")
    )
    (tmp_path / "torch.pt").write_bytes(content)
    with pytest.raises(ValueError, match="torch.pt is refused.*a file of PyTorch"):
        checkpoints.load_image_tower(tmp_path / "torch.pt")


def vocabulary(**options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a dog by the sea", "the sea"] * 5),
        model_writer=out,
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
        user_defined_symbols=["</s>"] if options.get("eos_piece") else [],
        **options,
    )
    return out.getvalue()


def test_gemmas_vocabulary_ends_with_its_own_piece(tmp_path):
    """Lower case, no <bos>, padded with <eos>, though a `</s>` is among the words."""
    pieces = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
    proto = vocabulary(pad_id=0, eos_id=1, bos_id=2, unk_id=3, **pieces)
    (tmp_path / "siglip.model").write_bytes(proto)
    words = sentencepiece.SentencePieceProcessor(model_proto=proto)
    arrays = ARRAYS | {"txt/Embed_0/embedding": numbers(words.get_piece_size(), WIDTH)}
    assert words.piece_to_id("</s>") != 1
    dog = words.encode("a dog")
    gemma = keras_nlp.tokenizers.SentencePieceTokenizer(proto=proto, add_bos=False)
    for tokenizer in (None, gemma):  # Beside the file, and by itself.
        model = checkpoints.load_lit(saved(tmp_path, arrays), tokenizer=tokenizer)
        short, long = model.text_tower.preprocessor(["A DOG", "the sea " * 9]).numpy()
        assert short.tolist() == (dog + [1] * LENGTH)[:LENGTH] and len(dog) < LENGTH
        assert long[-1] == 1 and (long[:-1] > 3).all()


def test_a_vocabulary_without_an_end_is_refused(tmp_path):
    (tmp_path / "siglip.model").write_bytes(vocabulary(eos_id=-1))
    with pytest.raises(ValueError, match="no token for the end of a text"):
        checkpoints.load_lit(saved(tmp_path, ARRAYS))

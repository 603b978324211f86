import pathlib

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import ImageTower, TextTower
from keras_lit.backbones import AttentionPooling, TextTransformer, VisionTransformer
from keras_lit.backbones.text_transformer import gelu_tanh
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.preprocessing.tokenizers import train_sentencepiece
from tests import small

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)


def flax_block(block, prefix):
    """(Keras variable, key in the golden file) of one transformer block."""
    attention = {"query": "query", "key": "key", "value": "value", "attention_output": "out"}
    for ours, theirs in attention.items():
        for part in ("kernel", "bias"):
            key = f"{prefix}/MultiHeadDotProductAttention_0/{theirs}/{part}"
            yield f"self_attention_layer/{ours}/{part}", key
    for ours, theirs in {"self_attention": "0", "feedforward": "1"}.items():
        for part, scale in (("gamma", "scale"), ("beta", "bias")):
            yield f"{ours}_layer_norm/{part}", f"{prefix}/LayerNorm_{theirs}/{scale}"
    for ours, theirs in {"intermediate": "0", "output": "1"}.items():
        for part in ("kernel", "bias"):
            yield f"feedforward_{ours}_dense/{part}", f"{prefix}/MlpBlock_0/Dense_{theirs}/{part}"


@pytest.mark.parametrize("pooling", [None, "last"])
def test_text_transformer_equals_the_reference(pooling):
    golden = np.load(GOLDEN / "text_transformer.npz")
    backbone = TextTransformer(64, 12, 40, 2, 80, 4, pooling=pooling)
    tower = TextTower(backbone, sequence_length=12, projection_dim=24)
    keys = {
        "token_and_position_embedding/token_embedding/embeddings": "Embed_0/embedding",
        "token_and_position_embedding/position_embedding/embeddings": "pos_embedding",
        "layer_norm/gamma": "Encoder_0/encoder_norm/scale",
        "layer_norm/beta": "Encoder_0/encoder_norm/bias",
        "head/kernel": "head/kernel",
        "head/bias": "head/bias",
    }
    for i in range(2):
        for ours, theirs in flax_block(i, f"Encoder_0/encoderblock_{i}"):
            keys[f"transformer_layer_{i}/{ours}"] = theirs
    assert {variable.path for variable in tower.variables} == set(keys)
    assert {f"params/{key}" for key in keys.values()} | {"output"} == set(golden)
    for variable in tower.variables:
        variable.assign(golden[f"params/{keys[variable.path]}"].reshape(variable.shape))
    text = np.load(GOLDEN / "inputs.npz")["text"]
    np.testing.assert_allclose(tower(text), golden["output"], atol=1e-5)


def gradients_at(backbone, token_ids, position):
    with tf.GradientTape() as tape:
        states = backbone(token_ids)
        states = states if position is None else states[:, position]
        loss = tf.reduce_sum(states * tf.linspace(0.0, 1.0, states.shape[-1]))
    return states, [tf.convert_to_tensor(g) for g in tape.gradient(loss, backbone.weights)]


@pytest.mark.parametrize(("pooling", "position"), [("first", 0), ("last", -1)])
def test_a_backbone_that_pools_equals_stock_blocks(pooling, position):
    ours = TextTransformer(50, 9, 12, 2, 20, 3, pooling=pooling)
    stock = TextTransformer(50, 9, 12, 2, 20, 3)
    for layer in stock.layers:
        if isinstance(layer, keras_nlp.layers.TransformerEncoder):
            layer.call = keras_nlp.layers.TransformerEncoder.call.__get__(layer)
    for weight in ours.weights:
        weight.assign(RNG.normal(size=weight.shape, scale=0.5))
    stock.set_weights(ours.get_weights())
    token_ids = RNG.integers(0, 50, [4, 7])
    actual, expected = gradients_at(ours, token_ids, None), gradients_at(stock, token_ids, position)
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
    for gradient, wanted in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=2e-5)
    again = type(ours).from_config(ours.get_config())
    again.set_weights(ours.get_weights())
    np.testing.assert_array_equal(again(token_ids), actual[0])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5), ("bfloat16", 0.01)]
)
def test_a_wide_gelu_that_trains_is_compiled_and_equals_its_formula(dtype, tolerance):
    values = RNG.normal(size=[3, 1024], scale=3)
    values[0, :4] = 0, 30, -30, 1e4
    scale = RNG.normal(size=values.shape)

    @tf.function(input_signature=[tf.TensorSpec([None, 1024], dtype)] * 2)
    def ours(x, scale):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gelu_tanh(x)
        return y, tape.gradient(y, x, scale)

    # Where it only infers it is Keras' own, which TensorFlow joins with the product before.
    inference = tf.function(gelu_tanh).get_concrete_function(tf.TensorSpec([None, 1024], dtype))
    graphs = ours.get_concrete_function().graph, inference.graph
    attributes = [[op.node_def.attr for op in graph.get_operations()] for graph in graphs]
    assert [sum("_XlaMustCompile" in x for x in found) for found in attributes] == [2, 0]
    x, scale = tf.cast(values, dtype), tf.cast(scale, dtype)
    exact, weights = tf.cast(x, "float64"), tf.cast(scale, "float64")
    with tf.GradientTape() as tape:
        tape.watch(exact)
        cubed = exact + 0.044715 * exact**3
        expected = exact / 2 * (1 + tf.tanh(np.sqrt(2 / np.pi) * cubed))
    expected = expected, tape.gradient(expected, exact, weights)
    for found, wanted in zip(ours(x, scale), expected, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(tf.cast(found, "float64"), wanted, tolerance, tolerance)


def test_a_wide_tower_that_trains_equals_stock_blocks():
    """As in a step of `fit`, with a batch of unknown size."""
    ours, stock = (TextTransformer(20, 3, 8, 2, 1024, 2) for _ in range(2))
    for layer in stock.layers:
        if isinstance(layer, keras_nlp.layers.TransformerEncoder):
            dense = layer._feedforward_intermediate_dense
            dense.activation = lambda x: keras.ops.gelu(x, approximate=True)
    for weight in ours.weights:
        weight.assign(RNG.normal(size=weight.shape, scale=0.5))
    stock.set_weights(ours.get_weights())
    token_ids = RNG.integers(0, 20, [4, 3])
    spec = tf.TensorSpec([None, 3], "int64")
    steps = [tf.function(lambda x, t=t: gradients_at(t, x, -1)[1], [spec]) for t in (ours, stock)]
    names = [weight.path for weight in ours.weights]
    for name, gradient, wanted in zip(names, *(step(token_ids) for step in steps), strict=True):
        if not name.endswith("key/bias"):  # Rounding errors only.
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(gradient, wanted, 0, 1e-5 * scale, err_msg=name)


def numpy_attention_pooling(x, weights, mask=None):
    """big_vision's MAPHead, written down once more with nothing but NumPy."""

    def norm(x, scale, bias):
        deviation = x - x.mean(-1, keepdims=True)
        return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-6) * scale + bias

    q = (
        np.einsum("d,dhk->hk", weights["probe"][0, 0], weights["query/kernel"])
        + weights["query/bias"]
    )
    k = np.einsum("nld,dhk->nlhk", x, weights["key/kernel"]) + weights["key/bias"]
    v = np.einsum("nld,dhk->nlhk", x, weights["value/kernel"]) + weights["value/bias"]
    scores = np.einsum("hk,nlhk->nhl", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask[:, None], scores, -1e9)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    out = np.einsum("nhl,nlhk->nhk", scores, v)
    out = np.einsum("nhk,hkd->nd", out, weights["attention_output/kernel"])
    out = out + weights["attention_output/bias"]
    y = norm(out, weights["layer_norm/gamma"], weights["layer_norm/beta"])
    y = y @ weights["dense_0/kernel"] + weights["dense_0/bias"]
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return out + y @ weights["dense_1/kernel"] + weights["dense_1/bias"]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_pooling_equals_numpy(masked):
    layer = AttentionPooling(num_heads=2, name="attention_pooling")
    x = RNG.normal(size=(3, 5, 8)).astype("float32")
    mask = np.arange(5) < np.array([[5], [2], [4]]) if masked else None
    layer.build(x.shape)
    weights = {}
    for variable in layer.variables:
        value = RNG.normal(size=variable.shape).astype("float32")
        variable.assign(value)
        name = "/".join(variable.path.split("/")[-2:])
        weights[name.removeprefix("attention_pooling/")] = value
    expected = numpy_attention_pooling(x, weights, mask)
    np.testing.assert_allclose(layer(x, mask=mask), expected, rtol=2e-4, atol=2e-4)


def image_backbone(outputs):
    """A model from [b, 8, 8, 3] whose output is the first 4 * k numbers of the image, as given."""
    image = keras.Input([8, 8, 3])
    return keras.Model(image, outputs(image))


def test_image_poolings_against_numpy():
    images = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    grid = image_backbone(lambda x: x[:, :4, :2] * 2.0)
    tokens = image_backbone(lambda x: x[:, 0] * 2.0)
    vector = image_backbone(lambda x: x[:, 0, 0] * 2.0)
    expected = {
        (grid, "auto"): images[:, :4, :2].mean((1, 2)) * 2,
        (grid, "mean"): images[:, :4, :2].mean((1, 2)) * 2,
        (grid, "max"): images[:, :4, :2].max((1, 2)) * 2,
        (tokens, "first"): images[:, 0, 0] * 2,
        (tokens, "mean"): images[:, 0].mean(1) * 2,
        (vector, "auto"): images[:, 0, 0] * 2,
    }
    for (backbone, pooling), value in expected.items():
        tower = ImageTower(backbone, pooling)
        assert tower.embedding_dim == 3 and tower.preprocessor.image_size == (8, 8)
        np.testing.assert_allclose(tower(images), value, rtol=1e-5)


def test_pyramids_give_their_coarsest_level():
    backbone = image_backbone(lambda x: {"P3": x[:, :2], "P4": x[:, 2:4] * 3.0, "P5": x[:, 4:5]})
    images = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(ImageTower(backbone)(images), images[:, 4:5].mean((1, 2)), rtol=1e-5)


def test_class_token_families_are_known():
    vit = keras_nlp.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    tower = ImageTower(vit)
    images = RNG.normal(size=(2, 16, 16, 3)).astype("float32")
    assert tower.pooling == "first"
    np.testing.assert_allclose(tower(images), vit(images)[:, 0], rtol=1e-5)
    dino = keras_nlp.models.DINOV2Backbone(8, 1, 8, 2, 16, image_shape=(16, 16, 3))
    assert ImageTower(dino).pooling == "first"


def test_unknown_token_sequences_are_refused_by_auto():
    with pytest.raises(ValueError, match=r"'auto' does not know Functional.*Choose one of 'mean'"):
        ImageTower(image_backbone(lambda x: x[:, 0] * 2.0))


def test_auto_asks_for_the_class_token():
    vit = VisionTransformer(16, 8, 8, 1, 16, 2)
    assert ImageTower(vit).pooling == "first"
    with pytest.raises(ValueError, match="'auto' does not know VisionTransformer"):
        ImageTower(VisionTransformer(16, 8, 8, 1, 16, 2, class_token=False))


def test_attention_pooling_has_the_heads_of_the_backbone():
    layer = ImageTower(VisionTransformer(16, 8, 8, 1, 20, 2), "map").attention_pooling
    assert (layer.num_heads, layer.intermediate_dim) == (2, 20)
    layer = ImageTower(image_backbone(lambda x: x[:, 0] * 2.0), "map").attention_pooling
    assert (layer.num_heads, layer.intermediate_dim) == (1, None)


def test_features_of_arrays():
    tower = TextTower(text_backbone(padding_mask=True), sequence_length=3, pooling="last")
    np.testing.assert_array_equal(tower.features(np.array([[7, 9, 0]])), [[9, 18]])


def test_the_end_of_a_text_is_its_highest_id():
    tower = TextTower(text_backbone(padding_mask=False), sequence_length=4, pooling="end")
    np.testing.assert_array_equal(tower(np.array([[7, 9, 0, 0], [1, 2, 3, 9]])), [[9, 18]] * 2)


@pytest.mark.parametrize(
    ("outputs", "pooling", "message"),
    [
        (lambda x: x[:, 0, 0] * 2.0, "mean", "does not fit the output of shape"),
        (lambda x: x[:, 0] * 2.0, "none", "does not fit the output of shape"),
        (lambda x: x * 2.0, "first", "is for token sequences"),
        (lambda x: x * 2.0, "average", "`pooling` should be one of 'auto', 'mean'"),
        (lambda x: {"a": x * 2.0, "b": x}, "auto", r"call them 'P2'.*Received: a, b"),
    ],
)
def test_unfit_pooling(outputs, pooling, message):
    with pytest.raises(ValueError, match=message):
        ImageTower(image_backbone(outputs), pooling)


def text_backbone(padding_mask):
    """Token ids -> [id, 2 * id] at each position."""
    ids = keras.Input([None], dtype="int32", name="token_ids")
    states = keras.ops.stack([keras.ops.cast(ids, "float32")] * 2, -1) * np.array([1.0, 2.0], "f")
    if not padding_mask:
        return keras.Model(ids, states)
    mask = keras.Input([None], dtype="int32", name="padding_mask")
    return keras.Model({"token_ids": ids, "padding_mask": mask}, states)


@pytest.mark.parametrize(
    ("pooling", "masked", "expected"),
    [
        ("first", True, [[5, 10], [7, 14]]),
        ("last", True, [[9, 18], [4, 8]]),
        ("last", False, [[0, 0], [4, 8]]),
        ("mean", True, [[7, 14], [4.5, 9]]),
        ("mean", False, [[7, 14], [4.5, 9]]),
        ("max", False, [[9, 18], [7, 14]]),
        ("max", True, [[9, 18], [7, 14]]),
    ],
)
def test_text_poolings_look_at_real_tokens_only(pooling, masked, expected):
    tower = TextTower(text_backbone(masked), sequence_length=4, pooling=pooling)
    ids = np.array([[5, 9, 0, 0], [7, 6, 1, 4]], "int32")
    np.testing.assert_allclose(tower(ids), expected)


def bert(**options):
    return keras_nlp.models.BertBackbone(50, 1, 2, 8, 16, max_sequence_length=20, **options)


def test_bert_takes_mask_and_segments_and_leaves_its_pooler_out():
    backbone = bert()
    tower = TextTower(backbone, projection_dim=4)
    ids = tf.constant([[5, 9, 0, 0] * 4])
    expected = backbone(
        {"token_ids": ids, "padding_mask": ids != 0, "segment_ids": tf.zeros_like(ids)}
    )["sequence_output"][:, 0]
    np.testing.assert_allclose(tower.features(ids), expected, rtol=1e-5)
    names = [variable.path for variable in tower.trainable_variables]
    assert not any("pooled" in name for name in names) and any("head" in name for name in names)


def test_heads():
    tower = ImageTower(image_backbone(lambda x: x * 2.0), projection_dim=5)
    assert tower.embedding_dim == 5 and tower.feature_dim == 3
    images = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    kernel, bias = RNG.normal(size=(3, 5)), RNG.normal(size=5)
    tower.head.set_weights([kernel, bias])
    expected = images.mean((1, 2)) * 2 @ kernel + bias
    np.testing.assert_allclose(tower(images), expected, rtol=1e-4, atol=1e-5)
    for none in (None, 0):
        assert ImageTower(image_backbone(lambda x: x * 2.0), projection_dim=none).head is None
    with pytest.raises(ValueError, match="`projection_dim` should be the width"):
        ImageTower(image_backbone(lambda x: x * 2.0), projection_dim=-1)


SIZES = {"Ti": (192, 12), "S": (384, 12), "B": (768, 12)}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_papers_parameter_count(size):
    width, depth = SIZES[size]
    tower = TextTower.from_size(size, vocabulary_size=100)
    block = 12 * width * width + 13 * width  # attention 4 w^2 + 4 w, MLP 8 w^2 + 5 w, norms 4 w
    assert tower.count_params() == (100 + 16) * width + depth * block + 2 * width
    assert tower.backbone.pooling == "last"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TextTower.from_size("XL", vocabulary_size=9), "`size` should be one of 'Ti'"),
        (lambda: TextTower.from_size("Ti"), "needs a `tokenizer` or a `vocabulary_size`"),
        (lambda: TextTower(bert(), sequence_length=21), "should be at most 20"),
        (
            lambda: TextTower(
                bert(),
                keras_nlp.models.BertTokenizer(
                    vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(60))]
                ),
            ),
            "65 words, more than the 50 token embeddings",
        ),
        (lambda: TextTransformer(9, 4, 10, 1, 8, 3), "divisible by `num_heads`"),
        (lambda: TextTransformer(9, 4, 9, 1, 8, 3, pooling="mean"), "`pooling` should be one of"),
    ],
)
def test_unfit_text_towers(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("pooling", ["mean", "map"])
def test_towers_round_trip(tmp_path, pooling):
    conv = keras.Sequential([keras.Input([16, 16, 3]), keras.layers.Conv2D(8, 3)])
    preprocessor = ImagePreprocessor(16, "pad", value_range="imagenet", random_flip=True)
    tower = ImageTower(conv, pooling, 5, preprocessor)
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    images = RNG.normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(tower(images), again(images))
    assert again.preprocessor.get_config() == preprocessor.get_config()
    assert again.pooling == pooling


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_text_tower_round_trips_with_its_vocabulary(tmp_path, dropout):
    captions = ["a red balloon", "a green balloon over the sea", "two dogs in the snow"] * 3
    tokenizer = train_sentencepiece(captions, 60)
    backbone = TextTransformer(tokenizer.vocabulary_size(), 9, 8, 1, 16, 2, dropout=dropout)
    tower = TextTower(backbone, tokenizer, 9, projection_dim=4)
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    ids = tower.preprocessor(captions)
    np.testing.assert_array_equal(again.preprocessor(captions), ids)
    np.testing.assert_array_equal(again(ids), tower(ids))
    assert again.backbone.dropout == dropout


@pytest.mark.parametrize("values", [(1 / 255, None), ([0.017, 0.018, 0.019], [-2.1, -2.0, -1.8])])
def test_a_preset_brings_its_pixels(values, tmp_path):
    """keras-nlp's own converter says what the backbone of a preset was trained with."""
    backbone = keras_nlp.models.ViTBackbone((32, 32, 3), 16, 1, 2, 16, 16)
    backbone.save_to_preset(str(tmp_path))
    default = ImageTower.from_preset(str(tmp_path), random_flip=True)
    assert default.preprocessor.value_range == "-1..1" and default.preprocessor.random_flip
    assert default.preprocessor.image_size == (32, 32)
    converter = keras_nlp.layers.ImageConverter((32, 32), *values, antialias=True)
    converter.save_to_preset(str(tmp_path))
    tower = ImageTower.from_preset(str(tmp_path), projection_dim=8)
    assert tower.embedding_dim == 8 and tower.preprocessor.antialias
    assert tower.preprocessor.resize == "crop"
    pixels = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3], "uint8")
    expected = converter(pixels.astype("float32"))
    np.testing.assert_allclose(tower.preprocessor(pixels), expected, rtol=1e-5, atol=1e-5)
    for old, new in zip(backbone.get_weights(), tower.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    again = type(tower.preprocessor).from_config(tower.preprocessor.get_config())
    np.testing.assert_array_equal(again(pixels), tower.preprocessor(pixels))


def embedding(**options):
    ids = keras.Input([4], dtype="int32")
    return keras.Model(ids, keras.layers.Embedding(20, 3, **options)(ids))


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_an_embedding_that_masks_zero_says_what_is_padding(pooling):
    backbone = embedding(mask_zero=True)
    tower = TextTower(backbone, sequence_length=4, pooling=pooling)
    first, second = (backbone.layers[-1].embeddings.numpy()[i] for i in (5, 9))
    expected = {"mean": (first + second) / 2, "max": np.maximum(first, second), "last": second}
    np.testing.assert_allclose(tower(np.array([[5, 9, 0, 0]]))[0], expected[pooling], atol=1e-6)


def test_the_id_of_padding_is_kept(tmp_path):
    tower = TextTower(embedding(), sequence_length=4, pooling="mean", pad_token_id=7)
    ids = np.array([[5, 0, 7, 7]])
    table = tower.backbone.layers[-1].embeddings.numpy()
    np.testing.assert_allclose(tower(ids)[0], (table[5] + table[0]) / 2, atol=1e-6)
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    np.testing.assert_array_equal(again(ids), tower(ids))


def test_relatives_of_roberta_pad_with_1():
    backbone = keras_nlp.models.RobertaBackbone(20, 1, 2, 8, 16, max_sequence_length=8)
    tower = TextTower(backbone, sequence_length=4)
    ids = np.array([[0, 7, 2, 1]])
    states = backbone({"token_ids": ids, "padding_mask": np.array([[1, 1, 1, 0]])})
    np.testing.assert_allclose(tower(ids), states[:, 0], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_of_padding_alone_a_pooling_is_finite(pooling):
    tower = TextTower(embedding(), sequence_length=4, pooling=pooling)
    np.testing.assert_array_equal(tower(np.zeros([1, 4], "int32")), np.zeros([1, 3]))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_head_computes_in_the_dtype_of_its_tower(kind):
    """Whatever Keras' global policy is; and a tower is its features and its head."""
    if kind == "image":
        tower = ImageTower(image_backbone(lambda x: x * 2.0), "map", 5, dtype="mixed_bfloat16")
        inputs = np.random.default_rng(0).normal(size=[2, 8, 8, 3]).astype("float32")
        assert tower.attention_pooling.dtype_policy.name == "mixed_bfloat16"
    else:
        tower = TextTower(embedding(), None, 4, "mean", 5, dtype="mixed_bfloat16")
        inputs = np.array([[5, 9, 0, 0]])
    assert tower.head.dtype_policy.name == "mixed_bfloat16"
    again = type(tower).from_config(tower.get_config())
    assert again.head.dtype_policy.name == "mixed_bfloat16"
    features = tower.features(keras.ops.convert_to_tensor(inputs))
    np.testing.assert_array_equal(tower(inputs), tower.head(features))


def test_another_head_takes_the_place_of_the_first():
    tower = ImageTower(image_backbone(lambda x: x * 2.0), "mean", projection_dim=5)
    count = len(tower.variables)
    old = tower.head
    tower.add_head(7)
    assert len(tower.variables) == count and tower.head.kernel.shape[1] == 7
    assert not {id(v) for v in old.variables} & {id(v) for v in tower.variables}


@pytest.mark.parametrize(
    ("layers", "name", "expected"),
    [
        ([keras.layers.Rescaling(1 / 255)], None, "0..255"),
        ([keras.layers.Normalization(mean=[100.0] * 3, variance=[9.0] * 3)], None, "0..255"),
        ([keras.layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3)], None, "-1..1"),
        ([], "densenet121", "imagenet"),
        ([], "resnet50v2", "-1..1"),
    ],
)
def test_pixels_are_those_that_the_backbone_was_trained_on(layers, name, expected):
    convolution = keras.layers.Conv2D(4, 8, strides=8)
    backbone = keras.Sequential([keras.Input([32, 32, 3]), *layers, convolution], name=name)
    assert ImageTower(backbone).preprocessor.value_range == expected


def test_backbones_that_give_something_else_are_named():
    pixels, convolution = keras.Input([32, 32, 3]), keras.layers.Conv2D(4, 8, strides=8)
    with pytest.warns(UserWarning, match="'resnet50' on BGR pixels.*such as a ResNetV2"):
        ImageTower(keras.Sequential([pixels, convolution], name="resnet50"))
    pool, classify = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")
    with pytest.warns(UserWarning, match="ends in a softmax.*`include_top=False`"):
        ImageTower(keras.Sequential([pixels, convolution, pool, classify]))
    for make in (ImageTower, TextTower):
        with pytest.raises(ValueError, match="should be a Keras model.*Received: 'resnet50'"):
            make("resnet50")
    backbone = keras_lit.backbones.TextTransformer(40, 16, 8, 1, 16, 2)
    with pytest.raises(ValueError, match="`tokenizer` should be a Keras layer.*Received: 'bert'"):
        TextTower(backbone, "bert")
    towers = ImageTower.from_features(8), TextTower(backbone)
    for given in (towers[::-1], (backbone, towers[1]), (towers[0], backbone)):
        with pytest.raises(ValueError, match=r"_tower` should be a `\w+Tower`: make one of a back"):
            keras_lit.LiT(*given)


def test_the_vocabulary_of_electra_is_known():
    """keras-hub calls it otherwise there; token ids beyond it are refused as of others."""
    backbone = keras_nlp.models.ElectraBackbone(40, 1, 2, 8, 8, 16, max_sequence_length=16)
    assert TextTower(backbone, sequence_length=12).vocabulary_size == 40
    with pytest.raises(ValueError, match="has 41 words, more than the 40 token"):
        TextTower(backbone, small.tokenizer(), 12)

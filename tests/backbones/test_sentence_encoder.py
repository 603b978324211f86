"""The universal sentence encoder against NumPy loops; its table of pieces, locked or not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lit import ImageTower, LiT, TextTower
from keras_lit.backbones import UniversalSentenceEncoder
from keras_lit.backbones.sentence_encoder import QuantizedEmbedding

PIECES, WIDTH, CONVOLUTION, INNER, OUTPUT, KERNELS = 11, 6, 4, 5, 7, (2, 3)
PAD = 10
TEXTS = ([1, 4, 3, 9, 2], [1, 2], [1, 5, 5, 0, 6, 7, 2])


def make_backbone(**options):
    """With weights that are all unlike zero and one."""
    backbone = UniversalSentenceEncoder(
        PIECES, WIDTH, CONVOLUTION, INNER, OUTPUT, KERNELS, **options
    )
    rng = np.random.default_rng(3)
    for weight in backbone.weights:
        values = rng.normal(0.1, 0.3, weight.shape)
        weight.assign(10 * values if weight.dtype == "int8" else values)
    return backbone


def padded(texts, length):
    return np.array([[*text, *[PAD] * (length - len(text))] for text in texts], "int32")


def run(backbone, token_ids, **options):
    return backbone({"token_ids": token_ids, "padding_mask": token_ids != PAD}, **options)


def layer_norm(x, gamma, beta):
    return (x - x.mean()) / x.std() * gamma + beta


def expected_embedding(backbone, token_ids):
    """One text, one piece after the other, in float64."""
    weights = {
        layer.name: [np.array(weight, "float64") for weight in layer.weights]
        for layer in backbone.layers
    }
    (table,) = weights["token_embedding"]
    pieces = [table[i] for i in token_ids]
    kernel, bias = weights["projection"]
    projected = [
        layer_norm(piece @ kernel + bias, *weights["projection_layer_norm"]) for piece in pieces
    ]
    seen = [pieces]
    for k, size in enumerate(KERNELS):
        rows = [x[k * CONVOLUTION : (k + 1) * CONVOLUTION] for x in projected]
        for i in range(2):
            kernel, bias = weights[f"convolution_{size}_{i}"]
            new = []
            for t in range(len(rows)):
                total = bias.copy()
                for j in range(size):
                    place = t + j - (size - 1) // 2  # Of two pieces the second is the next one.
                    if 0 <= place < len(rows):
                        total += rows[place] @ kernel[j]
                new.append(np.maximum(total, 0) + rows[t])
            rows = new
        seen.append(rows)
    kernel, bias = weights["pooled_projection"]
    x = sum(
        layer_norm(np.concatenate(parts), *weights["layer_norm"]) @ kernel + bias
        for parts in zip(*seen, strict=True)
    ) / np.sqrt(len(token_ids))
    y = np.maximum(x @ weights["dense_0"][0], 0)
    y = np.maximum(y @ weights["dense_1"][0] + x @ weights["shortcut_1"][0], 0)
    z = np.maximum(y @ weights["dense_2"][0], 0)
    z = np.tanh(z @ weights["dense_3"][0] + y @ weights["shortcut_3"][0])
    return z / np.linalg.norm(z)


def test_embeddings_are_those_of_loops():
    backbone = make_backbone()
    expected = [expected_embedding(backbone, text) for text in TEXTS]
    for length in (7, 12):  # Without padding at the longest, and with.
        np.testing.assert_allclose(run(backbone, padded(TEXTS, length)), expected, atol=1e-5)


@pytest.mark.parametrize(("policy", "least"), [("mixed_bfloat16", 0.99), ("mixed_float16", 0.998)])
@pytest.mark.parametrize("lock_table", [False, True])
def test_16_bits(policy, least, lock_table):
    expected = run(make_backbone(lock_table=lock_table), padded(TEXTS, 8))
    halves = make_backbone(lock_table=lock_table, dtype=policy)
    embeddings = run(halves, padded(TEXTS, 8))
    assert embeddings.dtype == halves.compute_dtype
    assert np.sum(tf.cast(embeddings, tf.float32) * expected, axis=1).min() > least


def test_dropout_is_of_training_alone():
    keras.utils.set_random_seed(0)
    backbone, drops = make_backbone(), make_backbone(dropout=0.5)
    drops.set_weights([*backbone.get_weights()])
    token_ids = padded(TEXTS, 7)
    np.testing.assert_array_equal(run(drops, token_ids), run(backbone, token_ids))
    assert np.abs(run(drops, token_ids, training=True) - run(backbone, token_ids)).max() > 0.01


def test_rows_of_int8_have_a_scale_and_an_offset_each():
    layer = QuantizedEmbedding(4, 3)
    layer.build()
    rng = np.random.default_rng(0)
    table = rng.integers(-128, 128, [4, 3])
    scale, offset = rng.normal(size=[2, 4]).astype("float32")
    layer.set_weights([table, scale, offset])
    token_ids = np.array([[3, 0], [1, 3]])
    expected = [[table[i] * scale[i] + offset[i] for i in row] for row in token_ids]
    np.testing.assert_allclose(layer(token_ids), expected, rtol=1e-6)
    assert layer.compute_output_shape((2, 2)) == (2, 2, 3)


def make_model(tuning="LU", **options):
    image_tower = ImageTower(keras.Sequential([keras.Input([4, 4, 3]), keras.layers.Conv2D(5, 4)]))
    text_tower = TextTower(make_backbone(**options), sequence_length=7, pad_token_id=PAD)
    return LiT(image_tower, text_tower, tuning)


def names_of_trained(model):
    return {variable.path.split("/")[-2] for variable in model.trainable_variables}


def test_locked_table_stays_locked(tmp_path):
    model = make_model(lock_table=True)
    model.text_tower.trainable = True  # Keras hands this on to every layer.
    names = names_of_trained(model)
    assert "token_embedding" not in names
    assert {"projection", "convolution_3_1", "layer_norm", "dense_0", "shortcut_3"} < names
    before = [x.numpy() for x in model.text_tower.backbone.weights]
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    pairs = {"image": np.random.default_rng(0).normal(size=[3, 4, 4, 3]).astype("float32")}
    pairs["text"] = padded(TEXTS, 7)
    model.fit(pairs, batch_size=3, verbose=0)
    after = model.text_tower.backbone.weights
    for weight, old in zip(after, before, strict=True):
        assert (weight.numpy() != old).any() == ("token_embedding" not in weight.path), weight.path
    model.save(tmp_path / "lit.keras")
    again = keras.saving.load_model(tmp_path / "lit.keras")
    assert names_of_trained(again) == names
    assert again.text_tower.backbone.token_embedding.table.dtype == "int8"
    expected = model.text_tower(pairs["text"])
    np.testing.assert_allclose(again.text_tower(pairs["text"]), expected, atol=1e-6)


def test_table_of_floats_trains_until_it_is_frozen(tmp_path):
    model = make_model()
    assert "token_embedding" in names_of_trained(model)
    model.text_tower.backbone.token_embedding.trainable = False
    assert "token_embedding" not in names_of_trained(model)
    model.save(tmp_path / "lit.keras")
    assert "token_embedding" not in names_of_trained(
        keras.saving.load_model(tmp_path / "lit.keras")
    )


def test_locked_table_is_not_drawn_anew():
    with pytest.raises(
        ValueError, match="'u' in `tuning`.*token_embedding/table, which is of int8"
    ):
        make_model("Lu", lock_table=True)
    assert "token_embedding" in names_of_trained(make_model("Lu"))

"""Patches: where they are, pooled with or without the tokens before them, and embedded."""

import types

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.backbones import MLPHead, TokenHead
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.towers import patches
from tests import small

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=[3, 2 + 6, 5]).astype("float32")


def randomized(head, tokens=TOKENS):
    head(tokens)
    for weight in head.weights:
        if "seed" not in weight.path:
            weight.assign(RNG.normal(0, 0.5, weight.shape))
    return head


def conv_tower(**options):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input([32, 24, 3]), keras.layers.Conv2D(5, 8, strides=8)])
    return keras_lit.ImageTower(backbone, preprocessor=ImagePreprocessor((32, 24)), **options)


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [
        ((None, 7, 5, 8), None, ((7, 5), 0)),
        ((None, 12, 8), 8, ((4, 3), 0)),
        ((None, 13, 8), (8, 8), ((4, 3), 1)),
        ((None, 17, 8), 8, ((4, 3), 5)),  # A class token and four registers.
        ((None, 12, 8), 4, ((4, 3), 0)),  # Merged once, as in Swin.
    ],
)
def test_layouts(shape, patch, expected):
    backbone = types.SimpleNamespace(patch_size=patch)
    assert patches.layout(backbone, shape, (32, 24)) == expected


@pytest.mark.parametrize(
    ("shape", "patch"), [((None, 8), 8), ((None, 12, 8), None), ((None, 7, 8), 8)]
)
def test_no_layout(shape, patch):
    with pytest.raises(ValueError, match="Patches need a backbone that gives a feature map"):
        patches.layout(types.SimpleNamespace(patch_size=patch), shape, (32, 24))


@pytest.mark.parametrize("dim", [4, None])
def test_blocks_change_nothing_at_first(dim):
    head = TokenHead(dim, 2, prefix_tokens=2)
    head(TOKENS)
    kernel = np.eye(10) if dim is None else RNG.normal(size=[10, dim])
    bias = np.zeros(10) if dim is None else RNG.normal(size=[dim])
    if dim is not None:
        head.dense.set_weights([kernel, bias])
    first, rest = TOKENS[:, 0], TOKENS[:, 2:]
    expected = np.concatenate([first, rest.sum(axis=1) / 6], axis=1) @ kernel + bias
    np.testing.assert_allclose(head(TOKENS), expected, rtol=1e-4, atol=1e-5)
    # Of the patches the other half alone.
    np.testing.assert_allclose(head.patches(TOKENS), rest @ kernel[5:] + bias, rtol=1e-4, atol=1e-5)


def test_registers_go_through_the_blocks():
    head, changed = randomized(TokenHead(4, 1, prefix_tokens=2)), TOKENS.copy()
    changed[:, 1, 0] += 3
    assert np.abs(head(changed) - head(TOKENS)).max() > 1e-3


def test_a_block_is_left_out_for_whole_pictures():
    keras.utils.set_random_seed(0)
    tokens = np.repeat(TOKENS[:1], 200, axis=0)
    head = randomized(TokenHead(None, 1, "mean", 2, drop_path=0.25), tokens)
    without, whole = tokens[0, 2:].mean(axis=0), head(tokens)[0].numpy()
    found = head(tokens, training=True).numpy()
    kept = np.abs(found - without).max(axis=1) > 1e-4
    expected = without + (whole - without) / 0.75  # So that the mean is as in inference.
    np.testing.assert_allclose(found[kept], np.tile(expected, [kept.sum(), 1]), atol=1e-4)
    assert 0.6 < kept.mean() < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"prefix_tokens": 0}, "needs a class token"),
        ({"blocks": -1}, "`blocks` should be a whole number"),
        ({"drop_path": 1.0}, r"`drop_path` should be in \[0, 1\)"),
    ],
)
def test_bad_heads(options, message):
    with pytest.raises(ValueError, match=message):
        TokenHead(4, **options)


def test_the_mean_of_patches_is_the_picture():
    tower = conv_tower(projection_dim=4)
    tower.head.bias.assign([1.0, 2.0, 3.0, 4.0])
    images = RNG.uniform(-1, 1, [2, 32, 24, 3]).astype("float32")
    found = tower.patch_embeddings(images).numpy()
    kernel, bias = tower.backbone.layers[0].get_weights()
    cell = images[1, 8:16, 16:24]  # Row 1, column 2.
    expected = (np.tensordot(cell, kernel, 3) + bias) @ tower.head.kernel.numpy() + [1, 2, 3, 4]
    np.testing.assert_allclose(found[1, 1, 2], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), tower(images), rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 4, 3, 4)
    # The same with a head over tokens, whose blocks are new, and its patches.
    with_blocks = keras_lit.ImageTower(
        tower.backbone, projection_dim=4, blocks=1, preprocessor=tower.preprocessor
    )
    assert with_blocks.head.pooling == "mean" and with_blocks.feature_shape == (12, 5)
    with_blocks.head.dense.set_weights(tower.head.get_weights())
    np.testing.assert_allclose(with_blocks.patch_embeddings(images), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pooling": "max"}, "'max', head: none"),
        ({"pooling": "map"}, "'map', head: none"),
        ({"head": MLPHead(4)}, "'mean', head: MLPHead"),
    ],
)
def test_patches_without_embeddings(options, said):
    with pytest.raises(ValueError, match=f"linear in their mean.*{said}"):
        conv_tower(**options).patch_embeddings(np.zeros([1, 32, 24, 3], "float32"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "first_and_mean"}, "needs a class token before the patches"),
        ({"blocks": 1, "pooling": "max"}, "`blocks` go with `pooling`"),
        ({"drop_path": 0.1}, "`drop_path` leaves out `blocks`, of which there are none"),
        ({"blocks": 1, "head": "mlp", "projection_dim": 4}, "`blocks` make a head"),
    ],
)
def test_bad_towers(options, message):
    with pytest.raises(ValueError, match=message):
        conv_tower(**options)


def test_tokens_without_a_head_do_not_join():
    with pytest.raises(ValueError, match="needs a head that pools"):
        keras_lit.LiT(conv_tower(pooling="tokens"), keras_lit.TextTower.from_features(4), "LL")


def test_pooled_features_have_no_patches():
    with pytest.raises(ValueError, match=r"Received features that are pooled, of shape \(2, 5\)"):
        conv_tower().patch_embeddings(np.zeros([2, 5], "float32"))


@pytest.mark.slow
def test_dino_with_registers_goes_all_the_way(tmp_path):
    keras.utils.set_random_seed(0)
    dino = keras_nlp.models.DINOV2Backbone(
        8, 1, 12, 2, 24, num_register_tokens=3, image_shape=(16, 16, 3),
        position_embedding_shape=(16, 16),
    )  # fmt: skip
    options = {"preprocessor": ImagePreprocessor(16)}
    pooled = keras_lit.ImageTower(dino, "first_and_mean", **options)
    tower = keras_lit.ImageTower(dino, "tokens", **options)
    assert (tower.grid, tower.prefix_tokens) == ((2, 2), 4)
    pixels = RNG.uniform(-1, 1, [2, 16, 16, 3]).astype("float32")
    states = dino({"images": pixels}).numpy()
    both = np.concatenate([states[:, 0], states[:, 4:].mean(axis=1)], axis=1)
    np.testing.assert_allclose(pooled(pixels), both, atol=1e-5)

    pairs = small.make_pairs(12)
    options = {"batch_size": 4, "shards": 3, "verbose": False}
    keras_lit.features.precompute(tower, pairs, tmp_path / "cache", **options)
    stand_in = keras_lit.features.image_tower(
        tmp_path / "cache", projection_dim=16, blocks=1, drop_path=0.1
    )
    assert stand_in.head.pooling == "first_and_mean"
    backbone = keras_lit.backbones.TextTransformer(60, 10, 16, 1, 32, 4)
    text_tower = keras_lit.TextTower(backbone, preprocessor=small.text_preprocessor())
    model = keras_lit.LiT(stand_in, text_tower, "LL")
    model.compile(keras.optimizers.SGD(0.1), micro_batch_size=3)
    cached = keras_lit.features.load(tmp_path / "cache").batch(6)
    kernel = stand_in.head.transformer[0].weights[0].numpy()
    model.fit(cached, epochs=2, verbose=0)
    assert (stand_in.head.transformer[0].weights[0].numpy() != kernel).any()

    whole = model.with_image_tower(tower)
    images = np.stack([pair["image"] for pair in pairs.as_numpy_iterator()])
    np.testing.assert_allclose(
        whole.encode_image(images), model.encode_image(cached), atol=2e-3
    )  # float16 between them
    found = whole.encode_patches(images)
    assert found.shape == (12, 2, 2, 16)
    maps = keras_lit.evaluation.heat_maps(whole, images[0], ["a red dog", "a cat"])
    texts = whole.encode_text(["a red dog", "a cat"])
    np.testing.assert_allclose(maps, np.einsum("hwd,nd->nhw", found[0], texts), atol=1e-5)
    recalls = keras_lit.evaluation.Images({"image": images}, ()).embeddings(whole)
    np.testing.assert_allclose(recalls, whole.encode_image(images), atol=1e-5)

    whole.save(tmp_path / "lit.keras")
    again = keras.saving.load_model(tmp_path / "lit.keras")
    np.testing.assert_allclose(again.encode_patches(images), found, atol=1e-6)
    keras_lit.export.save(whole, tmp_path / "artifact", towers="image")
    artifact = tf.saved_model.load(next((tmp_path / "artifact").glob("[0-9]*")))
    png = tf.io.encode_png(images[0])[tf.newaxis]
    served = artifact.signatures["encode_image"](image_bytes=png)["embedding"]
    np.testing.assert_allclose(served, whole.encode_image(images[:1]), atol=1e-5)

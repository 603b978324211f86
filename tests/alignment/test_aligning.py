"""`LiT.align`: both heads in one pass, from which `fit` goes on; whitening; the probe."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import alignment
from keras_lit.alignment import aligning
from tests.small import make_model, make_pairs, make_tower, mirrored

COUNT, DIM = 90, 6


def make_towers(seed=0):
    keras.utils.set_random_seed(seed)
    backbone = keras_lit.backbones.TextTransformer(50, 8, 16, 1, 32, 4)
    return keras_lit.ImageTower.from_features(DIM), keras_lit.TextTower(backbone, None, 8)


def make_model_of_features(tuning="LU", **options):
    return keras_lit.LiT(*make_towers(), tuning, **options)


def pairs_of_features(text_tower):
    """Image features that say what the text says, turned, shifted and with noise."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(1, 50, [COUNT, 8])
    meaning = text_tower.features(token_ids).numpy()
    images = meaning @ rng.normal(size=[16, DIM]) + 2 * rng.normal(size=[COUNT, DIM]) + 5
    return {"image_features": images.astype("float32"), "text": token_ids}


def similarities(model, pairs):
    return model.encode_image(pairs) @ model.encode_text(pairs).T


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_align_starts_far_below_random_heads(loss):
    model = make_model_of_features(loss=loss)
    pairs = pairs_of_features(model.text_tower)
    model.compile("sgd")
    before = model.evaluate(pairs, batch_size=30, verbose=0, return_dict=True)
    found = model.align(pairs, folds=3, verbose=0)
    after = model.evaluate(pairs, batch_size=30, verbose=0, return_dict=True)
    assert after["loss"] < 0.75 * before["loss"]
    assert after["image_to_text_accuracy"] > before["image_to_text_accuracy"] + 0.3
    assert float(model.temperature) == pytest.approx(found.temperature, rel=1e-5)
    if loss == "sigmoid":
        assert float(model.bias) == pytest.approx(found.bias, rel=1e-5)
    assert 0.2 < found.mean_recall < 1


@pytest.mark.parametrize("method", ["cca", "ridge"])
def test_streamed_as_in_memory(method):
    model = make_model_of_features()
    pairs = pairs_of_features(model.text_tower)
    stream = tf.data.Dataset.from_tensor_slices(pairs).batch(7)
    found = model.align(stream, method, folds=3, verbose=0)
    texts = model.text_tower.features(pairs["text"]).numpy()
    if method == "ridge":
        texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    folds = alignment.Folds(DIM, 16, 3)
    folds.add(pairs["image_features"], texts, pairs["text"].astype("int32"))
    expected = alignment.choose(folds, method, verbose=0)
    assert found.scores == pytest.approx(expected.scores)
    np.testing.assert_allclose(found.heads.image.kernel, expected.heads.image.kernel, atol=1e-5)
    images, texts = (
        keras.utils.normalize(head.project(rows))
        for head, rows in zip(expected.heads, (pairs["image_features"], texts), strict=True)
    )
    np.testing.assert_allclose(similarities(model, pairs), images @ texts.T, atol=1e-5)


@pytest.mark.slow
def test_replicas_find_what_one_device_finds():
    pairs = make_pairs(58).batch(12)  # The last batch of ten.
    found = []
    for scope in (tf.distribute.get_strategy().scope, mirrored(4).scope):
        with scope():
            model = make_model("LU")
        # Outside of the scope, as `fit`. One penalty: no recall of noise decides.
        result = model.align(pairs, dim=4, penalties=[0.3], folds=2, verbose=0)
        images = np.stack([x["image"] for x in make_pairs(58)])
        texts = [x["text"].numpy() for x in make_pairs(58)]
        found.append((result, model.encode_image(images) @ model.encode_text(texts).T))
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-5)
    assert found[1][0].recalls == pytest.approx(found[0][0].recalls)


@pytest.mark.slow
@pytest.mark.parametrize("lock_heads", [False, True])
def test_fit_goes_on_and_heads_train_as_asked(lock_heads, tmp_path):
    model = make_model_of_features(lock_heads=lock_heads)
    pairs = pairs_of_features(model.text_tower)
    model.align(pairs, dim=5, folds=3, verbose=0)
    start = [tower.head.get_weights() for tower in (model.image_tower, model.text_tower)]
    model.compile(keras.optimizers.Adam(1e-3))
    aligned = model.evaluate(pairs, batch_size=30, verbose=0, return_dict=True)["loss"]
    model.fit(pairs, batch_size=30, epochs=3, verbose=0)
    assert model.evaluate(pairs, batch_size=30, verbose=0, return_dict=True)["loss"] < aligned
    image, text = (tower.head.get_weights() for tower in (model.image_tower, model.text_tower))
    assert np.array_equal(image[0], start[0][0]) == lock_heads
    assert not np.array_equal(text[0], start[1][0])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(similarities(loaded, pairs), similarities(model, pairs), atol=1e-6)
    assert loaded.text_tower.embedding_dim == 5


def test_blocks_over_tokens_are_aligned_by_the_linear_layer_after_them():
    """As long as they are new the tower is that of the mean of its tokens."""
    towers = make_towers()
    pairs = pairs_of_features(towers[1])
    away = np.random.default_rng(1).normal(size=[COUNT, DIM]).astype("float32")
    mean = pairs["image_features"]
    tokens = {**pairs, "image_features": np.stack([mean + away, mean - away], axis=1)}
    of_tokens = keras_lit.ImageTower.from_features(DIM, 5, grid=(1, 2), blocks=1)
    options = {"penalties": [1.0], "folds": 3, "verbose": 0}
    expected = keras_lit.LiT(*towers, "LU")
    expected.align(pairs, dim=5, **options)
    model = keras_lit.LiT(of_tokens, make_towers()[1], "LU")
    assert model.align(tokens, **options).dim == 5
    np.testing.assert_allclose(
        similarities(model, tokens), similarities(expected, pairs), atol=1e-4
    )
    with pytest.raises(ValueError, match="4 wide and the TokenHead of the ImageTower 5. Leave"):
        model.align(tokens, dim=4, **options)
    with pytest.raises(ValueError, match='anew with `pooling`="mean" and without `blocks`'):
        alignment.whiten(of_tokens, tokens["image_features"])
    bare = keras_lit.ImageTower.from_features(DIM, grid=(1, 2), blocks=1)
    with pytest.raises(ValueError, match="anew with a `projection_dim`"):
        keras_lit.LiT(bare, make_towers()[1], "LU").align(tokens, **options)


def test_heads_of_the_same_width_keep_their_place_and_others_want_compile():
    model = make_model_of_features()
    pairs = pairs_of_features(model.text_tower)
    model.align(pairs, dim=5, penalties=[1.0], folds=3, verbose=0)
    model.compile("sgd")
    model.align(pairs, dim=5, penalties=[3.0], folds=3, verbose=0)
    model.fit(pairs, batch_size=45, verbose=0)
    model.text_tower.head.trainable = False
    model.align(pairs, dim=4, penalties=[3.0], folds=3, verbose=0)
    assert model.image_tower.head.trainable and not model.text_tower.head.trainable
    with pytest.raises(ValueError, match="Compile again"):
        model.fit(pairs, batch_size=45, verbose=0)


@pytest.mark.parametrize("bias", [False, True])
def test_an_int8_head_is_replaced(bias):
    """Its kernel and scale are two weights, as kernel and bias are."""
    model = make_model_of_features("LL")
    model.image_tower.add_head(head=keras.layers.Dense(4, use_bias=bias))
    model.image_tower.head.quantize("int8")
    pairs = pairs_of_features(model.text_tower)
    found = model.align(pairs, dim=4, penalties=[1.0], folds=3, verbose=0)
    wanted = found.heads.image.project(pairs["image_features"])
    np.testing.assert_allclose(model.image_tower(pairs["image_features"]), wanted, atol=1e-4)


def test_several_texts_are_as_many_pairs():
    captions = [pair["text"].numpy().decode() for pair in make_pairs(40)]
    texts = [[text, "" if i % 3 else text.replace("and", "one")] for i, text in enumerate(captions)]
    images = np.random.default_rng(0).normal(size=[40, DIM]).astype("float32")
    text_tower = make_model("LU").text_tower
    found = []
    rows, columns = np.nonzero(np.array(texts) != "")
    for pairs in (
        {"image_features": images, "texts": np.array(texts)},
        {"image_features": images[rows], "text": np.array(texts)[rows, columns]},
    ):
        folds = alignment.Folds(DIM, 16)
        aligning.gather(pairs, keras_lit.ImageTower.from_features(DIM), text_tower, folds, "cca")
        found.append(alignment.folds.total(folds.moments))
    assert found[0].count == found[1].count == 54
    np.testing.assert_allclose(found[0].scatter, found[1].scatter, atol=1e-3)


def test_keys_of_a_prepared_batch():
    """Features of text, from a cache, and groups are taken as they are."""
    _, tower = make_towers()
    features = np.random.default_rng(0).normal(size=[4, 2, 16]).astype("float32")
    batch = {"text_features": tf.constant(features), "group": tf.constant([3, 1, 3, 2])}
    np.testing.assert_array_equal(aligning.text_features(tower, batch), features)
    np.testing.assert_array_equal(aligning.groups_of(batch), [3, 1, 3, 2])
    alone = aligning.groups_of({"text_features": batch["text_features"]})
    np.testing.assert_array_equal(alone, features[:, 0])
    token_ids = tf.constant(np.arange(1, 33).reshape([2, 2, 8]))
    np.testing.assert_array_equal(aligning.groups_of({"text": token_ids}), token_ids[:, 0])
    expected = np.stack([tower.features(row).numpy() for row in token_ids])
    found = aligning.text_features(tower, {"text": token_ids})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_untrained_tower_is_said_and_a_cap_is_kept():
    with pytest.warns(UserWarning, match="'Lu' has re-initialised a tower"):
        model = make_model_of_features("Lu", max_temperature=10.5)
        pairs = pairs_of_features(model.text_tower)
        model.align(pairs, penalties=[0.1], folds=3, verbose=0)
    assert float(model.temperature) <= 10.501


def test_bad_pairs_are_refused():
    model = make_model_of_features()
    pairs = pairs_of_features(model.text_tower)
    with pytest.raises(ValueError, match="should be batched"):
        model.align(tf.data.Dataset.from_tensor_slices(pairs))
    with pytest.raises(ValueError, match="dataset of pairs is empty"):
        model.align(tf.data.Dataset.from_tensor_slices(pairs).batch(8).filter(lambda x: False))
    with pytest.raises(tf.errors.InvalidArgumentError, match="should be finite"):
        model.align({**pairs, "image_features": pairs["image_features"] * np.nan}, verbose=0)
    model.text_tower.add_head(DIM, "mlp")
    with pytest.raises(ValueError, match="TextTower has a head of its own, MLPHead"):
        model.align(pairs)


def test_what_fails_leaves_heads_and_calibration():
    model = make_model_of_features()
    pairs = pairs_of_features(model.text_tower)
    model.align(pairs, dim=4, verbose=0)
    model.text_tower.add_head(head=keras_lit.backbones.ResidualHead(5))
    model.image_tower.add_head(5)
    model.calibration = keras_lit.evaluation.calibration.Calibration(2.0)
    for options, message in (
        ({"dim": 3}, "3 wide and the ResidualHead of the TextTower 5"),
        ({"folds": 2.5}, "`folds` should be a positive whole number. Received: 2.5"),
        ({"penalties": [np.inf]}, "`penalties` should be a positive number. Received: inf"),
    ):
        with pytest.raises(ValueError, match=message):
            model.align(pairs, **options, verbose=0)
    assert model.image_tower.head.units == 5 and model.calibration["temperature"] == 2


@pytest.mark.parametrize("batch_size", [4, 60])
def test_equal_captions_are_one_group_however_wide_their_batch_is(batch_size):
    """Batches of towers that ignore padding are as wide as their longest text."""
    keras.utils.set_random_seed(0)
    backbone = keras_lit.backbones.BertEncoder(50, 1, 2, 16, 32)
    towers = keras_lit.ImageTower.from_features(DIM), keras_lit.TextTower(backbone, None, 12)
    assert towers[1].ignores_padding
    rng = np.random.default_rng(0)
    token_ids = np.zeros([60, 12], int)
    token_ids[:, :2] = rng.integers(1, 4, [60, 2])
    token_ids[::4, 2:10] = 5  # Of each batch one is long, but of some.
    token_ids[::8, 2:10] = 0
    pairs = {"image_features": rng.normal(size=[60, DIM]), "text": token_ids}
    folds = alignment.Folds(DIM, 16, 3)
    aligning.gather(pairs, *towers, folds, "cca", batch_size)
    keys = [np.unique(folds.kept(fold).keys) for fold in range(3)]
    assert len(np.concatenate(keys)) == len(np.unique(token_ids, axis=0))


def test_whitening_one_tower():
    tower = make_towers()[1]
    token_ids = np.random.default_rng(0).integers(1, 50, [300, 8])
    features = tower.features(token_ids).numpy()
    alignment.whiten(tower, token_ids, penalty=1e-4, verbose=0)
    found = tower(token_ids).numpy()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    # The last direction has no variance: layer norm took it.
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(found.T, ddof=0))[2:], 1, atol=0.02)
    assert found.shape == features.shape


def test_the_probe_ranks_towers_by_what_align_finds():
    pairs = {
        name: np.stack([pair[name] for pair in make_pairs(60).as_numpy_iterator()])
        for name in ("image", "text")
    }
    model = make_model("LU")
    image_towers = {"one": model.image_tower, "other": make_tower(seed=5, filters=3)}
    text_towers = {"text": model.text_tower}
    before = [tower.get_weights() for tower in (model.image_tower, model.text_tower)]
    found = alignment.probe(image_towers, text_towers, pairs, folds=3, verbose=0)
    assert [row.text_tower for row in found] == ["text", "text"]
    assert found[0].alignment.mean_recall >= found[1].alignment.mean_recall
    after = [tower.get_weights() for tower in (model.image_tower, model.text_tower)]
    for old, new in zip(before, after, strict=True):
        assert all(map(np.array_equal, old, new))
    for row in found:
        image_tower = image_towers[row.image_tower]
        folds = alignment.Folds(image_tower.feature_dim, 16, 3)
        aligning.gather(pairs, image_tower, model.text_tower, folds, "cca")
        assert row.alignment.scores == pytest.approx(alignment.choose(folds, verbose=0).scores)
    with pytest.raises(ValueError, match="at least one image tower"):
        alignment.probe({}, text_towers, pairs)
    with pytest.raises(ValueError, match="dataset never ends"):
        alignment.probe(image_towers, text_towers, make_pairs(8).batch(4).repeat())

"""Training the last blocks from what enters them, which was kept, as from images."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.towers.lower import Lower
from tests import small
from tests.small import text_preprocessor

SIZE = 16
FAMILIES = {
    "VisionTransformer": lambda: keras_lit.backbones.VisionTransformer(SIZE, 8, 12, 3, 24, 2),
    "ViT": lambda: keras_nlp.models.ViTBackbone((SIZE, SIZE, 3), 8, 3, 2, 12, 24),
    "DINOv2": lambda: keras_nlp.models.DINOV2Backbone(8, 3, 12, 2, 24, image_shape=(SIZE, SIZE, 3)),
}


def tower_of(family, seed=0):
    keras.utils.set_random_seed(seed)
    return keras_lit.ImageTower(FAMILIES[family](), projection_dim=8)


def pixels(count=6):
    return np.random.default_rng(0).uniform(-1, 1, [count, SIZE, SIZE, 3]).astype("float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_upper_blocks_continue_what_the_lower_ones_gave(family):
    tower, images = tower_of(family), pixels(3)
    expected = tower(images).numpy()
    lower = Lower(tower, 2)
    states = lower.features(images)
    assert states.shape == (3, lower.dim) and len(lower.shape) == 2
    tower.lock = keras_lit.Lock(last_blocks=2)
    np.testing.assert_allclose(tower(states), expected, atol=1e-6)
    np.testing.assert_allclose(tower(images), expected, atol=1e-6)  # As before.


def text_tower():
    keras.utils.set_random_seed(2)
    preprocessor = text_preprocessor()
    backbone = keras_lit.backbones.TextTransformer(
        preprocessor.tokenizer.vocabulary_size(), preprocessor.sequence_length, 8, 1, 16, 2
    )
    return keras_lit.TextTower(backbone, preprocessor=preprocessor)


def model_of(family="ViT", seed=0):
    tower = tower_of(family, seed)
    options = keras_lit.Lock(last_blocks=2)
    model = keras_lit.LiT(tower, text_tower(), "UU", image_options=options)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    return model


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of six pictures, in float32."""
    directory = tmp_path_factory.mktemp("lower")
    rows = {"image": pixels(), "text": [f"a {x} dog" for x in small.COLOURS[:6]]}
    pairs = tf.data.Dataset.from_tensor_slices(rows)
    manifest = keras_lit.features.precompute(
        tower_of("ViT"), pairs, directory, 3, 1, dtype="float32", verbose=False, last_blocks=2
    )
    return directory, manifest["plan"], pairs


@pytest.mark.slow
def test_training_from_the_cache_equals_training_from_images(cache):
    directory, plan, pairs = cache
    assert plan["dim"] == 5 * 12  # Four patches and the class token, 12 wide.
    from_images, from_cache, chunked = (model_of() for _ in range(3))
    start = [x.numpy() for x in from_images.trainable_variables]
    chunked.compile(keras.optimizers.SGD(0.5), micro_batch_size=2, jit_compile=False)
    cached = keras_lit.features.load(directory)
    losses = from_images.fit(pairs.batch(6), epochs=4, verbose=0).history["loss"]
    for model in (from_cache, chunked):
        found = model.fit(cached.batch(6), epochs=4, verbose=0).history["loss"]
        np.testing.assert_allclose(found, losses, atol=1e-5)
        for x, y in zip(model.weights, from_images.weights, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    # It trained, blocks of the image tower too, and then the cache is still this tower's.
    trained = zip(from_images.trainable_variables, start, strict=True)
    moved = [abs(x.numpy() - y).max() for x, y in trained if "transformer_block_2" in x.path]
    assert moved and max(moved) > 1e-4
    from_cache.evaluate(cached.batch(6), verbose=0)


@pytest.mark.slow
def test_replicas_write_and_train_the_same(cache, tmp_path):
    directory, _, pairs = cache
    two = small.mirrored(2)
    with two.scope():
        options = {"dtype": "float32", "verbose": False, "last_blocks": 2}
        keras_lit.features.precompute(tower_of("ViT"), pairs, tmp_path, 4, 1, **options)
        of_two = model_of()
    cached = keras_lit.features.load(directory)
    rows = [
        [row["image_features"] for row in x.as_numpy_iterator()]
        for x in (cached, keras_lit.features.load(tmp_path))
    ]
    np.testing.assert_allclose(*rows, atol=1e-6)
    of_one = model_of()
    for model in (of_one, of_two):
        model.fit(cached.batch(6), epochs=2, verbose=0)
    for x, y in zip(of_one.weights, of_two.weights, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.fixture(scope="module")
def caches(cache, tmp_path_factory):
    """What enters the last two blocks, and the pooled output; both with the raw pairs."""
    directory, _, pairs = cache
    pooled, text = tmp_path_factory.mktemp("pooled"), text_tower()
    options = {"dtype": "float32", "verbose": False, "text_tower": text}
    keras_lit.features.precompute(tower_of("ViT"), pairs, pooled, 3, 1, **options)
    return keras_lit.features.load(directory), keras_lit.features.load(pooled), pairs


@pytest.mark.slow
def test_the_cache_stands_for_images_wherever_a_model_is_used(caches):
    model, (cached, pooled, pairs) = model_of(), caches
    expected = model.encode_image(pairs.batch(6))
    rows = np.stack([row["image_features"] for row in cached.as_numpy_iterator()])
    for given in (cached, cached.batch(4), rows, pooled.batch(6)):
        np.testing.assert_allclose(model.encode_image(given), expected, atol=1e-5)
    found = keras_lit.evaluation.ImagesAndTexts(cached).embeddings(model)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    features = [keras_lit.evaluation.Images(x, ()).features(model) for x in (cached, pairs)]
    np.testing.assert_allclose(*features, atol=1e-5)
    options = {"dim": 3, "folds": 2, "verbose": 0}
    other = model_of()
    for one, given in ((model, cached), (other, pairs)):
        # Six different captions four times, whose pictures are the same: enough to hold some out.
        one.align(given.repeat(4).batch(6), **options)
    both = [one.encode_image(pairs.batch(6)) for one in (model, other)]
    np.testing.assert_allclose(*both, atol=1e-4)
    towers = keras_lit.ImageTower(tower_of("ViT").backbone), text_tower()
    headless = keras_lit.LiT(*towers, "UU", image_options=keras_lit.Lock(last_blocks=2))
    found = headless.encode_image(cached.batch(6))
    np.testing.assert_allclose(found, headless.encode_image(pairs.batch(6)), atol=1e-5)


@pytest.mark.slow
def test_a_tower_with_a_lock_takes_pooled_features_once_it_is_locked(caches):
    cached, pooled, pairs = caches
    model = model_of()
    with pytest.raises(ValueError, match='"image_features" are for a locked image tower'):
        model.evaluate(pooled.batch(6), verbose=0)
    teacher = keras_lit.features.with_teacher(pooled.batch(6), model)
    (taught,) = teacher.as_numpy_iterator()
    expected = model.encode_image(pairs.batch(6))
    np.testing.assert_allclose(taught["teacher_image_embeddings"], expected, atol=1e-5)
    rows = {"text_features": np.zeros([6, 8], "float32")}
    both = cached.batch(6).map(lambda x: {**x, **rows})
    with pytest.raises(ValueError, match="teacher takes its pooled features"):
        keras_lit.features.with_teacher(both, model)
    model.tuning = "LU"
    losses = []
    for given, size in ((pairs, 2), (cached, None), (pooled, None)):
        model.compile(keras.optimizers.SGD(0.0), micro_batch_size=size, jit_compile=False)
        losses.append(model.fit(given.batch(6), verbose=0).history["loss"][0])
    np.testing.assert_allclose(losses[1:], losses[0], atol=1e-5)


def test_features_of_another_tower_are_refused_wherever_they_are_used(caches):
    _, pooled, _ = caches
    other = keras_lit.LiT(tower_of("ViT", seed=1), text_tower(), "LL")
    for use in (
        lambda: other.encode_image(pooled.batch(6)),
        lambda: keras_lit.evaluation.Images(pooled, ()).features(other),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="of another image tower"):
            use()
    table = other.text_tower.backbone.weights[0]
    table.assign(np.ones(table.shape))
    with pytest.raises(tf.errors.InvalidArgumentError, match="of another text tower"):
        other.encode_text(pooled.batch(6))


def test_caches_of_others_are_refused(cache):
    directory, _, _ = cache
    batches = keras_lit.features.load(directory).batch(6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="of another image tower"):
        model_of(seed=1).evaluate(batches, verbose=0)
    locked = keras_lit.LiT(tower_of("ViT"), text_tower(), "LU")
    with pytest.raises(ValueError, match="image_features"):
        locked.fit(batches, verbose=0)
    with pytest.raises(ValueError, match=r"enters the last 2 blocks.*last_blocks=2"):
        keras_lit.features.image_tower(directory)
    tower = tower_of("ViT")
    tower.lock = keras_lit.Lock(last_blocks=1)  # Same shape, another block.
    one = keras_lit.fingerprints.of_cached(tower, tower._below)
    assert one["weights"] != keras_lit.fingerprints.of_cached(tower, Lower(tower, 2))["weights"]
    # Its pooled features, which a worker of Beam checks, are those of the whole tower all the same.
    pooled = keras_lit.fingerprints.of_cached(tower, None)
    assert pooled == keras_lit.fingerprints.fingerprint(tower) != one


def test_what_cannot_be_kept_is_said():
    with pytest.raises(ValueError, match="at most 3, the blocks of ViTBackbone. Received: 4"):
        Lower(tower_of("ViT"), 4)

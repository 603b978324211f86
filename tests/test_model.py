import gc
import io
import math
import weakref

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from scipy.special import logsumexp

import keras_lit
from keras_lit import ImageTower, LiT, TextTower
from keras_lit.backbones import TextTransformer
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from keras_lit.training import batches
from tests import small

RNG = np.random.default_rng(0)
CAPTIONS = [
    "a red balloon",
    "a green balloon over the sea",
    "the sea",
    "two dogs in the snow",
    "a cat on a mat",
    "the moon",
    "a toucan",
    "a banana",
] * 3
IMAGES = RNG.integers(0, 256, size=(len(CAPTIONS), 12, 14, 3)).astype("uint8")


@pytest.fixture(scope="module")
def tokenizer():
    return keras_lit.tokenizers.train_sentencepiece(CAPTIONS, 60)


def image_tower(projection_dim=None, **options):
    """With batch norm and dropout, which a locked tower must keep still."""
    backbone = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(6, 3, strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )
    return ImageTower(backbone, "auto", projection_dim, ImagePreprocessor(8, **options))


def text_tower(tokenizer, **options):
    backbone = TextTransformer(tokenizer.vocabulary_size(), 8, 16, 1, 32, 4, dropout=0.1)
    return TextTower(backbone, tokenizer, 8, **options)


@pytest.fixture
def model(tokenizer):
    keras.utils.set_random_seed(1)
    return LiT(image_tower(), text_tower(tokenizer))


def dataset(batch_size=8):
    pairs = {"image": IMAGES, "text": CAPTIONS}
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size)


def values(variables):
    return [np.array(variable) for variable in variables]


def changed(before, variables):
    return [bool((a != b).any()) for a, b in zip(before, values(variables), strict=True)]


@pytest.mark.parametrize(
    "tuning",
    [
        "LU",
        # Each letter of either tower beside another.
        *(
            pytest.param(tuning, marks=pytest.mark.slow)
            for tuning in ("Lu", "LL", "UU", "Uu", "uL")
        ),
    ],
)
def test_tunings(tuning, tokenizer):
    keras.utils.set_random_seed(1)
    given = image_tower(projection_dim=16), text_tower(tokenizer, projection_dim=16)
    as_given = [values(tower.backbone.variables) for tower in given]
    model = LiT(*given, tuning=tuning)
    towers = model.image_tower, model.text_tower
    for letter, tower, weights, original in zip(tuning, towers, as_given, given, strict=True):
        fresh = changed(weights, tower.backbone.variables)
        assert any(fresh) == (letter == "u")
        assert not any(changed(weights, original.backbone.variables)), "the given tower is kept"
    before = [values(tower.backbone.variables) for tower in towers]
    heads = [values(tower.head.variables) for tower in towers]
    model.compile(keras_lit.optimizers.Adafactor(1e-2))
    model.fit(dataset(), verbose=0)
    for letter, tower, weights, head in zip(tuning, towers, before, heads, strict=True):
        # All of a trained tower moves, batch-norm statistics too; nothing of a locked one does.
        moved = changed(weights, tower.backbone.variables)
        moved = [
            m for m, v in zip(moved, tower.backbone.variables, strict=True) if "seed" not in v.path
        ]
        assert all(moved) == (letter != "L") and any(moved) == (letter != "L")
        assert all(changed(head, tower.head.variables))
    slots = {variable.path.split("/", 1)[-1] for variable in model.optimizer.variables}
    trained = len(model.trainable_variables)
    locked_names = [
        variable.path.replace("/", "_")
        for letter, tower in zip(tuning, towers, strict=True)
        if letter == "L"
        for variable in tower.backbone.variables
    ]
    assert not [slot for slot in slots for name in locked_names if name in slot]
    assert trained == 5 + sum(
        len(tower.backbone.trainable_variables)
        for letter, tower in zip(tuning, towers, strict=True)
        if letter != "L"
    )


def test_lock_heads(tokenizer):
    model = LiT(image_tower(16), text_tower(tokenizer), lock_heads=True)
    before = values(model.image_tower.variables)
    model.compile("adam")
    model.fit(dataset(), verbose=0)
    assert not any(changed(before, model.image_tower.variables))


def test_call_returns_unit_length_float32(model):
    outputs = model(model.preprocess({"image": IMAGES, "text": CAPTIONS}))
    assert set(outputs) == {"image_embeddings", "text_embeddings"}
    for embeddings in outputs.values():
        assert embeddings.shape == (24, 6) and embeddings.dtype == tf.float32
        np.testing.assert_allclose(tf.norm(embeddings, axis=1), np.ones(24), rtol=1e-5)


def test_loss_and_metrics_of_one_batch_are_those_of_numpy(model):
    model.compile("sgd")
    result = model.evaluate(dataset(24), return_dict=True, verbose=0)
    image, text = model.encode_image(IMAGES), model.encode_text(CAPTIONS)
    logits = 10.0 * image.astype("float64") @ text.T
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    np.testing.assert_allclose(result["loss"], (rows + columns).mean() / 2, rtol=1e-5)
    np.testing.assert_allclose(result["chance_loss"], math.log(24), rtol=1e-6)
    np.testing.assert_allclose(result["temperature"], 10.0, rtol=1e-6)
    # Every caption is there three times: any of the three is right, of their images, too.
    same = np.array(CAPTIONS)[:, None] == np.array(CAPTIONS)
    right, wrong = np.where(same, logits, -np.inf), np.where(same, -np.inf, logits)
    for name, axis in (("image_to_text_accuracy", 1), ("text_to_image_accuracy", 0)):
        found = (right.max(axis) - wrong.max(axis) > 1e-5).mean()
        np.testing.assert_allclose(result[name], found, rtol=1e-6)


def test_metrics_without_groups_count_the_pair_itself(model):
    model.group_captions = False
    model.compile("sgd")
    result = model.evaluate(dataset(24), return_dict=True, verbose=0)
    logits = 10.0 * model.encode_image(IMAGES) @ model.encode_text(CAPTIONS).T
    # Every caption is there three times: no image is nearer to its own than to both equals.
    assert result["image_to_text_accuracy"] == 0.0
    found = (np.diag(logits) >= logits.max(0) - 1e-6).mean()
    np.testing.assert_allclose(result["text_to_image_accuracy"], found, rtol=1e-6)


def test_metrics_are_means_over_pairs_and_the_temperature_is_the_last(model):
    model.compile(keras.optimizers.SGD(1.0))
    history = model.fit(dataset(16), verbose=0).history  # batches of 16 and 8
    np.testing.assert_allclose(
        history["chance_loss"][0], (16 * math.log(16) + 8 * math.log(8)) / 24, rtol=1e-6
    )
    np.testing.assert_allclose(history["temperature"][-1], model.temperature, rtol=1e-6)
    assert abs(float(model.temperature) - 10) > 1e-4


@pytest.mark.slow
def test_training_lowers_the_loss(tokenizer):
    keras.utils.set_random_seed(0)
    model = LiT(image_tower(), text_tower(tokenizer))
    model.compile(keras_lit.optimizers.Adafactor(3e-3))
    pairs = dataset().take(1)
    before = model.evaluate(pairs, return_dict=True, verbose=0)["loss"]
    model.fit(pairs.cache().repeat(60), verbose=0)
    assert model.evaluate(pairs, return_dict=True, verbose=0)["loss"] < 0.5 * before


def test_one_sgd_step_is_the_gradient_of_the_loss(tokenizer):
    keras.utils.set_random_seed(0)
    backbone = TextTransformer(tokenizer.vocabulary_size(), 8, 16, 1, 32, 4)
    model = LiT(image_tower(), TextTower(backbone, tokenizer, 8))
    batch = model.preprocess({"image": IMAGES, "text": CAPTIONS})
    weights = model.trainable_variables
    with tf.GradientTape() as tape:
        outputs = model(batch)
        image, text = outputs["image_embeddings"], outputs["text_embeddings"]
        logits = tf.exp(model.log_temperature) * tf.matmul(image, text, transpose_b=True)
        labels = tf.range(24)
        crossentropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        loss = 0.5 * tf.reduce_mean(
            crossentropy(labels, logits) + crossentropy(labels, tf.transpose(logits))
        )
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    expected = [
        np.array(weight) - 0.1 * np.array(tf.convert_to_tensor(gradient))
        for weight, gradient in zip(weights, gradients, strict=True)
    ]
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(dataset(24), verbose=0)
    for value, weight in zip(expected, weights, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6, err_msg=weight.path)


def test_max_temperature(tokenizer):
    model = LiT(image_tower(), text_tower(tokenizer), max_temperature=10.5)
    model.compile(keras.optimizers.SGD(0.0))
    model.log_temperature.assign(5.0)
    model.fit(dataset(), verbose=0)
    np.testing.assert_allclose(model.temperature, 10.5, rtol=1e-5)


def test_what_other_parts_were_made_to_fit_is_settled(model):
    text = model.text_tower.preprocessor
    for owner, name, value in (
        (text, "sequence_length", 32),
        (text, "start_token_id", 1),
        (text, "end_token_id", 1),
        (text, "pad_token_id", 1),
        (model.text_tower, "sequence_length", 32),
        (model.image_tower.preprocessor, "image_size", 64),
        (model, "loss_name", "sigmoid"),
        (model, "max_temperature", 100.0),
    ):
        known = getattr(owner, name)
        message = rf"`{name}` is settled when a `{type(owner).__name__}` is made.*{value!r}"
        with pytest.raises(ValueError, match=message):
            setattr(owner, name, value)
        setattr(owner, name, known)  # The same is nothing new.
        assert getattr(owner, name) == owner.get_config().get(name, known)


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_seeds_repeat_a_run_exactly(run_eagerly, tokenizer):
    def run():
        keras.utils.set_random_seed(3)
        augmenting = image_tower(random_crop=(0.3, 1.0), random_flip=True)
        model = LiT(augmenting, text_tower(tokenizer))
        model.compile("adam", run_eagerly=run_eagerly)
        model.fit({"image": IMAGES, "text": CAPTIONS}, batch_size=8, epochs=2, verbose=0)
        return values(model.variables)

    first, second = run(), run()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_crops_differ_within_a_batch_and_between_epochs(tokenizer):
    keras.utils.set_random_seed(1)
    towers = image_tower(random_crop=(0.2, 0.4)), text_tower(tokenizer)
    same = {"image": IMAGES[[0] * 8], "text": CAPTIONS[:8]}
    pairs = keras_lit.training.batches.for_step(same, *towers, batch_size=8, training=True)
    first, second = (next(iter(pairs))["image"].numpy() for _ in range(2))
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8
    assert (first != second).any(axis=(1, 2, 3)).all()


@pytest.mark.slow
def test_precomputed_features_train_like_images(tokenizer):
    def run(features):
        keras.utils.set_random_seed(3)
        model = LiT(image_tower(), text_tower(tokenizer))
        batch = model.preprocess({"image": IMAGES, "text": CAPTIONS})
        if features:
            image_features = model.image_tower.features(batch["image"]).numpy()
            batch = {"image_features": image_features, "text": CAPTIONS}
        else:
            batch = {"image": IMAGES, "text": CAPTIONS}
        keras.utils.set_random_seed(4)
        model.compile("sgd")
        history = model.fit(batch, batch_size=24, epochs=3, verbose=0, shuffle=False).history
        return history["loss"]

    np.testing.assert_allclose(run(True), run(False), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tuning": "uU", "temperature": 5.0, "max_temperature": 50.0},
        {"tuning": "LL", "lock_heads": True},
    ],
)
def test_keras_file_round_trips(options, tokenizer, tmp_path):
    model = LiT(image_tower(6, resize="pad"), text_tower(tokenizer, pooling="mean"), **options)
    model.compile(keras_lit.optimizers.Adafactor(1e-3))
    model.fit(dataset(), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.encode_image(IMAGES), model.encode_image(IMAGES))
    np.testing.assert_array_equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert float(again.temperature) == float(model.temperature)
    for name in ("tuning", "max_temperature", "lock_heads", "initial_temperature"):
        assert getattr(again, name) == getattr(model, name)
    # Training goes on where it was.
    assert int(again.optimizer.iterations) == 3
    for a, b in zip(
        values(model.optimizer.variables), values(again.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [v.path for v in again.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]


def test_the_config_tells_the_loss(tokenizer):
    options = {"loss": "sigmoid", "bias": -5.0, "local_loss": True}
    config = LiT(image_tower(), text_tower(tokenizer), **options).get_config()
    assert {name: config[name] for name in options} == options


def test_what_keras_rebuilds_from_a_configuration_knows_its_words(model):
    """Of files alone the assets hold them, too."""
    for again in (
        keras.models.model_from_json(model.to_json()),
        keras.models.clone_model(model),
        type(model).from_config(model.get_config()),
    ):
        again.set_weights(model.get_weights())
        texts = ["a red dog", "a white moon and a toucan"]
        np.testing.assert_allclose(again.encode_text(texts), model.encode_text(texts), atol=1e-6)


def test_weights_file_round_trips(model, tokenizer, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    other = LiT(image_tower(), text_tower(tokenizer))
    assert np.abs(other.encode_text(CAPTIONS) - model.encode_text(CAPTIONS)).max() > 1e-3
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.encode_text(CAPTIONS), model.encode_text(CAPTIONS))


@pytest.mark.slow
def test_mixed_bfloat16(tokenizer):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        keras.utils.set_random_seed(0)
        model = LiT(image_tower(6), text_tower(tokenizer))
        model.compile("adam")
        history = model.fit(dataset(), epochs=2, verbose=0).history
        outputs = model(model.preprocess({"image": IMAGES, "text": CAPTIONS}))
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()
    assert model.log_temperature.dtype == "float32"
    assert all(embeddings.dtype == tf.float32 for embeddings in outputs.values())
    assert model.text_tower.head.compute_dtype == "bfloat16"


@pytest.mark.slow
def test_jit_compile(model):
    model.compile("adam", jit_compile=True)
    assert np.isfinite(model.fit(dataset(), verbose=0).history["loss"]).all()


class OfAUser(keras.optimizers.SGD):
    pass


@pytest.mark.parametrize(
    "optimizer, jit_compile, compiled",
    [
        (lambda: keras.optimizers.Adam(0.1), "auto", True),
        (lambda: keras.optimizers.Adam(0.1), False, False),
        (lambda: keras_lit.optimizers.Adafactor(0.1), "auto", False),  # A momentum in bfloat16.
        (lambda: OfAUser(0.1), "auto", False),
    ],
)
def test_the_update_of_many_weights_is_compiled(optimizer, jit_compile, compiled, monkeypatch):
    monkeypatch.setattr("keras_lit.model._COMPILED_UPDATE_FROM", 30)
    towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
    model = keras_lit.LiT(*towers, tuning="LL")
    model.compile(optimizer(), jit_compile=jit_compile)
    rows = {"image_features": tf.eye(4, 8), "text_features": tf.eye(4, 6)}
    step = tf.function(model.train_step).get_concrete_function(rows)
    functions = step.graph.as_graph_def().library.function
    assert any("_XlaMustCompile" in x.attr for x in functions) == compiled


# What goes in.


def encoded():
    files = [io.BytesIO() for _ in IMAGES]
    for image, file in zip(IMAGES, files, strict=True):
        PIL.Image.fromarray(image).save(file, "png")
    return [file.getvalue() for file in files]


@pytest.mark.slow
def test_encode_image_takes_every_kind_of_image(model, tmp_path):
    expected = model.encode_image(IMAGES)
    assert expected.shape == (24, 6) and expected.dtype == np.float32
    files = []
    for i, image in enumerate(encoded()):
        files.append(tmp_path / f"{i}.png")
        files[-1].write_bytes(image)
    kinds = {
        "bytes": encoded(),
        "string tensor": tf.constant(encoded()),
        "paths": files,
        "file names": [str(file) for file in files],
        "list of arrays": list(IMAGES),
        "preprocessed": model.image_tower.preprocessor(IMAGES),
        "dataset": tf.data.Dataset.from_tensor_slices(IMAGES).batch(7),
    }
    for kind, images in kinds.items():
        result = model.encode_image(images, batch_size=5)
        np.testing.assert_allclose(result, expected, atol=1e-6, err_msg=kind)
    np.testing.assert_allclose(model.encode_image(files[3]), expected[3:4], atol=1e-6)
    mixed = [IMAGES[0], IMAGES[1][:5], np.dstack([IMAGES[2], np.full([12, 14], 255, "uint8")])]
    np.testing.assert_allclose(model.encode_image(mixed)[[0, 2]], expected[[0, 2]], atol=1e-6)


class Batches(keras.utils.PyDataset):
    """What `part(slice)` gives of 24 rows, 7 at a time."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.part(slice(7 * index, 7 * index + 7))


@pytest.mark.slow
def test_each_side_is_encoded_from_all_that_fit_takes(model):
    pairs = {"image": IMAGES, "text": np.array(CAPTIONS, object)}
    rows = tf.data.Dataset.from_tensor_slices({"image": IMAGES, "text": CAPTIONS})
    for column, encode in ("image", model.encode_image), ("text", model.encode_text):
        expected = encode(pairs[column])

        def one(part, column=column):
            return pairs[column][part]

        forms = {
            "dict": pairs,
            "dataset of pairs": rows.batch(7),
            "dataset, not batched": rows,
            "a column, not batched": rows.map(lambda pair, column=column: pair[column]),
            "PyDataset of pairs": Batches(lambda part: {k: v[part] for k, v in pairs.items()}),
            "PyDataset of a column": Batches(one),
            "tuples": Batches(lambda part, one=one: (one(part), None)),
            "generator": (one(slice(i, i + 7)) for i in range(0, 24, 7)),
            "generator of tuples": ((one(slice(i, i + 7)),) for i in range(0, 24, 7)),
        }
        for form, data in forms.items():
            found = encode(data, batch_size=5, verbose=0)
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"{column}, {form}")
    features = model.image_tower.features(model.image_tower.preprocessor(IMAGES))
    found = model.encode_image({"image_features": features, "text": pairs["text"]})
    np.testing.assert_allclose(found, model.encode_image(IMAGES), atol=1e-6)
    with pytest.raises(ValueError, match="a column 'image'. Received: .'text'"):
        model.encode_image({"text": CAPTIONS})
    with pytest.raises(ValueError, match="takes no targets"):
        model.encode_image(rows.map(lambda pair: (pair["image"], pair["text"], 1)).batch(5))


def test_bytes_may_end_in_zeros(model):
    """As those of a black BMP do, which NumPy's own strings would cut off."""
    bmp = b"BM" + np.array([102, 0, 54, 40, 4, 4], "<i4").tobytes()
    bmp += np.array([1, 24], "<i2").tobytes() + bytes(24) + bytes(48)
    expected = model.encode_image(np.zeros([1, 4, 4, 3], "uint8"))
    np.testing.assert_array_equal(model.encode_image([bmp]), expected)


def test_encode_text_takes_strings_and_ids(model):
    expected = model.encode_text(CAPTIONS)
    ids = model.text_tower.preprocessor(CAPTIONS)
    for text in (ids, ids.numpy(), tf.constant(CAPTIONS), np.array(CAPTIONS), tuple(CAPTIONS)):
        np.testing.assert_allclose(model.encode_text(text, batch_size=7), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_text(CAPTIONS[2]), expected[2:3], atol=1e-6)


def test_encoding_is_compiled_once(tokenizer, monkeypatch):
    """Not for each call, and again when an option has changed."""
    traced = []
    for kind in (ImagePreprocessor, TextPreprocessor):

        def preprocess(self, *args, of=kind._preprocess):
            traced.append(type(self).__name__)
            return of(self, *args)

        monkeypatch.setattr(kind, "_preprocess", preprocess)
    keras.utils.set_random_seed(1)
    model = LiT(image_tower(), text_tower(tokenizer))
    for n in (1, 3, 2, 5, 1, 7):
        found = model.encode_image(IMAGES[:n, : 12 - n])
        for i in range(n):
            one = model.encode_image(IMAGES[i : i + 1, : 12 - n])
            np.testing.assert_allclose(found[i], one[0], atol=1e-6)
        found = model.encode_text(CAPTIONS[:n])
        np.testing.assert_allclose(found[-1:], model.encode_text(CAPTIONS[n - 1]), atol=1e-6)
    assert sorted(traced) == ["ImagePreprocessor"] * 2 + ["TextPreprocessor"] * 2
    for tower in (model.image_tower, model.text_tower):
        assert tower.inference().experimental_get_tracing_count() <= 2
    model.image_tower.set_weights([2 * w + 1 for w in model.image_tower.get_weights()])
    model.image_tower.preprocessor.value_range = "0..1"
    pixels = IMAGES[:2, :8, :8]  # Of the tower's size.
    expected = model.image_tower((pixels / 255).astype("float32")).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_image(pixels), expected, atol=1e-6)


def test_the_first_id_outside_of_the_vocabulary_is_refused(model):
    words = model.text_tower.vocabulary_size
    model.encode_text(np.full([1, 8], words - 1))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"in \[0, \d+\), the text tower"):
        model.encode_text(np.full([1, 8], words))


def test_long_text_is_cut(model):
    long = "the sea the sea the sea the sea the sea the sea"
    ids = model.text_tower.preprocessor([long, long + " and more"])
    np.testing.assert_array_equal(ids[0], ids[1])


def test_arrays_are_shuffled_where_asked_in_batches_of_32(model):
    features = np.repeat(np.arange(40.0)[:, None], 6, axis=1)
    arrays = {"image_features": features, "text": np.zeros([40, 8], "int32")}
    towers = model.image_tower, model.text_tower
    for shuffle in (False, True):
        pairs = batches.for_step(arrays, *towers, shuffle=shuffle)
        epochs = [[batch["image_features"].numpy()[:, 0] for batch in pairs] for _ in range(2)]
        assert [len(rows) for rows in epochs[0]] == [32, 8]
        first, second = (np.concatenate(rows).tolist() for rows in epochs)
        assert (first != second) == shuffle and (first != list(range(40))) == shuffle
        assert sorted(first) == list(range(40))


@pytest.mark.slow
def test_fit_takes_raw_and_preprocessed_pairs_alike(model):
    model.compile("sgd")
    raw = tf.data.Dataset.from_tensor_slices({"image": encoded(), "text": CAPTIONS})
    named = raw.map(lambda pair: {**pair, "name": "x", "label": 3})
    ready = model.preprocess(raw.batch(8))
    unbatched = model.preprocess(raw).batch(8)
    arrays = {"image": encoded(), "text": CAPTIONS}
    results = [
        model.evaluate(pairs, batch_size=8 if isinstance(pairs, dict) else None, verbose=0)
        for pairs in (raw.batch(8), named.batch(8), ready, unbatched, arrays, dataset())
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-6)


def test_validation_and_evaluation_do_not_augment(tokenizer):
    keras.utils.set_random_seed(1)
    augmenting = image_tower(random_crop=(0.2, 0.4), random_flip=True)
    model = LiT(augmenting, text_tower(tokenizer))
    model.compile(keras.optimizers.SGD(0.0))
    logits = 10.0 * model.encode_image(IMAGES) @ model.encode_text(CAPTIONS).T
    rows, columns = (np.log(np.exp(logits).sum(axis)) for axis in (1, 0))
    expected = ((rows + columns) / 2 - np.diag(logits)).mean()
    history = model.fit(dataset(24), validation_data=dataset(24), verbose=0).history
    result = model.evaluate(dataset(24), return_dict=True, verbose=0)
    np.testing.assert_allclose([history["val_loss"][0], result["loss"]], expected, rtol=1e-5)


# Bad input is named.


@pytest.fixture(scope="module")
def refusing(tokenizer):
    """A compiled model for tests in which nothing trains."""
    model = LiT(image_tower(), text_tower(tokenizer))
    model.compile("sgd")
    yield model


@pytest.mark.parametrize("tuning", ["lu", "UUU", "XX", "ul", "U"])
def test_unknown_tuning(tuning, tokenizer):
    with pytest.raises(ValueError, match="`tuning` should be one of 'LU', 'LL', 'Lu'"):
        LiT(image_tower(), text_tower(tokenizer), tuning=tuning)


def test_towers_of_different_width(tokenizer):
    with pytest.raises(
        ValueError, match=r"same width. Received: image 6, text 16.*projection_dim=6"
    ):
        LiT(image_tower(), text_tower(tokenizer, projection_dim=0))


def test_one_head_for_both_towers_is_refused():
    head = keras.layers.Dense(4)
    image_tower = keras_lit.ImageTower.from_features(6, head=head)
    text_tower = keras_lit.TextTower.from_features(6, head=head)
    with pytest.raises(ValueError, match="head of its own. Received one layer for both: dense"):
        LiT(image_tower, text_tower, "LL")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "`temperature` should be a positive number"),
        ({"loss": "triplet"}, "`loss` should be one of 'softmax'"),
        ({"max_temperature": 5.0}, "`max_temperature` should be at least"),
    ],
)
def test_bad_model_arguments(options, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        LiT(image_tower(), text_tower(tokenizer), **options)


def test_compile_takes_no_loss(refusing):
    with pytest.raises(ValueError, match="its own contrastive loss"):
        refusing.compile("adam", loss="mse")


STATIC = {
    "text of numbers": ({"text": np.zeros(24)}, "Text should be strings, or integer token ids"),
    "too short ids": (
        {"text": np.zeros([24, 5], "int32")},
        r"`text` should have shape \[batch, 8\]",
    ),
    "several captions": ({"text": [["a", "b"]] * 24}, "one caption a pair"),
    "no text": ({"text": None}, r"Pairs should be dicts.*Received: \['image'\]"),
    "signed pixels": ({"image": np.zeros([24, 8, 8, 3], "int32")}, "Images should be encoded"),
    "wrong size": (
        {"image": np.zeros([24, 9, 8, 3], "f")},
        r"should have shape \[batch, 8, 8, 3\]",
    ),
    "wrong width": (
        {"image": None, "image_features": np.zeros([24, 7], "f")},
        r"`image_features` should have shape \[batch, 6\]",
    ),
    "more text": ({"text": [*CAPTIONS, "one more"]}, "as many images as texts"),
}


@pytest.mark.parametrize("case", STATIC)
def test_pairs_that_do_not_suit_the_towers(case, refusing):
    change, message = STATIC[case]
    pairs = {"image": IMAGES, "text": CAPTIONS, **change}
    with pytest.raises(ValueError, match=message):
        refusing.fit(
            {name: values for name, values in pairs.items() if values is not None}, verbose=0
        )


def with_nan():
    images = np.zeros([24, 8, 8, 3], "float32")
    images[5, 1, 1, 1] = np.nan
    return images


RUNTIME = {
    "broken image": ({"image": [*encoded()[:23], b"broken"]}, r"does not decode.*broken"),
    "broken image with a name": (
        {"image": [*encoded()[:23], b"broken"], "name": [f"{i}.png" for i in range(24)]},
        r"does not decode.*23\.png",
    ),
    "NaN": ({"image": with_nan()}, "`image` should be finite"),
    "empty caption": ({"text": [*CAPTIONS[:23], "  "]}, "Captions should not be empty"),
    "unknown id": ({"text": np.full([24, 8], 9999)}, r"in \[0, \d+\), the text tower"),
    "negative id": ({"text": np.full([24, 8], -1)}, r"in \[0, \d+\), the text tower"),
}


@pytest.mark.parametrize("case", RUNTIME)
def test_bad_rows(case, refusing):
    change, message = RUNTIME[case]
    pairs = {"image": IMAGES, "text": CAPTIONS, **change}
    before = values(refusing.trainable_variables)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        refusing.fit(pairs, verbose=0)
    assert not any(changed(before, refusing.trainable_variables))


def test_features_need_a_locked_tower(tokenizer):
    model = LiT(image_tower(), text_tower(tokenizer), "UU")
    model.compile("sgd")
    with pytest.raises(ValueError, match="are for a locked image tower"):
        model.fit({"image_features": np.zeros([24, 6], "float32"), "text": CAPTIONS})


def test_a_batch_of_one_is_refused_but_not_as_the_last(model):
    model.compile("sgd")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received a batch of 1"):
        model.fit(dataset(1), verbose=0)
    model.fit(dataset(23), verbose=0)


@pytest.mark.parametrize("empty", [lambda d: d.take(0), lambda d: d.filter(lambda pair: False)])
def test_an_empty_dataset_is_refused(empty, refusing):
    with pytest.raises(ValueError, match="empty"):
        refusing.fit(empty(dataset()), verbose=0)


def test_an_unbatched_dataset_is_refused(refusing):
    with pytest.raises(ValueError, match=r"should be batched, for example `pairs\.batch\(512\)`"):
        refusing.fit(dataset().unbatch())


def test_y_is_refused(refusing):
    with pytest.raises(ValueError, match="no `y`"):
        refusing.fit(IMAGES, CAPTIONS)


def test_text_without_a_tokenizer():
    model = LiT(image_tower(), TextTower(TextTransformer(60, 8, 16, 1, 32, 4), sequence_length=8))
    with pytest.raises(ValueError, match="has no tokenizer"):
        model.encode_text(["a"])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([b"broken"], tf.errors.InvalidArgumentError, "does not decode.*broken"),
        (["/nowhere/a.png"], tf.errors.NotFoundError, "^No such file: '/nowhere/a.png'$"),
        (["https://x.org/a.png"], ValueError, "web addresses are not fetched.*x.org"),
        (np.zeros([2, 9, 7], "uint8"), ValueError, r"1 to 4 channels.*\(2, 9, 7\)"),
        (np.zeros([2, 3, 9, 7], "uint8"), ValueError, r"1 to 4 channels.*, 3, 9, 7\)"),
        ([np.zeros([4, 4, 3])], ValueError, r"uint8 arrays.*float64 of shape \(4, 4, 3\)"),
        (with_nan(), tf.errors.InvalidArgumentError, "`image` should be finite"),
        (with_nan()[0], ValueError, r"pass one as `image\[np.newaxis\]`"),
        (
            np.full([2, 6], np.nan, "float32"),
            tf.errors.InvalidArgumentError,
            "`image_features` should be finite",
        ),
    ],
)
def test_images_that_cannot_be_encoded(images, error, message, refusing):
    with pytest.raises(error, match=message):
        refusing.encode_image(images)


@pytest.mark.slow
def test_sigmoid_loss_learns_its_bias_and_is_saved(tokenizer, tmp_path):
    keras.utils.set_random_seed(1)
    model = LiT(image_tower(), text_tower(tokenizer), loss="sigmoid", bias=-5.0)
    np.testing.assert_allclose(model.bias, -5.0)
    embeddings = model(model.preprocess(next(iter(dataset(24)))))
    logits = 10.0 * embeddings["image_embeddings"] @ tf.transpose(embeddings["text_embeddings"]) - 5
    # Every caption is there three times, and all of these are positives, a third each.
    same = np.array(CAPTIONS)[:, None] == np.array(CAPTIONS)
    questions = np.log1p(np.exp((1 - 2 * same) * np.array(logits, "float64")))
    expected = (questions * np.where(same, 1 / 3, 1)).sum() / 24
    model.compile(keras.optimizers.SGD(0.1))
    assert model.evaluate(dataset(24), verbose=0, return_dict=True)["loss"] == pytest.approx(
        expected, rel=1e-5
    )
    model.fit(dataset(), verbose=0)
    assert float(model.bias) != -5.0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.bias) == float(model.bias) and loaded.loss_name == "sigmoid"


@pytest.mark.parametrize("side", ["image", "text"])
def test_nan_embeddings_name_their_tower(side, tokenizer):
    model = LiT(image_tower(projection_dim=16), text_tower(tokenizer))
    head = {"image": model.image_tower, "text": model.text_tower}[side].head
    head.bias.assign(np.full(16, np.nan))
    model.compile("sgd")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"The {side} tower's embeddings"):
        model.fit(dataset(), verbose=0)


@pytest.mark.slow
def test_several_steps_per_execution_change_nothing(tokenizer):
    def train(**options):
        keras.utils.set_random_seed(1)
        model = LiT(image_tower(), text_tower(tokenizer))
        model.compile(keras.optimizers.SGD(0.1), **options)
        history = model.fit(dataset(), epochs=2, verbose=0).history
        return history, values(model.trainable_variables)

    (history, weights), (expected, wanted) = train(steps_per_execution=2), train()
    assert history.keys() == expected.keys()
    for name in history:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-6)
    for weight, other in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_gradient_accumulation_on_one_device(model):
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
    before = values(model.trainable_variables)
    model.fit(dataset(12), verbose=0)  # two steps
    assert not any(changed(before, model.trainable_variables))
    model.fit(dataset(12), verbose=0)
    assert any(changed(before, model.trainable_variables))


def test_a_head_that_comes_after_encoding_is_used():
    images = np.zeros([2, 40, 40, 3], "uint8")
    image_tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    text_tower = keras_lit.TextTower.from_size("Ti", vocabulary_size=100)
    assert keras_lit.LiT(image_tower, text_tower).encode_image(images).shape == (2, 8)
    image_tower.add_head(5)
    text_tower = keras_lit.TextTower.from_size("Ti", vocabulary_size=100)
    assert keras_lit.LiT(image_tower, text_tower).encode_image(images).shape == (2, 5)


@pytest.mark.slow
def test_a_head_that_comes_after_compile_is_used():
    """Also where it is locked, so that what trains is the same."""
    towers = (keras_lit.ImageTower, 5), (keras_lit.TextTower, 6)
    towers = [tower.from_features(dim, 4) for tower, dim in towers]
    model = LiT(*towers, "LL", lock_heads=True)
    model.compile("sgd", jit_compile=False)
    pairs = {"image_features": RNG.normal(size=[8, 5]), "text_features": RNG.normal(size=[8, 6])}
    model.evaluate(pairs, batch_size=8, verbose=0), model.predict(pairs, batch_size=8, verbose=0)
    model.train_on_batch(pairs)
    for _ in range(2):
        model.image_tower.add_head(4)
        image, text = model.encode_image(pairs), model.encode_text(pairs)
        logits = float(model.temperature) * image @ text.T
        wanted = (
            np.mean([logsumexp(logits, axis=i).mean() for i in (0, 1)]) - np.diag(logits).mean()
        )
        found = model.evaluate(pairs, batch_size=8, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        predicted = model.predict(pairs, batch_size=8, verbose=0)["image_embeddings"]
        np.testing.assert_allclose(predicted, image, atol=1e-6)
        trained = model.train_on_batch(pairs, return_dict=True)["loss"]
        np.testing.assert_allclose(trained, wanted, rtol=1e-5)
        model.reset_metrics()


@pytest.mark.slow
def test_what_was_fitted_is_freed():
    """Who fits many models in one process keeps none of their weights and graphs."""

    def fit():
        model, pairs = small.make_model("Lu"), small.make_pairs(6).batch(3)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(pairs, validation_data=pairs, verbose=0)
        return [weakref.ref(model), *(weakref.ref(w.value) for w in model.text_tower.weights)]

    left = fit()
    gc.collect()
    assert len(left) > 10 and not any(weight() is not None for weight in left)

"""One door: every form of data that Keras takes becomes the same batches, or a sentence says why not."""

import functools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.training.batches import _raw_images, for_step
from tests.small import make_model, mirrored

CAPTIONS = np.array(
    ["a red dog", "a blue cat", "a white moon", "a grey toucan", "one balloon", "a green banana"],
    dtype=object,
)
PIXELS = np.random.default_rng(0).integers(0, 256, [6, 8, 8, 3]).astype("uint8")
PAIRS = {"image": PIXELS, "text": CAPTIONS}


def batches(pairs=PAIRS, size=3):
    return [{k: v[i : i + size] for k, v in pairs.items()} for i in range(0, 6, size)]


def rows():
    return tf.data.Dataset.from_tensor_slices(PAIRS).batch(3)


class Batches(keras.utils.PyDataset):
    def __init__(self, form=lambda batch: batch, **options):
        super().__init__(**options)
        self.form, self.epochs = form, 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.form(batches()[index])

    def on_epoch_end(self):
        self.epochs += 1


def new_lit():
    model = make_model("LU")
    # Nothing is cropped at random: the same batches are to train the same weights.
    model.image_tower.preprocessor.random_crop = None
    model.image_tower.preprocessor.random_flip = False
    model.compile(keras.optimizers.SGD(0.1))
    return model


@functools.cache
def shared():
    """A compiled model and its first weights: what it has traced serves all tests."""
    model = new_lit()
    return model, model.get_weights()


def lit():
    """The shared model as at its start; SGD has no state."""
    model, weights = shared()
    model.set_weights(weights)
    model.optimizer.learning_rate.assign(0.1)
    return model


@pytest.fixture(scope="module", autouse=True)
def forget_the_shared_model():
    yield
    shared.cache_clear()


def trained(x, **options):
    model = lit()
    history = model.fit(x, verbose=0, shuffle=False, **options).history
    return history["loss"], [np.array(weight) for weight in model.trainable_variables]


@pytest.fixture(scope="module")
def expected():
    model = lit()
    start = [np.array(weight) for weight in model.trainable_variables]
    result = trained(PAIRS, batch_size=3)
    assert any((a != b).any() for a, b in zip(result[1], start, strict=True))
    return result


FORMS = {
    "(dict,)": lambda: ((PAIRS,), {"batch_size": 3}),
    "tf.data": lambda: (tf.data.Dataset.from_tensor_slices(PAIRS).batch(3), {}),
    "tf.data of (dict, None)": lambda: (
        tf.data.Dataset.from_tensor_slices((PAIRS, None)).batch(3),
        {},
    ),
    "generator": lambda: (iter(batches()), {}),
    "generator of (dict,)": lambda: (((batch,) for batch in batches()), {}),
    "PyDataset": lambda: (Batches(), {}),
    "PyDataset of (dict, None) with workers": lambda: (Batches(lambda x: (x, None), workers=3), {}),
    "endless generator": lambda: ((b for _ in range(9) for b in batches()), {"steps_per_epoch": 2}),
}


@pytest.mark.parametrize("form", FORMS)
def test_raw_pairs_of_every_form_train_the_same(form, expected):
    x, options = FORMS[form]()
    loss, weights = trained(x, **options)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    for found, wanted in zip(weights, expected[1], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_a_pydataset_is_read_once_an_epoch_and_told_of_its_end():
    data = Batches(workers=2)
    lit().fit(data, epochs=3, verbose=0)
    assert data.epochs == 3


def test_data_are_begun_once_an_epoch(monkeypatch):
    """Encoded images take a while to begin; Keras begins them twice, and what a shuffle draws."""
    begun, begin = [], tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda x: begun.append(x) or begin(x))
    model, pairs = lit(), tf.data.Dataset.from_tensor_slices(PAIRS).batch(3)
    for call, expected in (
        (lambda: model.fit(pairs, verbose=0), 1),
        (lambda: model.fit(pairs, epochs=3, verbose=0, validation_data=pairs), 4 + 3),
        (lambda: model.fit(pairs, initial_epoch=2, epochs=3, verbose=0), 1),
        (lambda: model.evaluate(pairs, verbose=0), 1),
        (lambda: model.predict(pairs, verbose=0), 1),
    ):
        begun.clear()
        call()
        assert len(begun) == expected


@pytest.mark.parametrize(
    "validation",
    [PAIRS, (PAIRS,), (PAIRS, None), Batches()],
    ids=["dict", "(dict,)", "(dict, None)", "PyDataset"],
)
def test_validation_data_of_every_form(validation):
    model = lit()
    model.optimizer.learning_rate.assign(0.0)
    options = {} if isinstance(validation, Batches) else {"validation_batch_size": 3}
    history = model.fit(PAIRS, batch_size=6, verbose=0, validation_data=validation, **options)
    expected = model.evaluate(PAIRS, batch_size=3, verbose=0, return_dict=True)
    assert history.history["val_loss"][0] == pytest.approx(expected["loss"], rel=1e-6)


def test_one_batch():
    model = lit()
    expected = model.evaluate(PAIRS, batch_size=6, verbose=0, return_dict=True)["loss"]
    assert model.test_on_batch(PAIRS, return_dict=True)["loss"] == pytest.approx(expected, 1e-6)
    found = model.predict_on_batch(PAIRS)
    np.testing.assert_allclose(found["image_embeddings"], model.encode_image(PIXELS), atol=1e-6)
    model.reset_metrics()
    assert model.train_on_batch(PAIRS, return_dict=True)["loss"] == pytest.approx(expected, 1e-6)
    assert model.evaluate(PAIRS, batch_size=6, verbose=0, return_dict=True)["loss"] < expected


def test_predict_gives_each_pair_once_on_replicas_too():
    model = lit()
    expected = model.encode_image(PIXELS), model.encode_text(list(CAPTIONS))
    with mirrored(2).scope():
        on_replicas = new_lit()
    for of, size in ((model, 4), (on_replicas, 3)):
        found = of.predict(tf.data.Dataset.from_tensor_slices(PAIRS).batch(size), verbose=0)
        for name, wanted in zip(("image_embeddings", "text_embeddings"), expected, strict=True):
            np.testing.assert_allclose(found[name], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([PIXELS, CAPTIONS], {}, "Pairs should be.*Received: list"),
        ((PIXELS, CAPTIONS), {}, "no targets.*Map your dataset"),
        (iter([[1, 2]]), {}, "Received batches: list"),
        (iter([]), {}, "dataset of pairs is empty"),
        (PAIRS, {"y": CAPTIONS}, "takes no `y`.*as `x`"),
        (PAIRS, {"sample_weight": np.ones(6)}, "takes no `sample_weight`.*filters"),
        (PAIRS, {"class_weight": {0: 1.0}}, "takes no `class_weight`"),
        (PAIRS, {"validation_split": 0.2}, "takes no `validation_split`.*validation_data"),
        (lambda: rows().repeat(), {}, "never ends.*Leave `repeat.*`steps_per_epoch`"),
        (rows, {"validation_data": lambda: rows().repeat()}, "never ends.*`validation_steps`"),
        (
            lambda: {**PAIRS, "text": tf.ragged.constant([["a"], ["a", "b"], *[["c"]] * 4])},
            {},
            "one caption.*rows of different lengths",
        ),
        ({**PAIRS, "text": [["a"], ["a", "b"], *[["c"]] * 4]}, {}, "rows of different lengths"),
        ({**PAIRS, "image": np.moveaxis(PIXELS, 3, 1)}, {}, r"1 to 4 channels.*np\.moveaxis"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(x, options, message):
    x = x() if callable(x) else x
    options = {name: made() if callable(made) else made for name, made in options.items()}
    with pytest.raises(ValueError, match=message):
        lit().fit(x, verbose=0, **options)


def test_a_generator_is_not_read_twice_in_silence():
    with pytest.raises(tf.errors.OpError, match="A generator gives its batches once"):
        lit().fit(iter(batches()), epochs=2, verbose=0)


def test_the_model_itself_takes_preprocessed_pairs_only():
    model = lit()
    with pytest.raises(ValueError, match=r"model.preprocess\(pairs\)"):
        model({"image": tf.constant(PIXELS), "text": tf.constant(CAPTIONS)})
    raw = {"image": [b"\xff\xd8" * 999] * 2, "text": ["a", "b"]}
    for given, kind in ((raw, "(image|text): list"), (["a dog"], "pairs: list")):
        with pytest.raises(ValueError, match=rf"preprocess\(pairs\)(.|\n)*Received {kind}") as bad:
            model(given)
        assert len(str(bad.value)) < 200
    for tower, given in (
        (model.image_tower, PIXELS),
        (model.image_tower, ["a.jpg"]),
        (model.text_tower, ["a dog"]),
        (model.text_tower, tf.constant(["a dog"])),
    ):
        with pytest.raises(ValueError, match="tower takes what is preprocessed"):
            tower(given)
    assert model(model.preprocess(PAIRS))["text_embeddings"].shape == (6, 16)


def test_embeddings_in_a_graph():
    """`encode_*` refuse, and what the message says gives the same."""
    model = lit()
    given = {"image": tf.constant(PIXELS), "text": tf.constant(CAPTIONS.astype(bytes))}
    for side, values in given.items():
        encode, tower = getattr(model, f"encode_{side}"), getattr(model, f"{side}_tower")
        rows = tf.data.Dataset.from_tensors(values)
        with pytest.raises(ValueError, match=r"cannot be part of a graph.*tower\.preprocessor"):
            rows.map(encode)
        inside = rows.map(lambda x, t=tower: tf.math.l2_normalize(t(t.preprocessor(x)), axis=-1))
        np.testing.assert_allclose(next(iter(inside)), encode(values), atol=1e-6)


def test_batches_of_none_are_refused():
    with pytest.raises(ValueError, match="`batch_size` should be a positive whole number"):
        lit().encode_image(PIXELS, batch_size=0)
    with pytest.raises(ValueError, match="`batch_size` should be a positive whole number"):
        lit().encode_text(CAPTIONS, batch_size=0)


def test_a_batch_without_pairs_is_refused():
    given = iter([PAIRS, {name: values[:0] for name, values in PAIRS.items()}])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Batch.*1.*is empty"):
        lit().fit(given, verbose=0)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch", "predict_on_batch"])
def test_one_batch_without_pairs_is_refused(method):
    with pytest.raises(ValueError, match="A batch should hold pairs. Received none"):
        getattr(lit(), method)({name: values[:0] for name, values in PAIRS.items()})


@pytest.mark.parametrize("method", ["fit", "validation", "evaluate", "predict"])
def test_pairs_that_a_filter_left_none_of_are_refused(method):
    """Keras gives {}, no "val_loss", or fails at a name of its own."""
    none = rows().filter(lambda batch: False)
    calls = {
        "fit": lambda model: model.fit(none, verbose=0),
        "validation": lambda model: model.fit(PAIRS, validation_data=none, verbose=0),
        "evaluate": lambda model: model.evaluate(none, verbose=0, return_dict=True),
        "predict": lambda model: model.predict(none, verbose=0),
    }
    with pytest.raises(ValueError, match="dataset of pairs is empty"):
        calls[method](lit())


def test_a_py_dataset_that_becomes_shorter_is_refused():
    class Shorter(Batches):
        def __len__(self):
            return 2 - self.epochs

        def on_epoch_end(self):
            self.epochs = 1

    with pytest.raises(tf.errors.OpError, match="keep its number of batches.*2 batches.*1 now"):
        lit().fit(Shorter(), epochs=2, verbose=0)


@pytest.mark.parametrize(("name", "shape"), [("image", r"\[None, None, 3\]"), ("text", r"\[\]")])
def test_what_lost_its_rank_is_told_the_remedy(name, shape):
    def through_python(batch):
        lost = tf.numpy_function(lambda x: x, [batch[name]], batch[name].dtype)
        return {**batch, name: lost}

    with pytest.raises(ValueError, match=f"`{name}` has no known rank.*ensure_shape.*{shape}"):
        lit().fit(rows().map(through_python), verbose=0)
    with pytest.raises(ValueError, match=f"`{name}` has no known rank.*ensure_shape.*{shape}"):
        getattr(lit(), f"encode_{name}")(rows().map(through_python))


def test_epochs_after_a_backup_are_all_trained(tmp_path):
    """Keras goes back to the backup's epoch, so that one epoch of `fit` becomes three."""
    steps = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: steps.append(0),
        on_train_batch_end=lambda batch, logs: steps.append(steps.pop() + 1),
    )

    def stop(epoch, logs):
        if epoch == 2:
            raise RuntimeError

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    stopping = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
    with pytest.raises(RuntimeError):
        lit().fit(rows(), epochs=5, callbacks=[backup, stopping], verbose=0)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model = lit()
    model.fit(rows(), epochs=5, initial_epoch=4, callbacks=[backup, count], verbose=0)
    assert steps == [2, 2, 2]
    steps.clear()  # In Keras the next `fit` would go on at epoch 2, too, and train nothing.
    model.fit(rows(), epochs=2, callbacks=[count], verbose=0)
    assert steps == [2, 2]


@pytest.mark.parametrize("way", ["fit", "encode_image"])
def test_float_pixels_in_0_to_255_are_refused(way):
    model, pixels = lit(), PIXELS.astype("float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="from -1 to 1.*as uint8"):
        if way == "fit":
            model.fit({"image": pixels, "text": CAPTIONS}, verbose=0)
        else:
            model.encode_image(pixels)


def test_xla_on_a_cpu_keeps_away_from_depthwise_convolutions():
    backbone = keras.Sequential([keras.layers.DepthwiseConv2D(3, name="slow")])
    preprocessor = keras_lit.preprocessing.ImagePreprocessor(8)
    image_tower = keras_lit.ImageTower(backbone, preprocessor=preprocessor)
    towers = image_tower, lit().text_tower
    with pytest.raises(
        ValueError, match="such as `slow`.*Leave `jit_compile=True` out.*precompute"
    ):
        for_step(PAIRS, *towers, static_shapes=True)
    for_step({"image_features": np.ones([6, 3]), "text": CAPTIONS}, *towers, static_shapes=True)
    for_step(PAIRS, *towers)


def test_file_names_are_bytes(tmp_path):
    """`os.listdir` gives those that are not UTF-8 with surrogates."""
    path = bytes(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(b"its bytes")
    ((images, names),) = _raw_images([os.fsdecode(path)], 2, 2, lit().image_tower)
    assert images.numpy().tolist() == [b"its bytes"] and names.numpy().tolist() == [path]
    with pytest.raises(tf.errors.NotFoundError, match=r"No such file.*/gone.xe9\.png"):
        _raw_images([os.fsdecode(bytes(tmp_path) + b"/gone\xe9.png")], 2, 2, lit().image_tower)


def test_training_before_compile_is_refused_in_the_words_of_keras():
    towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
    rows = {"image_features": np.ones([4, 8], "float32"), "text_features": np.ones([4, 6])}
    with pytest.raises(ValueError, match="compile"):
        keras_lit.LiT(*towers, tuning="LL").fit(rows, verbose=0)

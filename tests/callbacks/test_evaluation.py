import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lit import callbacks, evaluation
from tests.small import make_model, make_pairs, mirrored

NAMES = ["balloon", "dog", "cat", "banana", "moon", "toucan"]
TEMPLATES = ["a red {} and a blue one", "a {}"]


def pictures(count=26):
    """Pixels and labels in arrays."""
    rows = list(make_pairs(count).as_numpy_iterator())
    labels = np.arange(count) % 6
    return {"image": np.stack([row["image"] for row in rows]), "label": labels}


def captioned():
    """Two captions for some of the pictures, which then come twice, under one name."""
    pixels = pictures(20)["image"]
    index = np.array([0, 0, 1, 2, 3, 3, 4, *range(5, 20)])
    texts = [row["text"] for row in make_pairs(len(index)).as_numpy_iterator()]
    names = np.array([f"{i}.png" for i in index])
    return {"image": pixels[index], "text": texts, "name": names}, pixels, texts, index


def all_three(**options):
    return [
        callbacks.ZeroShotEvaluation(pictures(), NAMES, TEMPLATES, **options),
        callbacks.RetrievalEvaluation(captioned()[0], **options),
        callbacks.FewShotEvaluation(pictures(24), pictures(), shots=(1, 2), **options),
    ]


@pytest.fixture(scope="module")
def model():
    """For tests that do not change it."""
    return make_model()


@pytest.fixture(scope="module")
def expected(model):
    return expected_metrics(model)


def expected_metrics(model):
    """The same by way of `encode_image` and `encode_text`."""
    data = pictures()
    weights = evaluation.zero_shot_weights(model.encode_text, NAMES, TEMPLATES)
    zero_shot = evaluation.zero_shot_accuracy(
        model.encode_image(data["image"]), data["label"], weights
    )
    _, pixels, texts, index = captioned()
    recalls = evaluation.retrieval_recall(
        model.encode_image(pixels), model.encode_text(texts), index
    )
    features = model.image_tower.features(model.image_tower.preprocessor(data["image"])).numpy()
    few_shot = evaluation.few_shot_accuracy(
        features[:24], data["label"][:24], features, data["label"], shots=(1, 2)
    )
    parts = {"zero_shot": zero_shot, "retrieval": recalls, "few_shot": few_shot}
    return {f"{name}_{key}": value for name, part in parts.items() for key, value in part.items()}


@pytest.mark.slow
def test_metrics_are_in_the_history_and_seen_by_other_callbacks(tmp_path):
    model = make_model()
    model.compile(keras.optimizers.Adam(0.03))
    monitor = {"monitor": "retrieval_text_to_image_recall@5", "mode": "max"}
    others = [
        keras.callbacks.EarlyStopping(**monitor, min_delta=2.0, patience=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras", **monitor, save_best_only=True),
    ]
    history = model.fit(
        make_pairs(24).batch(8), epochs=9, verbose=0, callbacks=[*all_three(), *others]
    ).history
    expected = expected_metrics(model)
    assert len(expected) == 3 + 8 + 4
    for name, value in expected.items():
        assert len(history[name]) == 2  # EarlyStopping ended it.
        assert history[name][-1] == pytest.approx(value), name
    changed = [name for name in expected if history[name][0] != history[name][1]]
    assert any(name.startswith("retrieval") for name in changed)
    assert (tmp_path / "1.keras").exists()


@pytest.mark.slow
def test_on_replicas_as_on_one_device(expected):
    with mirrored(4).scope():
        model = make_model()
    found = [callback.evaluate(model) for callback in all_three()]
    assert {k: v for part in found for k, v in part.items()} == pytest.approx(expected)


def test_with_cached_features(model, expected):
    data, labelled = captioned()[0], pictures()
    for rows in (data, labelled):
        pixels = model.image_tower.preprocessor(rows.pop("image"))
        rows["image_features"] = model.image_tower.features(pixels).numpy()
    first = {name: values[:24] for name, values in labelled.items()}
    found = {
        **callbacks.ZeroShotEvaluation(labelled, NAMES, TEMPLATES).evaluate(model),
        **callbacks.RetrievalEvaluation(data).evaluate(model),
        **callbacks.FewShotEvaluation(first, labelled, shots=(1, 2)).evaluate(model),
    }
    assert found == pytest.approx(expected)


def test_options_reach_the_metrics(model, monkeypatch):
    data = pictures()
    moved = {**data, "label": 10 * data["label"] + 3}
    plain, moved = (
        callbacks.ZeroShotEvaluation(rows, NAMES, top=(2,), classes=classes).evaluate(model)
        for rows, classes in ((data, None), (moved, range(3, 63, 10)))
    )
    assert moved == plain and set(plain) == {
        "zero_shot_accuracy@2",
        "zero_shot_mean_per_class_recall",
    }
    found = callbacks.RetrievalEvaluation(captioned()[0], ks=(3,)).evaluate(model)
    assert {name.split("@")[1] for name in found if "@" in name} == {"3"}
    monkeypatch.setattr(evaluation, "few_shot_accuracy", lambda *_, **settings: settings)
    settings = {"shots": (1,), "seeds": 2, "l2": 4.0}
    found = callbacks.FewShotEvaluation(data, data, **settings).evaluate(model)
    assert found == {f"few_shot_{name}": value for name, value in settings.items()}


def test_groups_are_those_of_the_first_texts():
    data = {"image": pictures(5)["image"], "text": list("abacd"), "name": list("xxyyz")}
    groups = evaluation.ImagesAndTexts(data).image_groups
    assert groups.tolist() == [0, 0, 1]  # The texts "a", "a" and "d".


def encoded_images(model, monkeypatch):
    """Counts the images that the tower runs over."""
    counts = []
    features = model.image_tower.features

    def counting(inputs, training=False):
        tf.numpy_function(lambda n: counts.append(int(n)), [tf.shape(inputs)[0]], [])
        return features(inputs, training=training)

    monkeypatch.setattr(model.image_tower, "features", counting)
    monkeypatch.delitem(vars(model.image_tower), "inference", raising=False)  # Traced before.
    return counts


@pytest.mark.parametrize(("tuning", "times"), [("Lu", 1), ("Uu", 2)])
def test_images_are_embedded_once_whatever_the_number_of_metrics(tuning, times, monkeypatch):
    model = make_model(tuning)
    evaluations = [
        callbacks.ZeroShotEvaluation(pictures(), NAMES, TEMPLATES, top=(1, 2, 3, 4, 5)),
        callbacks.RetrievalEvaluation(captioned()[0], ks=range(1, 9)),
    ]
    texts = []
    encode_text = model.encode_text
    monkeypatch.setattr(
        model, "encode_text", lambda t, **options: texts.append(len(t)) or encode_text(t, **options)
    )
    counts = encoded_images(model, monkeypatch)
    for _ in range(2):
        for callback in evaluations:
            callback.evaluate(model)
    assert sum(counts) == times * (26 + 20)
    assert texts == [12, 22] * 2


def test_a_locked_tower_runs_again_when_it_has_other_weights(model, monkeypatch):
    optimizer = types.SimpleNamespace(iterations=tf.Variable(0))
    monkeypatch.setattr(model, "optimizer", optimizer, raising=False)
    counts = encoded_images(model, monkeypatch)
    callback = callbacks.ZeroShotEvaluation(pictures(), NAMES)
    callback.set_model(model)
    for expected in (26, 52):
        weight = model.image_tower.backbone.weights[0]
        weight.assign(weight + 1)
        callback.on_train_begin()
        callback.on_epoch_end(0, {})
        optimizer.iterations.assign_add(1)
        callback.on_epoch_end(1, {})
        assert sum(counts) == expected


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ({}, [], [0, 1, 2, 3]),
        ({"every_n_epochs": 3}, [], [0, 2]),
        # With 3 steps an epoch, steps 4, 8 and 12.
        ({"every_n_epochs": 9, "every_n_steps": 4}, [(1, 0), (2, 1), (3, 2)], [1, 2, 3]),
        ({"every_n_epochs": 2, "every_n_steps": 6}, [(1, 2), (3, 2)], [1, 3]),
    ],
)
def test_when_it_evaluates(options, steps, epochs, monkeypatch):
    callback, count = callbacks.ZeroShotEvaluation(pictures(6), NAMES, **options), []
    monkeypatch.setattr(callback, "_evaluate", lambda model: count.append(1) or {"x": len(count)})
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=tf.Variable(7 * 12)))
    callback.set_model(model)
    callback.on_train_begin()
    found_steps, found_epochs = [], []
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        for batch in range(3):
            model.optimizer.iterations.assign_add(1)
            logs = {"loss": 1.0}
            callback.on_train_batch_end(batch, logs)
            found_steps += [(epoch, batch)] * ("zero_shot_x" in logs)
        logs = {"loss": 1.0}
        callback.on_epoch_end(epoch, logs)
        found_epochs += [epoch] * ("zero_shot_x" in logs)
        assert logs.get("zero_shot_x", len(count)) == len(count)
    assert (found_steps, found_epochs) == (steps, epochs)
    assert len(count) == max(len(steps), len(epochs))


def test_steps_that_pass_several_at_a_time(monkeypatch):
    """With `steps_per_execution=3` the steps 4, 8 and 12 have passed after 6, 9 and 12."""
    callback = callbacks.ZeroShotEvaluation(pictures(6), NAMES, every_n_steps=4)
    monkeypatch.setattr(callback, "_evaluate", lambda model: {"x": 1})
    steps = tf.Variable(0)
    callback.set_model(types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=steps)))
    callback.on_train_begin()
    found = []
    for step in (3, 6, 9, 12):
        logs = {}
        steps.assign(step)
        callback.on_train_batch_end(step - 1, logs)
        found += [step] * bool(logs)
    assert found == [6, 9, 12]


def test_images_with_the_same_text_are_equally_right(model):
    data = {"image": pictures(8)["image"], "text": ["a dog", "a cat"] * 4}
    strict = callbacks.RetrievalEvaluation(data, ks=(1,)).evaluate(model)
    lenient = callbacks.RetrievalEvaluation(data, ks=(1,), same_text=True).evaluate(model)
    assert strict["retrieval_image_to_text_recall@1"] == 0  # The same text twice ties.
    assert lenient["retrieval_image_to_text_recall@1"] > 0


def test_rows_without_a_name_are_images_of_their_own():
    data = {"image": pictures(5)["image"], "text": list("abcde"), "name": ["x", "", "y", "", "x"]}
    assert evaluation.ImagesAndTexts(data).image_index.tolist() == [0, 1, 2, 3, 0]


def test_pairs_in_another_order_each_time_are_refused(model):
    data = tf.data.Dataset.from_tensor_slices(captioned()[0]).shuffle(30)
    with pytest.raises(ValueError, match="same order each time"):
        callbacks.RetrievalEvaluation(data).evaluate(model)
    bare = data.map(lambda row: {"image": row["image"], "text": row["text"]})
    for pairs in (bare, bare.batch(4)):
        with pytest.raises(ValueError, match="same order each time"):
            callbacks.RetrievalEvaluation(pairs).evaluate(model)


def test_captions_may_be_drawn_anew_each_time(model):
    """The images' names tell that the order is the same."""
    seen = iter(range(1000))

    def rows():
        reading = next(seen)
        for i, pixels in enumerate(pictures(6)["image"]):
            yield {"image": pixels, "text": f"{i} in reading {reading}", "name": f"{i}"}

    pixels = tf.TensorSpec([None, None, 3], "uint8")
    strings = dict.fromkeys(("text", "name"), tf.TensorSpec([], "string"))
    data = tf.data.Dataset.from_generator(rows, output_signature={"image": pixels, **strings})
    images, texts = evaluation.ImagesAndTexts(data).embeddings(model)
    assert len(images) == len(texts) == 6


@pytest.mark.slow
def test_any_form_of_images(model):
    data = pictures()
    expected = callbacks.ZeroShotEvaluation(data, NAMES).evaluate(model)
    png = [tf.io.encode_png(pixels).numpy() for pixels in data["image"]]
    rows = tf.data.Dataset.from_tensor_slices((png, data["label"]))
    ready = model.image_tower.preprocessor(data["image"])
    for form in (
        rows,
        rows.batch(5),
        tf.data.Dataset.from_tensor_slices(data),
        {"image": ready, "label": data["label"]},
    ):
        assert callbacks.ZeroShotEvaluation(form, NAMES).evaluate(model) == expected


def test_nothing_is_evaluated_in_evaluate(model, recwarn):
    model.compile("sgd", jit_compile=False)
    pairs, (callback, *_) = make_pairs(8).batch(8), all_three()

    def said():
        return [x for x in recwarn if "`fit`, and nothing in `model.evaluate`" in str(x.message)]

    model.fit(pairs, validation_data=pairs, verbose=0, callbacks=[callback])
    assert not said()
    model.evaluate(pairs, verbose=0, callbacks=[callback])
    assert len(said()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: callbacks.ZeroShotEvaluation({"image": np.ones([2, 3])}, NAMES), "'label'"),
        (lambda _: callbacks.RetrievalEvaluation(pictures()), "'text'"),
        (lambda _: callbacks.ZeroShotEvaluation([1, 2], NAMES), "tf.data.Dataset or a dict"),
        (lambda _: callbacks.ZeroShotEvaluation(pictures(), NAMES, ["no slot"]), "one slot"),
        (
            lambda _: callbacks.ZeroShotEvaluation(pictures(), NAMES, every_n_epochs=0),
            "every_n_epochs",
        ),
        (
            lambda _: callbacks.ZeroShotEvaluation(pictures(), NAMES, every_n_steps=0),
            "every_n_steps",
        ),
        (
            lambda model: callbacks.ZeroShotEvaluation(pictures(), ["a", "b"]).evaluate(model),
            r"in \[0, 2\), the classes",
        ),
    ],
)
def test_bad_arguments(call, message, model):
    with pytest.raises(ValueError, match=message):
        call(model)

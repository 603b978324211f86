import functools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import callbacks, evaluation
from keras_lit.data import labelled_images
from keras_lit.evaluation.encoded import names_of_classes
from keras_lit.evaluation.tasks import _with_and_without
from keras_lit.preprocessing import ImagePreprocessor
from tests.small import make_model, make_pairs

NAMES = {"own": ["balloon", "dog", "cat"], "long": ["red balloon", "blue dog", "grey cat"]}
TEMPLATES = {"name": ["{}"], "two": ["a {}", "a white {} and one"]}
PREPROCESSING = {"stretch": {}, "crop": {"resize": "crop", "crop_fraction": 0.5}}


@pytest.fixture(scope="module")
def model():
    """Nothing changes it."""
    return make_model()


def pictures(count):
    """Smooth noise, so that each has a hash of its own."""
    rng = np.random.default_rng(1)
    small = rng.integers(60, 196, [count, 20, 20, 3]).astype("float32")
    return tf.image.resize(small, [80, 80], "bicubic").numpy().clip(0, 255).astype("uint8")


def test_near_duplicates_are_found_each_time_they_occur():
    test = pictures(8)
    test[5] = test[2]
    larger = tf.image.resize(test[[2, 6]].astype("float32"), [100, 100]).numpy().astype("uint8")
    training = [*pictures(20)[10:], tf.io.encode_jpeg(larger[0]).numpy(), larger[1]]
    found = evaluation.seen_in_training(evaluation.Images({"image": test}, ()), training)
    assert found.tolist() == [2, 5, 6]


def test_rows_of_near_duplicates_are_those_of_the_embeddings(model):
    """Data that are shuffled anew at each reading are refused, whichever reading is the first."""
    data = {"image": pictures(30), "label": np.arange(30)}
    shuffled = tf.data.Dataset.from_tensor_slices(data).shuffle(30)
    before, after = evaluation.Images(shuffled), evaluation.Images(shuffled)
    evaluation.seen_in_training(before, data["image"][:2])
    with pytest.raises(ValueError, match="same order each time"):
        before.embeddings(model)
    after.embeddings(model)
    with pytest.raises(ValueError, match="same order each time"):
        evaluation.seen_in_training(after, data["image"][:2])
    again = evaluation.Images(data)
    assert evaluation.seen_in_training(again, data["image"][3:4]).tolist() == [3]
    assert len(again.embeddings(model)) == 30


def test_nan_in_a_column_is_the_same_each_time(model):
    data = {"image": pictures(3), "label": np.arange(3), "score": np.array([1, np.nan, 3])}
    images = evaluation.Images(data, ("label", "score"))
    evaluation.seen_in_training(images, data["image"][:1])
    assert len(images.embeddings(model)) == 3


@pytest.mark.parametrize("counts", [(8, 12), (12, 8)])
def test_pairs_that_a_random_filter_changes_are_refused(counts):
    """Whether the second reading has more rows or fewer; cached ones stay."""
    left = iter([*counts, *counts])

    def rows():
        for i in range(next(left)):
            features = np.eye(12, dtype="float32")[i // 2]
            yield {"image_features": features, "text": f"{i}", "name": f"{i // 2}"}

    spec = {name: tf.TensorSpec([], tf.string) for name in ("text", "name")}
    spec["image_features"] = tf.TensorSpec([12], tf.float32)
    data = tf.data.Dataset.from_generator(rows, output_signature=spec)
    image_tower = keras_lit.ImageTower.from_features(12)
    model = keras_lit.LiT(image_tower, keras_lit.TextTower.from_features(12), tuning="LL")
    with pytest.raises(ValueError, match="Leave `shuffle` and random filters out, or `cache"):
        evaluation.ImagesAndTexts(data).images.features(model)
    cached = evaluation.ImagesAndTexts(data.cache()).images
    np.testing.assert_array_equal(cached.features(model), np.eye(12)[: counts[0] // 2])


def test_names_of_the_data_become_words():
    """Keras' readers have the folders' own, also where these are WordNet's identifiers."""
    images = evaluation.Images({"image": pictures(1), "label": np.arange(1)})
    for own, words in (
        (["polar_bear", "001.Sea_lion"], ["polar bear", "Sea lion"]),
        (["1.5", "3.5_mm_jack", "n01440764_tench"], ["1.5", "3.5 mm jack", "tench"]),
        (["n01440764", "n03028079"], ["tench", "church"]),
    ):
        images.class_names = own
        assert names_of_classes(images, None) == words
        assert names_of_classes(images, own) == own


def test_folders_called_by_numbers():
    """What they stand for is not known, and as text "10" comes before "2"."""
    images = evaluation.Images({"image": pictures(1), "label": np.arange(1)})
    images.class_names = ["1", "10", "2"]
    with pytest.warns(UserWarning, match="the numbers 1, 10, 2. If they stand for something else"):
        names_of_classes(images, None)
    with pytest.warns(
        UserWarning, match="in the order of their names as text, 1, 10, 2: so should"
    ):
        names_of_classes(images, ["cat", "dog", "moon"])
    images.class_names = ["cat", "dog"]
    with pytest.warns(UserWarning, match=r"2 classes \('cat' and others\), and `class_names` 3"):
        names_of_classes(images, ["cat", "dog", "moon"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a cat", " ", "a dog"]}, "Received 1 others, the first b' ' in row 1"),
        ({"text": ["a cat", "a dog", b"caf\xe9"]}, r"others, the first b'caf\\xe9' in row 2"),
        ({"text": ["x", "y", "z"], "name": ["a", "b", "a"]}, "Received b'a' with different images"),
    ],
)
def test_pairs_that_are_none_are_refused(columns, message):
    images = np.array([tf.io.encode_png(x).numpy() for x in pictures(3)], object)
    columns = {name: np.array(values, object) for name, values in columns.items()}
    with pytest.raises(ValueError, match=message):
        evaluation.ImagesAndTexts({"image": images, **columns})
    if "name" in columns:
        images[2] = images[0]
        found = evaluation.ImagesAndTexts({"image": images, **columns})
        assert found.image_index.tolist() == [0, 1, 0]


@pytest.mark.slow
def test_retrieval_without_duplicates_is_that_of_the_others_alone(model):
    pixels = np.stack([row["image"] for row in make_pairs(12).as_numpy_iterator()])
    index = np.array([0, 0, 1, *range(2, 12)])
    texts = [row["text"] for row in make_pairs(13).as_numpy_iterator()]
    names = np.array([f"{i}" for i in index])
    pairs = evaluation.ImagesAndTexts({"image": pixels[index], "text": texts, "name": names})
    kept = [1, 2, 3, 5, 6, 8, 9, 10, 11]
    for duplicates in ([0, 4, 7], np.isin(np.arange(12), [0, 4, 7])):
        result = evaluation.retrieve(model, pairs, duplicates=duplicates)
        rows = [j for j in range(13) if index[j] in kept]
        expected = evaluation.retrieval_recall(
            model.encode_image(pixels[kept]),
            model.encode_text([texts[j] for j in rows]),
            [kept.index(index[j]) for j in rows],
        )
        for name, value in expected.items():
            assert result.metrics[f"{name}_without_duplicates"] == pytest.approx(value), name
        plain = evaluation.retrieve(model, pairs).metrics
        assert plain.items() <= result.metrics.items()
        assert result.metrics["duplicates"] == 3
        assert len(result.metrics) == 2 * len(plain) + 1


def test_classification_with_and_without(model):
    calls = []
    found = _with_and_without(lambda chosen: calls.append(chosen) or {"x": chosen.sum()}, 5, [4, 1])
    assert found == {"x": 5, "x_without_duplicates": 3, "duplicates": 2}
    assert calls[1].tolist() == [True, False, True, True, False]
    assert _with_and_without(lambda chosen: {"x": 1}, 5, []) == {
        "x": 1,
        "x_without_duplicates": 1,
        "duplicates": 0,
    }
    pixels = np.stack([row["image"] for row in make_pairs(9).as_numpy_iterator()])
    labels, names = np.arange(9) % 3, ["balloon", "dog", "cat"]
    images = evaluation.Images({"image": pixels, "label": labels})
    result = evaluation.classify(model, images, names, duplicates=[0, 1])
    expected = evaluation.zero_shot_accuracy(
        model.encode_image(pixels[2:]),
        labels[2:],
        evaluation.zero_shot_weights(model.encode_text, names),
    )
    for name, value in expected.items():
        assert result.metrics[f"{name}_without_duplicates"] == value


class Batches(keras.utils.PyDataset):
    """A dict of arrays in batches of 4."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {name: values[4 * index :][:4] for name, values in self.arrays.items()}


def test_every_form_of_data_is_evaluated_alike(model, monkeypatch):
    encode_text, names = model.encode_text, ["balloon", "dog", "cat"]
    once = functools.cache(lambda texts, **options: encode_text(list(texts), **options))
    monkeypatch.setattr(model, "encode_text", lambda x, **options: once(tuple(x), **options))
    rows = list(make_pairs(10).as_numpy_iterator())
    pixels, texts = (np.array([row[name] for row in rows]) for name in ("image", "text"))
    labelled = {"image": pixels, "label": np.arange(10) % 3}
    pairs = {"image": pixels, "text": texts}

    def in_every_form(arrays):
        batches = [Batches(arrays)[i] for i in range(3)]
        rows = tf.data.Dataset.from_tensor_slices(arrays)
        tuples = iter([tuple(batch.values()) for batch in batches])
        return [arrays, rows, rows.batch(3), Batches(arrays), iter(batches), tuples]

    first, *others = [evaluation.classify(model, data, names) for data in in_every_form(labelled)]
    assert first.count == 10 and len(first.sheet) == 3
    for other in others:
        assert other.metrics == first.metrics and other.confusions == first.confusions
        np.testing.assert_array_equal(other.sheet[0].hits[0].pixels, first.sheet[0].hits[0].pixels)
    first, *others = [evaluation.retrieve(model, data) for data in in_every_form(pairs)[:-1]]
    assert first.count == 10 and all(other.metrics == first.metrics for other in others)
    callback = callbacks.RetrievalEvaluation(iter([pairs]))
    for _ in range(2):
        metrics = callback.evaluate(model)
        assert metrics == {f"retrieval_{name}": value for name, value in first.metrics.items()}


@pytest.mark.parametrize(
    ("duplicates", "message"),
    [
        ([5], r"rows in \[0, 5\).*from 5 to 5"),
        ([-1], "from -1 to -1"),
        (np.ones(4, bool), r"mask of duplicates should have shape \(5,\)"),
        (np.ones(5, bool), "All 5 images are duplicates"),
    ],
)
def test_bad_duplicates(duplicates, message):
    with pytest.raises(ValueError, match=message):
        _with_and_without(lambda chosen: {}, 5, duplicates)


@pytest.mark.slow
def test_every_combination_against_one_by_one(model):
    pixels = np.stack([row["image"] for row in make_pairs(40).as_numpy_iterator()])
    labels = np.arange(40) % 3
    data = {"image": pixels, "label": np.where(np.arange(40) < 30, labels, 99)}
    found = evaluation.select(model, data, NAMES, TEMPLATES, PREPROCESSING, count=30)
    prompts = [
        t.replace("{}", n)
        for t in ("{}", "a {}", "a white {} and one")
        for n in NAMES["own"] + NAMES["long"]
    ]
    texts = dict(zip(prompts, model.encode_text(prompts), strict=True))
    expected = []
    for how, options in PREPROCESSING.items():
        images = model.encode_image(ImagePreprocessor(8, **options)(pixels[:30]))
        for names in NAMES:
            for templates in TEMPLATES:
                weights = [
                    sum(texts[template.replace("{}", name)] for template in TEMPLATES[templates])
                    for name in NAMES[names]
                ]
                weights = np.array([weight / np.linalg.norm(weight) for weight in weights])
                accuracy = np.mean((images @ weights.T).argmax(axis=1) == labels[:30])
                expected.append((accuracy, how, names, templates))
    assert len({accuracy for accuracy, *_ in expected}) > 1
    assert found == sorted(expected, key=lambda choice: -choice[0])


def test_labels_of_a_subset(model):
    classes = np.array([40, 7, 9])
    pixels = np.stack([row["image"] for row in make_pairs(9).as_numpy_iterator()])
    data = {"image": pixels, "label": np.arange(9) % 3}
    plain = evaluation.select(model, data, NAMES, TEMPLATES)
    data["label"] = classes[data["label"]]
    assert evaluation.select(model, data, NAMES, TEMPLATES, classes=classes) == plain


def test_pictures_without_labels_are_met_with_the_line_to_type():
    for images in ([np.zeros([8, 8, 3], "uint8")], np.zeros([1, 8, 8, 3], "uint8")):
        with pytest.raises(ValueError, match=r"images with labels.*@ weights.T\).argmax\(axis=1\)"):
            evaluation.classify(None, images, NAMES)


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="something to choose from.*0 of templates"):
        evaluation.select(None, None, NAMES, {})
    with pytest.raises(ValueError, match="`class_names` should be a dict.*Received: .'cat'"):
        evaluation.select(None, None, ["cat", "dog"], TEMPLATES)


@pytest.fixture
def classes(tmp_path):
    for name, value in (("cat", 30), ("dog", 220)):
        for i in range(3):
            pixels = np.random.default_rng(i).integers(value - 20, value + 20, [8, 8, 3])
            (tmp_path / name).mkdir(exist_ok=True)
            keras.utils.save_img(tmp_path / name / f"{i}.png", pixels, scale=False)
    return tmp_path


@pytest.mark.slow
def test_what_people_hold_is_classified_alike(classes):
    """Class folders by our reader, Keras' and TensorFlow's tuples, names of files, pixels."""
    model, names = make_model("LU"), ["a red dog", "a white cat"]
    files = sorted(classes.glob("*/*.png"))
    pixels = np.stack([tf.io.decode_png(x.read_bytes()).numpy() for x in files])
    labels = np.array([0, 0, 0, 1, 1, 1])
    weights = evaluation.zero_shot_weights(model, names)
    embeddings = model.encode_image(pixels)
    expected = float(np.mean((embeddings @ weights.T).argmax(axis=1) == labels))
    words = [names[i] for i in labels]
    options = {"image_size": (8, 8), "shuffle": False, "verbose": False}
    for data in (
        labelled_images(classes),
        keras.utils.image_dataset_from_directory(classes, **options),
        tf.data.Dataset.from_tensor_slices((pixels, labels)),
        {"image": files, "label": labels},
        {"image": pixels, "label": words},
    ):
        result = evaluation.classify(model, data, names)
        assert result.count == 6 and result.metrics["accuracy@1"] == expected
    index = pd.Series(["", *names]).drop(0)  # Rows 1 and 2.
    result = evaluation.classify(model, {"image": pixels, "label": labels}, index)
    assert [row.query for row in result.sheet] == names
    of_folders = evaluation.classify(model, labelled_images(classes))
    assert [row.query for row in of_folders.sheet] == ["cat", "dog"]
    with pytest.raises(ValueError, match="should be `class_names`.*labelled_images"):
        evaluation.classify(model, {"image": pixels, "label": labels})
    with pytest.raises(ValueError, match='"label": x\\["class"\\]'):
        evaluation.classify(model, {"image": pixels, "class": labels}, names)

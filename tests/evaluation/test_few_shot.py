import numpy as np
import pytest
from evaluation.rows import golden

from keras_lit.evaluation import few_shot_accuracy, linear_probe_accuracy

RNG = np.random.default_rng(5)


def first_of_each_class(labels, count):
    return np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(labels.max() + 1)])


def test_linear_probe_equals_the_reference():
    arrays, expected = golden("few_shot")
    test = arrays["x_test"], arrays["y_test"]
    penalties = (2.0**-10, 1.0, 1024.0)
    assert len(expected) == 9
    for shots in (1, 5, 10):
        rows = first_of_each_class(arrays["y_train"], shots)
        found = linear_probe_accuracy(
            arrays["x_train"][rows], arrays["y_train"][rows], *test, l2=penalties
        )
        for penalty in penalties:
            tolerance = 0.03 if penalty < 1 else 0.003
            reference = expected[f"{shots}shot_l2={penalty:g}"]
            assert found[penalty] == pytest.approx(reference, abs=tolerance), (shots, penalty)


def ridge_accuracy(train, train_labels, test, test_labels, l2):
    """The normal equations, by hand."""
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-5
    x, z = (np.hstack([(f - mean) / deviation, np.full([len(f), 1], 100)]) for f in (train, test))
    targets = np.where(train_labels[:, None] == np.arange(train_labels.max() + 1), 1.0, -1.0)
    kernel = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ targets)
    return np.mean((z @ kernel).argmax(axis=1) == test_labels)


def blobs(count, dim, classes=4):
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=[classes, dim])
    return centres[labels] + RNG.normal(size=[count, dim]) * 2 + 3, labels


@pytest.mark.parametrize("dim", [6, 60])  # More rows than features, and fewer.
def test_linear_probe_against_the_normal_equations(dim):
    train, test = blobs(41, dim), blobs(300, dim)
    train = train[0].astype("float32"), train[1]
    found = linear_probe_accuracy(*train, test[0].astype("float32"), test[1], l2=(1.0, 1024.0))
    for l2, accuracy in found.items():
        assert accuracy == pytest.approx(ridge_accuracy(*train, *test, l2), abs=0.004)
    assert linear_probe_accuracy(*train, *test) == found[1024.0]


def test_few_shot_draws_as_the_reference_does():
    train, test = blobs(64, 12), blobs(200, 12)
    order = np.random.default_rng(1).permutation(64)
    train = train[0][order].astype("float32"), train[1][order]
    expected = {}
    for shots in (1, 3, 99):
        accuracies = []
        for seed in range(2):
            rng = np.random.default_rng(seed)
            rows = [rng.permutation(np.where(train[1] == c)[0])[:shots] for c in range(4)]
            rows = np.concatenate(rows)
            accuracies.append(linear_probe_accuracy(train[0][rows], train[1][rows], *test))
        expected[f"{shots}shot_accuracy"] = np.mean(accuracies)
        expected[f"{shots}shot_deviation"] = np.std(accuracies)
    assert expected["1shot_deviation"] > 0 and expected["99shot_deviation"] == pytest.approx(0)
    assert few_shot_accuracy(*train, *test, shots=(1, 3, 99), seeds=2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": [0, 2, 2, 0]}, r"none for 1 of the 3 classes, the first of them: \[1\]"),
        ({"train_labels": [0, 1]}, "one label an image. Received: 4 images"),
        ({"train_labels": [0, -1, 1, 0]}, "from -1 to 1"),
        ({"test_labels": [0, 2]}, r"`test_labels` should be in \[0, 2\), the classes"),
        ({"test_features": np.ones([2, 4])}, "same width"),
        ({"train_features": np.full([4, 3], np.inf)}, "NaN or infinite values: 4 of 4"),
        ({"test_features": np.full([2, 3], np.nan)}, "`test_features` should be finite"),
        ({"train_features": np.ones([4])}, r"shape \[rows, dim\]"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "train_features": np.ones([4, 3]),
        "train_labels": [0, 1, 0, 1],
        "test_features": np.ones([2, 3]),
        "test_labels": [0, 1],
        **change,
    }
    for function in (linear_probe_accuracy, few_shot_accuracy):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


def test_bad_settings():
    arguments = (np.ones([2, 3]), [0, 1], np.ones([2, 3]), [0, 1])
    with pytest.raises(ValueError, match="`l2` should be a positive number"):
        linear_probe_accuracy(*arguments, l2=0)
    for name, value, what in (
        ("shots", (0,), "a positive whole number"),
        ("shots", (2.5,), "a positive whole number"),
        ("shots", 5, "a list of positive whole numbers"),
        ("seeds", 0, "a positive whole number"),
        ("l2", -1.0, "a positive number"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` should be {what}"):
            few_shot_accuracy(*arguments, **{name: value})


def test_labels_may_be_strings():
    features = np.array([[0.0], [1.0], [10.0], [11.0]])
    numbers, names = [1, 1, 0, 0], np.array(["owl", "owl", "cat", "cat"])
    expected = few_shot_accuracy(features, numbers, features, [1, 0, 0, 0], shots=(1,))
    for given in (names, names.astype("S"), list(names)):
        test = np.array(["owl", "cat", "cat", "cat"])
        assert few_shot_accuracy(features, given, features, test, shots=(1,)) == expected
    with pytest.raises(
        ValueError, match=r"`test_labels` should be.*\['cat', 'owl'\].*1 others.*dog"
    ):
        few_shot_accuracy(features, names, features, ["dog", "owl", "cat", "cat"])
    with pytest.raises(ValueError, match="both be integers or both strings"):
        few_shot_accuracy(features, names, features, numbers)
    with pytest.raises(ValueError, match=r'shape \(4, 2\). Read them with `label_mode="int"`'):
        few_shot_accuracy(features, np.eye(2)[numbers], features, numbers)

import base64
import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_lit import evaluation
from keras_lit.evaluation import reporting, sheets
from tests.small import make_model, make_pairs

NAMES = ["balloon", "dog", "cat", "banana", "moon", "toucan"]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def results(model):
    rows = list(make_pairs(18).as_numpy_iterator())
    pixels, texts = np.stack([row["image"] for row in rows]), [row["text"] for row in rows]
    labelled = {"image": pixels, "label": np.arange(18) % 6}
    pairs = {"image": pixels, "text": [f"<{text.decode()}>" for text in texts]}
    return [
        evaluation.classify(model, evaluation.Images(labelled), NAMES, ["a {}"], "things & more"),
        evaluation.retrieve(model, evaluation.ImagesAndTexts(pairs), "captions", queries=3),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("accuracy@1", "acc1"),
        ("accuracy@5", "acc5"),
        ("mean_per_class_recall", "mean_per_class_recall"),
        ("text_to_image_recall@5", "image_retrieval_recall@5"),
        ("image_to_text_recall@5", "text_retrieval_recall@5"),
        ("image_to_text_median_rank", "text_retrieval_median_rank"),
        ("5shot_accuracy", "5shot_accuracy"),
    ],
)
def test_keys_of_clip_benchmark(ours, theirs):
    assert reporting.benchmark_key(ours) == theirs


def test_numbers_are_those_of_the_functions(model, results):
    pixels = np.stack([row["image"] for row in make_pairs(18).as_numpy_iterator()])
    weights = evaluation.zero_shot_weights(model.encode_text, NAMES, ["a {}"])
    arguments = model.encode_image(pixels), np.arange(18) % 6, weights
    assert results[0].metrics == evaluation.zero_shot_accuracy(*arguments)
    confusions = evaluation.zero_shot_confusions(*arguments)
    assert results[0].confusions == [(NAMES[a], NAMES[b], n, part) for a, b, n, part in confusions]
    similarities = arguments[0] @ weights.T
    for row in results[0].sheet:
        column = similarities[:, NAMES.index(row.query)]
        nearest = np.argsort(-column)[:5]
        assert [hit.similarity for hit in row.hits] == pytest.approx(column[nearest].tolist())
        assert [hit.right for hit in row.hits] == [NAMES[i % 6] == row.query for i in nearest]
    assert [len(result.sheet) for result in results] == [6, 3]


def test_calibration_and_its_diagram(model, tmp_path, monkeypatch):
    pixels = np.stack([row["image"] for row in make_pairs(18).as_numpy_iterator()])
    labels = np.arange(18) % 6
    images = evaluation.Images({"image": pixels, "label": labels})
    weights = evaluation.zero_shot_weights(model.encode_text, NAMES)
    cosines = model.encode_image(pixels) @ weights.T
    made = evaluation.calibration.Calibration(
        5.0, threshold=0.2, set_threshold=0.1, class_names=NAMES
    )
    monkeypatch.setattr(model, "calibration", made.to_dict())
    result = evaluation.classify(model, images, NAMES)
    probabilities = np.exp(5 * cosines.astype("float64"))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    taken = top >= 0.2
    assert result.metrics["accepted"] == taken.mean()
    assert result.metrics["precision"] == pytest.approx((taken & right).sum() / taken.sum())
    sets = probabilities >= 0.1
    assert result.metrics["coverage"] == sets[np.arange(18), labels].mean()
    assert result.reliability.counts.sum() == 18
    assert result.metrics["ece"] == result.reliability.ece
    text = evaluation.report([result], tmp_path).read_text()
    assert f"calibration error {result.reliability.ece:.3f}" in text
    assert text.count("<rect") == (result.reliability.counts > 0).sum()
    json.dumps(result.to_dict())
    # For other classes it says nothing.
    assert "ece" not in evaluation.classify(model, images, NAMES[::-1]).metrics
    # Of several labels.
    several = evaluation.calibration.Calibration(5.0, -1.0, multi_label=True, threshold=0.3)
    some = np.stack([labels, np.where(labels > 2, (labels + 1) % 6, -1)], axis=1)
    padded = evaluation.Images({"image": pixels, "label": some})
    result = evaluation.classify(
        model, padded, NAMES, several_labels=True, calibration=several, queries=1
    )
    taken = 1 / (1 + np.exp(1 - 5 * cosines.astype("float64"))) >= 0.3
    marked = np.zeros([18, 6], bool)
    for row, own in enumerate(some):
        marked[row, own[own >= 0]] = True
    assert result.metrics["recall"] == pytest.approx((taken & marked).sum() / marked.sum())


def test_several_labels(model):
    pixels = np.stack([row["image"] for row in make_pairs(6).as_numpy_iterator()])
    everything = {"image": pixels, "label": np.tile(np.arange(6), [6, 1])}
    result = evaluation.classify(
        model, evaluation.Images(everything), NAMES, dataset="real", several_labels=True
    )
    assert result.metrics == {"accuracy@1": 1.0, "accuracy@5": 1.0, "labelled": 6}


def test_a_subset_of_the_classes(model):
    """Labels that the rows of the weights stand for, as ImageNet-A has them."""
    pixels = np.stack([row["image"] for row in make_pairs(9).as_numpy_iterator()])
    labels, classes = np.arange(9) % 3, np.array([40, 7, 9])
    plain, subset = (
        evaluation.classify(model, evaluation.Images({"image": pixels, "label": given}), *others)
        for given, *others in (
            (labels, NAMES[:3]),
            (classes[labels], NAMES[:3], ["{}"], "", classes.tolist()),
        )
    )
    assert subset.metrics == plain.metrics and subset.confusions == plain.confusions
    marks = [[[hit.right for hit in row.hits] for row in x.sheet] for x in (plain, subset)]
    assert marks[0] == marks[1] and any(map(any, marks[0]))


def test_pictures_of_the_same_text_are_right(model):
    pixels = np.stack([row["image"] for row in make_pairs(4).as_numpy_iterator()])
    pairs = evaluation.ImagesAndTexts({"image": pixels, "text": ["a dog", "a cat"] * 2})
    for same_text, right in ((False, 1), (True, 2)):
        result = evaluation.retrieve(model, pairs, same_text=same_text)
        assert [sum(hit.right for hit in row.hits) for row in result.sheet] == [right] * 4


def test_json_and_page(results, tmp_path):
    page = evaluation.report(results, tmp_path / "new" / "report", "A <title>", "model.keras")
    records = json.loads((page.parent / "results.json").read_text())
    assert [record["dataset"] for record in records] == ["things & more", "captions"]
    assert [record["task"] for record in records] == [
        "zeroshot_classification",
        "zeroshot_retrieval",
    ]
    assert {"acc1", "acc5", "mean_per_class_recall"} == set(records[0]["metrics"])
    assert records[0]["metrics"]["acc1"] == results[0].metrics["accuracy@1"]
    found = results[1].metrics["text_to_image_recall@5"]
    assert records[1]["metrics"]["image_retrieval_recall@5"] == found
    assert [record["count"] for record in records] == [18, 18]
    text = page.read_text()
    assert f'<td>text to image recall@5</td><td class="number">{100 * found:.2f}%</td>' in text
    # Nothing from elsewhere, nothing that is not escaped.
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text
    assert "things &amp; more" in text and "&lt;a " in text and "A &lt;title&gt;" in text
    assert f"{100 * results[0].metrics['accuracy@1']:.2f}%" in text
    # On a phone wide tables scroll, not the page.
    assert re.search(r"table \{[^}]*display: block; overflow-x: auto", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 5 * 6 + 5 * 3
    first = tf.io.decode_png(base64.b64decode(pictures[0])).numpy()
    np.testing.assert_array_equal(first, results[0].sheet[0].hits[0].pixels)
    with pytest.raises(ValueError, match="at least one result"):
        evaluation.report([], tmp_path)


def test_a_report_that_cannot_be_written_leaves_the_one_before(results, tmp_path, monkeypatch):
    evaluation.report(results[:1], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        evaluation.report(results, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_thumbnails_are_the_pictures_in_the_order_of_the_data():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], "uint8")
    pixels = np.broadcast_to(colours[:, None, None], [3, 10, 20, 3])
    for data in (
        {"image": pixels},
        {"image": [tf.io.encode_png(picture).numpy() for picture in pixels]},
    ):
        found = sheets.thumbnails(evaluation.Images(data, ()), {0, 2}, size=20)
        assert set(found) == {0, 2}
        for i, picture in found.items():
            assert picture.shape == (20, 20, 3)
            assert (picture[10, 10] == colours[i]).all() and (picture[0, 0] == 255).all()
    assert sheets.thumbnails(evaluation.Images({"image_features": np.ones([3, 4])}, ()), {0}) == {}


def test_data_in_another_order_each_time_keep_their_labels_and_show_no_pictures(model):
    pixels = np.stack([row["image"] for row in make_pairs(18).as_numpy_iterator()])
    data = tf.data.Dataset.from_tensor_slices({"image": pixels, "label": np.arange(18) % 6})
    expected = evaluation.classify(model, data, NAMES)
    with pytest.warns(UserWarning, match="No pictures are shown.*another order"):
        found = evaluation.classify(model, data.shuffle(18), NAMES)
    assert found.metrics == pytest.approx(expected.metrics)
    assert expected.sheet and not found.sheet


def test_clip_benchmark_reads_each_result(results, tmp_path):
    """As its `build` does: one JSON object a file, whose "metrics" become columns."""
    evaluation.report(results * 2, tmp_path)
    evaluation.report([*results, results[1]], tmp_path, model="ours")  # Nothing older is left.
    rows = []
    for file in sorted((tmp_path / "clip_benchmark").iterdir()):
        data = json.loads(file.read_text())
        row = {**data.pop("metrics"), **data}
        row["model_fullname"] = row["model"] + " " + row["pretrained"]
        rows.append(row)
    assert [row["dataset"] for row in rows] == ["things & more", "captions", "captions"]
    assert rows[0]["acc1"] == results[0].metrics["accuracy@1"]
    assert rows[1]["task"] == "zeroshot_retrieval" and rows[1]["model"] == "ours"
    assert len(json.loads((tmp_path / "results.json").read_text())) == 3


def test_sheet_as_a_picture():
    black = np.zeros([10, 10, 3], "uint8")
    row = sheets.SheetRow("x", [sheets.Hit(black, 1.0, True), sheets.Hit(black, 0.5, False)])
    picture = sheets.sheet_picture([row, row], frame=2)
    assert picture.shape == (2 * 18, 2 * 18, 3)
    assert (picture[3, 3] == sheets.GREEN).all() and (picture[3, 21] == sheets.GREY).all()
    assert (picture[0, 0] == 255).all() and (picture[9, 9] == 0).all()


def test_similarities_as_a_picture():
    picture = sheets.similarity_picture(np.array([[1.0, 0.0], [0.5, 1.0]]), size=4)
    assert picture.shape == (4, 4, 3)
    assert (picture[:2, :2] == (253, 231, 37)).all() and (picture[:2, 2:] == (68, 1, 84)).all()
    assert (picture[2:, :2] == (33, 145, 140)).all()
    assert sheets.similarity_picture(np.ones([3, 3])).shape == (384, 384, 3)

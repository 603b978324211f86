"""What an evaluation prints, and hands on as JSON."""

import json

import numpy as np
import pytest

from keras_lit import evaluation
from keras_lit.evaluation import sheets

RETRIEVAL = {
    f"{way}_{name}": value
    for way, first in (("image_to_text", 0.1), ("text_to_image", 0.2))
    for name, value in (
        ("recall@1", first),
        ("recall@5", 0.5),
        ("recall@10", 0.75),
        ("median_rank", 3.5),
    )
}


def result(metrics, **options):
    hits = [sheets.Hit(np.zeros([96, 96, 3], "uint8"), 0.25, True)] * 5
    rows = [sheets.SheetRow("a cat", hits)] * 8
    return evaluation.Result(
        *("coco", "zeroshot_retrieval", metrics, 5000), {"texts": 25010}, sheet=rows, **options
    )


def test_a_result_prints_as_a_table():
    assert str(result(RETRIEVAL)).splitlines() == [
        "coco: zeroshot_retrieval, 5,000 images, texts: 25010",
        "  image_to_text_recall@1     10.00%  text_to_image_recall@1     20.00%",
        "  image_to_text_recall@5     50.00%  text_to_image_recall@5     50.00%",
        "  image_to_text_recall@10    75.00%  text_to_image_recall@10    75.00%",
        "  image_to_text_median_rank     3.5  text_to_image_median_rank     3.5",
    ]
    nameless = evaluation.Result("", "linear_probe", {"accuracy@1": 0.5}, 8)
    assert repr(nameless).splitlines() == ["linear_probe, 8 images", "  accuracy@1  50.00%"]


@pytest.mark.parametrize("count", [1, 4, 5, 17, 19, 40])
def test_a_table_has_at_most_ten_lines_and_every_metric(count):
    metrics = {f"recall@{k}": k / 100 for k in range(1, count + 1)}
    confusions = [("cat", "dog", 3, 0.25), ("dog", "cat", 2, 0.1)]
    said = str(result(metrics, confusions=confusions))
    assert len(said.splitlines()) <= 10
    assert all(f"{k:.2f}%" in said.split() for k in range(1, count + 1))
    if count == 4:
        assert said.endswith("most often: cat taken for dog, 3 (25% of it)")


def test_pictures_are_not_printed_as_numbers():
    assert str(result(RETRIEVAL).sheet[0].hits[0]) == "Hit(similarity=0.250, right=True)"


def test_a_metric_that_is_not_defined_is_null():
    found = json.dumps(result({"precision": float("nan"), "recall": 0.5}).to_dict()["metrics"])
    assert found == '{"precision": null, "recall": 0.5}'


def test_numbers_of_numpy_are_reported(tmp_path):
    counted = evaluation.Result("a", "linear_probe", {"accuracy@1": np.float32(0.5)}, np.int64(8))
    evaluation.report([counted], tmp_path)
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert (record["metrics"], record["count"]) == ({"acc1": 0.5}, 8)


def test_to_dict_is_what_json_takes():
    found = result(RETRIEVAL, confusions=[("cat", "dog", 3, 0.25)])
    assert json.loads(json.dumps(found.to_dict())) == {
        "dataset": "coco",
        "task": "zeroshot_retrieval",
        "metrics": RETRIEVAL,
        "count": 5000,
        "settings": {"texts": 25010},
        "confusions": [["cat", "dog", 3, 0.25]],
    }

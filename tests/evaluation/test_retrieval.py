import ml_dtypes
import numpy as np
import pytest
from evaluation.rows import golden, unit

from keras_lit.evaluation import recall_by_language, retrieval, retrieval_recall


@pytest.mark.parametrize("tile", [(2048, 8192), (7, 11), (1, 300)])
def test_recall_equals_the_reference(tile, monkeypatch):
    monkeypatch.setattr(retrieval, "_TILE", tile)
    arrays, expected = golden("retrieval")
    result = retrieval_recall(arrays["image"], arrays["text"], arrays["text_to_image_index"])
    for way, values in expected.items():
        for name, value in values.items():
            key = f"{way}_{name.replace('Recall', 'recall')}"
            np.testing.assert_allclose(result[key], value, atol=1e-6)


def naive(images, texts, index, groups):
    """Ranks from 1, the whole matrix at once."""
    similarities = images.astype("float64") @ texts.T.astype("float64")
    right = groups[:, None] == groups[index]
    ranks = {}
    for way, s, r in (
        ("image_to_text", similarities, right),
        ("text_to_image", similarities.T, right.T),
    ):
        ranks[way] = [
            1 + sum(row[j] >= row[own].max() - 1e-6 for j in np.flatnonzero(~own))
            for row, own in zip(s, r, strict=True)
            if own.any()
        ]
    return ranks


@pytest.mark.parametrize(
    ("tile", "right"), [((2048, 8192), 2**24), ((7, 11), 1), ((2, 3), 60), ((90, 5), 200)]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_uneven_captions_ties_and_groups_against_a_naive_matrix(tile, right, grouped, monkeypatch):
    monkeypatch.setattr(retrieval, "_TILE", tile)
    monkeypatch.setattr(retrieval, "_RIGHT", right)
    rng = np.random.default_rng(3)
    images, index = unit(40, 6), rng.integers(0, 37, 90)  # The last images have no text.
    texts = images[index] + 0.5 * unit(90, 6)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    images[[5, 30]], texts[[8, 70, 71]] = images[2], texts[1]
    groups = np.arange(40) // 3 * 10 - 50 if grouped else np.arange(40)
    expected = naive(images, texts, index, groups)
    result = retrieval_recall(
        images, texts, index, (1, 3), image_groups=groups if grouped else None
    )
    for way, ranks in expected.items():
        assert result[f"{way}_recall@1"] == pytest.approx(np.mean(np.array(ranks) <= 1))
        assert result[f"{way}_recall@3"] == pytest.approx(np.mean(np.array(ranks) <= 3))
        assert result[f"{way}_median_rank"] == np.median(ranks)


def test_recall_by_hand():
    image = np.eye(3, dtype="float32")
    text = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]], "float32")
    # Text 1 belongs to image 1 but is nearest to image 0; texts 1 and 2 tie for image 1.
    result = retrieval_recall(image, text, [0, 1, 2], ks=(1, 2))
    assert result == {
        "image_to_text_recall@1": pytest.approx(2 / 3),
        "image_to_text_recall@2": 1.0,
        "image_to_text_median_rank": 1.0,
        "text_to_image_recall@1": pytest.approx(2 / 3),
        "text_to_image_recall@2": 1.0,
        "text_to_image_median_rank": 1.0,
    }
    # Images 0 and 1 are alike: text 1 may find either.
    result = retrieval_recall(image, text, [0, 1, 2], ks=(1,), image_groups=[5, 5, 6])
    assert result["text_to_image_recall@1"] == 1.0


def test_ties_count_against_whatever_the_order_of_the_sums(monkeypatch):
    same = np.repeat(unit(1, 512), 40, axis=0)
    monkeypatch.setattr(retrieval, "_TILE", (9, 17))
    result = retrieval_recall(same, same, np.arange(40), ks=(1, 39, 40))
    assert [result[f"text_to_image_recall@{k}"] for k in (1, 39, 40)] == [0, 0, 1]
    assert result["image_to_text_median_rank"] == 40


def test_other_lengths_are_normalised_with_a_warning():
    images, texts = unit(20, 5), unit(20, 5)
    lengths = np.random.default_rng(0).uniform(0.5, 3, [20, 1])
    with pytest.warns(
        UserWarning, match=r"`text_embeddings` should have rows of unit length.*from 0\.\d+ to 2"
    ):
        result = retrieval_recall(images, texts * lengths, np.arange(20))
    assert result == retrieval_recall(images, texts, np.arange(20))


@pytest.mark.filterwarnings("error")
def test_unit_rows_that_went_through_bfloat16_are_not_warned_of():
    rows = unit(50, 8).astype(ml_dtypes.bfloat16)
    assert np.abs(np.linalg.norm(rows.astype("float32"), axis=1) - 1).max() > 1e-3
    retrieval_recall(rows, rows, np.arange(50))


def test_progress(capsys):
    retrieval_recall(unit(3, 2), unit(3, 2), np.arange(3), verbose=1)
    assert "1/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_embeddings": unit(4, 3)}, "same width"),
        ({"image_index": [0, 1, 9, 0]}, r"in \[0, 5\).*from 0 to 9"),
        ({"image_index": [0, 1, -1, 0]}, r"in \[0, 5\).*from -1 to 1"),
        ({"image_index": [0, 1]}, "each of the 4 texts"),
        ({"image_index": [0.0, 1, 2, 3]}, r"Received float64 of shape \(4,\)"),
        ({"image_index": [True, False, True, True]}, "Received bool"),
        ({"image_embeddings": np.full([5, 2], np.nan)}, "`image_embeddings`.*with NaN.*5 of 5"),
        ({"text_embeddings": np.eye(4, 2)}, r"only zeros: 2 of 4, the first \[2, 3\]"),
        ({"image_embeddings": np.zeros([0, 2])}, r"at least one row.*\(0, 2\)"),
        ({"ks": (0,)}, "`ks` should be a positive whole number"),
        ({"ks": (True,)}, "`ks` should be a positive whole number. Received: True"),
        ({"ks": 5}, r"`ks` should be a list.*such as \(1, 5\). Received: 5"),
        ({"image_groups": [1]}, r"`image_groups` should have shape \(5,\)"),
        (
            {"image_groups": [1, 2, np.nan, np.nan, 3]},
            "a group of its own. Received: nan for image 2",
        ),
        ({"image_groups": ["a", None, "b", "b", "c"]}, "Received: None for image 1"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "image_embeddings": unit(5, 2),
        "text_embeddings": unit(4, 2),
        "image_index": [0, 1, 2, 3],
    }
    with pytest.raises(ValueError, match=message):
        retrieval_recall(**{**arguments, **change})


def test_each_language_by_itself():
    images = np.eye(3)
    captions = [
        {"en": "a dog", "fr": "un chien"},
        {"en": "a cat", "fr": "un chien"},
        {"en": "a bird"},
    ]
    # English confuses cat and bird; both French captions are the same, so each is right.
    meaning = {"a dog": 0, "a cat": 2, "a bird": 1, "un chien": 0}
    found = recall_by_language(
        lambda texts: images[[meaning[text] for text in texts]], images, captions, ks=(1, 2)
    )
    assert list(found) == ["en", "fr"]
    assert found["en"]["images"] == 3 and found["fr"]["images"] == 2
    assert found["en"]["image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert found["en"]["text_to_image_recall@1"] == pytest.approx(1 / 3)
    recalls = {name for name in found["en"] if "@" in name}
    assert recalls == {
        f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 2)
    }
    # The picture of the cat is as far from both captions, and both are right.
    assert found["fr"]["image_to_text_recall@1"] == found["fr"]["text_to_image_recall@1"] == 1


def test_captions_must_be_as_many_as_images():
    with pytest.raises(ValueError, match="for each image. Received: 1 for 2 images"):
        recall_by_language(None, np.eye(2), [{"en": "a"}])

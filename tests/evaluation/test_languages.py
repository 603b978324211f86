import numpy as np
import pytest

from keras_lit.evaluation import recall_by_language

WAYS = ("image_to_text", "text_to_image")


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
    assert recalls == {f"{way}_recall@{k}" for way in WAYS for k in (1, 2)}
    # The picture of the cat is as far from both captions, and both are right.
    assert found["fr"]["image_to_text_recall@1"] == found["fr"]["text_to_image_recall@1"] == 1


def test_counts_must_match():
    with pytest.raises(ValueError, match="for each image. Received: 1 for 2 images"):
        recall_by_language(None, np.eye(2), [{"en": "a"}])

import numpy as np
import pytest

from keras_lit import evaluation
from keras_lit.preprocessing import ImagePreprocessor
from tests.small import make_model, make_pairs

NAMES = {"own": ["balloon", "dog", "cat"], "long": ["red balloon", "blue dog", "grey cat"]}
TEMPLATES = {"name": ["{}"], "two": ["a {}", "a white {} and one"]}
PREPROCESSING = {"stretch": {}, "crop": {"resize": "crop", "crop_fraction": 0.5}}


@pytest.mark.slow
def test_every_combination_against_one_by_one():
    model = make_model()
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


def test_labels_of_a_subset():
    model, classes = make_model(), np.array([40, 7, 9])
    pixels = np.stack([row["image"] for row in make_pairs(9).as_numpy_iterator()])
    data = {"image": pixels, "label": np.arange(9) % 3}
    plain = evaluation.select(model, data, NAMES, TEMPLATES)
    data["label"] = classes[data["label"]]
    assert evaluation.select(model, data, NAMES, TEMPLATES, classes=classes) == plain


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="something to choose from.*0 of templates"):
        evaluation.select(None, None, NAMES, {})

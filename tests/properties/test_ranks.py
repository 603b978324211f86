"""Recalls, ranks and accuracies against a sort of all similarities; ties are frequent."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_lit import evaluation
from keras_lit.evaluation import retrieval

# Six directions: similarities are -1, 0 or 1.
DIRECTIONS = np.concatenate([np.eye(3), -np.eye(3)]).astype("float32")
KS = (1, 2, 5)


def rows(shortest, longest):
    return st.lists(st.integers(0, 5), min_size=shortest, max_size=longest).map(
        lambda found: DIRECTIONS[found]
    )


@st.composite
def retrievals(draw):
    images = draw(rows(1, 9))
    texts = draw(rows(1, 11))
    number = st.integers(0, len(images) - 1)
    index = draw(st.lists(number, min_size=len(texts), max_size=len(texts)))
    groups = draw(
        st.none() | st.lists(st.integers(0, 3), min_size=len(images), max_size=len(images))
    )
    return images, texts, np.array(index), groups and np.array(groups)


def ranks(similarities, right):
    """Of each row with a right answer: the place of the best, from 1, after wrong ones as near."""
    found = []
    for row, mine in zip(similarities, right, strict=True):
        if mine.any():
            order = sorted(range(len(row)), key=lambda i: (-row[i], mine[i]))
            found.append(1 + next(place for place, i in enumerate(order) if mine[i]))
    return np.array(found)


@given(retrievals())
def test_retrieval(case):
    images, texts, index, groups = case
    groups = np.arange(len(images)) if groups is None else groups
    right = groups[:, None] == groups[index][None]
    similarities = images.astype("float64") @ texts.T.astype("float64")
    found = evaluation.retrieval_recall(images, texts, index, KS, case[3], verbose=0)
    for way, places in (
        ("image_to_text", ranks(similarities, right)),
        ("text_to_image", ranks(similarities.T, right.T)),
    ):
        for k in KS:
            assert found[f"{way}_recall@{k}"] == np.mean(places <= k)
        assert found[f"{way}_median_rank"] == np.median(places)


@given(retrievals())
def test_tiles_make_no_difference(case):
    expected = evaluation.retrieval_recall(*case[:3], KS, case[3], verbose=0)
    tile, retrieval._TILE = retrieval._TILE, (2, 3)
    try:
        assert evaluation.retrieval_recall(*case[:3], KS, case[3], verbose=0) == expected
    finally:
        retrieval._TILE = tile


@given(retrievals(), st.randoms(use_true_random=False))
def test_the_order_of_images_and_texts_does_not_matter(case, random):
    images, texts, index, groups = case
    order, of_texts = list(range(len(images))), list(range(len(texts)))
    random.shuffle(order), random.shuffle(of_texts)
    place = np.argsort(order)  # of each image in the new order
    mixed = evaluation.retrieval_recall(
        images[order],
        texts[of_texts],
        place[index][of_texts],
        KS,
        None if groups is None else groups[order],
        verbose=0,
    )
    assert mixed == evaluation.retrieval_recall(images, texts, index, KS, groups, verbose=0)


@given(st.data())
def test_zero_shot(data):
    images, weights = data.draw(rows(1, 9)), data.draw(rows(2, 7))
    label = st.integers(0, len(weights) - 1)
    labels = data.draw(st.lists(label, min_size=len(images), max_size=len(images)))
    right = np.array(labels)[:, None] == np.arange(len(weights))
    places = ranks(images.astype("float64") @ weights.T, right)
    found = evaluation.zero_shot_accuracy(images, labels, weights, top=(1, 2))
    assert found["accuracy@1"] == np.mean(places <= 1)
    assert found["accuracy@2"] == np.mean(places <= 2)
    of_classes = [np.mean(places[np.array(labels) == c] == 1) for c in set(labels)]
    np.testing.assert_allclose(found["mean_per_class_recall"], np.mean(of_classes))

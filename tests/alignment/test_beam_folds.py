"""The Beam combiner gathers what one pass of `align` gathers, in whatever parts and order."""

import pickle

import numpy as np
import pytest

import keras_lit
from keras_lit.alignment import Folds
from keras_lit.alignment.beam import CombineFolds

COUNT, IMAGE_DIM, TEXT_DIM = 120, 6, 4


def make_pairs():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=[COUNT, TEXT_DIM]).astype("float32")
    images = texts @ rng.normal(size=[TEXT_DIM, IMAGE_DIM]) + rng.normal(size=[COUNT, IMAGE_DIM])
    groups = np.arange(COUNT) // 2
    return {"image_features": images.astype("float32"), "text_features": texts, "group": groups}


def make_model():
    image_tower = keras_lit.ImageTower.from_features(IMAGE_DIM)
    return keras_lit.LiT(image_tower, keras_lit.TextTower.from_features(TEXT_DIM), "LL")


def combined(batches, **options):
    """As a runner does it: two accumulators, which travel, and merge in another order."""
    combine = CombineFolds(IMAGE_DIM, TEXT_DIM, **options)
    parts = [combine.create_accumulator() for _ in range(2)]
    for i, batch in enumerate(batches):
        parts[i % 2] = pickle.loads(pickle.dumps(combine.add_input(parts[i % 2], batch)))
    return combine.extract_output(combine.merge_accumulators(reversed(parts)))


@pytest.mark.parametrize("method", ["cca", "ridge"])
def test_align_takes_what_was_combined(method):
    pairs = make_pairs()
    batches = [{k: x[i : i + 7] for k, x in pairs.items()} for i in range(0, COUNT, 7)]
    model, other = make_model(), make_model()
    expected = model.align(pairs, method, folds=3, verbose=0)
    found = other.align(combined(batches[::-1], method=method, folds=3), method, verbose=0)
    assert found.pairs == expected.pairs == COUNT
    assert found.recalls == pytest.approx(expected.recalls, abs=1e-6)
    for own, wanted in zip(found.heads, expected.heads, strict=True):
        np.testing.assert_allclose(own.kernel, wanted.kernel, rtol=1e-4, atol=1e-5)
    images = pairs["image_features"]
    np.testing.assert_allclose(other.encode_image(images), model.encode_image(images), atol=1e-5)


def test_several_captions_with_a_mask():
    pairs, rng = make_pairs(), np.random.default_rng(1)
    more = rng.normal(size=[COUNT, TEXT_DIM]).astype("float32")
    texts = np.stack([pairs["text_features"], more], axis=1)
    mask = np.stack([np.ones(COUNT, bool), rng.random(COUNT) < 0.5], axis=1)
    folds = combined([{**pairs, "text_features": texts, "mask": mask}])
    assert sum(moments.count for moments in folds.moments) == mask.sum()


def test_wrong_folds():
    with pytest.raises(ValueError, match="features, 6 and 4 wide. Received: 5 and 4"):
        make_model().align(Folds(5, TEXT_DIM), verbose=0)
    with pytest.raises(ValueError, match="dataset of pairs is empty"):
        make_model().align(Folds(IMAGE_DIM, TEXT_DIM), verbose=0)
    with pytest.raises(ValueError, match="`method` should be"):
        CombineFolds(6, 4, "pca")

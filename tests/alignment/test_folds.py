"""Folds: equal groups stay together, and neither order nor parts change what is kept."""

import numpy as np
import pytest

from keras_lit.alignment import Folds

COUNT = 400


def pairs():
    rng = np.random.default_rng(0)
    images = rng.normal(size=[COUNT, 4]).astype("float32")
    texts = rng.normal(size=[COUNT, 3]).astype("float32")
    return images, texts, [f"caption {i % 150}" for i in range(COUNT)]


def filled(rows, size=64, **options):
    images, texts, groups = pairs()
    folds = Folds(4, 3, count=3, **options)
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        folds.add(images[part], texts[part], [groups[i] for i in part])
    return folds


def of_fold(folds, fold):
    """The numbers of the images that a fold keeps, sorted."""
    images = pairs()[0]
    return sorted(
        int(np.flatnonzero((images == row).all(axis=1))[0]) for row in folds.kept(fold).images
    )


def test_groups_stay_together_and_each_pair_counts_once():
    folds = filled(np.arange(COUNT))
    kept = [of_fold(folds, fold) for fold in range(3)]
    assert sorted(row for rows in kept for row in rows) == list(range(COUNT))
    groups = [{i % 150 for i in rows} for rows in kept]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert min(map(len, groups)) > 30  # Near 50: the hash is even.
    images, texts, _ = pairs()
    for moments, rows in zip(folds.moments, kept, strict=True):
        both = np.concatenate([images[rows], texts[rows]], axis=1)
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, both.mean(axis=0), atol=1e-6)
        expected = np.cov(both.T, ddof=0) * len(rows)
        np.testing.assert_allclose(moments.scatter, expected, atol=1e-4)


def test_order_batches_and_parts_change_nothing():
    expected = filled(np.arange(COUNT), held_out=20)
    backwards = filled(np.arange(COUNT)[::-1], size=7, held_out=20)
    merged = filled(np.arange(300, COUNT), held_out=20)
    merged.merge(filled(np.arange(300), held_out=20))
    for other in (backwards, merged):
        for fold in range(3):
            assert len(other.kept(fold).keys) == 20
            np.testing.assert_array_equal(other.kept(fold).keys, expected.kept(fold).keys)
            np.testing.assert_allclose(
                other.moments[fold].scatter, expected.moments[fold].scatter, atol=1e-4
            )
    everything = filled(np.arange(COUNT))
    for fold in range(3):  # The smallest hashes of all.
        smallest = np.sort(everything.kept(fold).keys)[:20]
        np.testing.assert_array_equal(expected.kept(fold).keys, smallest)


def test_processes_join():
    parts = [filled(np.arange(150)), filled(np.arange(150, COUNT))]
    arrays = [[], []]
    for part, found in zip(parts, arrays, strict=True):  # What each would send.
        part.join(lambda array, found=found: found.append(array) or [array])
    together = iter(zip(*arrays, strict=True))
    parts[0].join(lambda array: list(next(together)))
    expected = filled(np.arange(COUNT))
    for fold in range(3):
        assert of_fold(parts[0], fold) == of_fold(expected, fold)
        mine, wanted = parts[0].moments[fold], expected.moments[fold]
        assert mine.count == wanted.count
        np.testing.assert_allclose(mine.scatter, wanted.scatter, atol=1e-4)


def test_several_captions_are_pairs_of_their_image():
    images, texts, groups = pairs()
    captions = np.stack([texts, texts + 1, texts + 2], axis=1)
    given = np.random.default_rng(1).random([COUNT, 3]) < 0.5
    folds, expected = Folds(4, 3, count=3), Folds(4, 3, count=3)
    folds.add(images, captions, groups, given)
    rows, columns = np.nonzero(given)
    expected.add(images[rows], captions[rows, columns], [groups[i] for i in rows])
    for fold in range(3):
        np.testing.assert_allclose(
            folds.moments[fold].scatter, expected.moments[fold].scatter, atol=1e-3
        )
        kept, flat = folds.kept(fold), expected.kept(fold)
        np.testing.assert_array_equal(kept.images[kept.owners], flat.images)
        np.testing.assert_array_equal(kept.texts, flat.texts)


@pytest.mark.filterwarnings("error")
def test_a_fold_may_get_nothing():
    folds = Folds(4, 3, count=50)
    folds.add(np.ones([3, 4]), np.ones([3, 3]), [1, 2, 3])
    assert sorted(moments.count for moments in folds.moments)[:47] == [0] * 47


def test_without_groups_equal_texts_are_one():
    images, texts, _ = pairs()
    folds = Folds(4, 3)
    folds.add(images, texts[np.arange(COUNT) % 7])
    assert sum(len(np.unique(folds.kept(fold).keys)) for fold in range(5)) == 7


def test_a_group_is_the_same_in_every_type_of_numbers():
    images, texts, _ = pairs()
    for groups in (np.arange(COUNT) // 2, np.arange(COUNT) // 2 + 2**40):
        folds = Folds(4, 3)
        types = ("int32", "uint16", "int64") if groups[0] < 2**16 else ("int64", "uint64")
        for dtype in types:
            folds.add(images, texts, groups.astype(dtype))
        folds.add(images, texts, groups.tolist())
        assert sum(len(np.unique(folds.kept(fold).keys)) for fold in range(5)) == COUNT // 2


@pytest.mark.parametrize("size", [100, 4000])
def test_of_classes_all_are_held_out_whatever_the_order(size):
    """Of the one with the smallest hash alone a recall would be 100 %."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=[4000, 4]).astype("float32"), np.arange(4000) % 10
    kept = []
    in_classes = np.argsort(labels, kind="stable")
    for rows in (np.arange(4000), rng.permutation(4000), in_classes, in_classes[::-1]):
        folds = Folds(4, 3, count=2, held_out=240)
        for part in np.split(rows, len(rows) // size):
            folds.add(images[part], np.ones([size, 3]), labels[part])
        kept.append([folds.kept(fold) for fold in range(2)])
    for fold, *others in zip(*kept, strict=True):
        _, counts = np.unique(fold.keys, return_counts=True)
        assert len(counts) > 2 and counts.sum() == 240 and np.ptp(counts) <= 16
        for other in others:
            np.testing.assert_array_equal(fold.keys, other.keys)
            assert {*map(tuple, fold.images)} == {*map(tuple, other.images)}
        # None of a side of its class, as the first or the largest would be.
        assert np.abs(fold.images.mean(axis=0)).max() < 0.25
    groups = sum(len(np.unique(fold.keys)) for fold in kept[0])
    assert groups == 10


def test_bad_arguments_are_refused():
    folds, ones = Folds(4, 3), np.ones
    for images, texts in (([2, 4], [4, 3]), ([2, 3], [2, 4]), ([2, 4], [2, 6]), ([2, 4], [6])):
        with pytest.raises(ValueError, match=r"\[n, 4\], and texts \[n, 3\] or \[n, captions, 3\]"):
            folds.add(ones(images), ones(texts))
    for options in ({"groups": [0, 1, 2]}, {"groups": [0]}, {"given": ones([2, 2])}):
        with pytest.raises(ValueError, match="`groups` should have one for each of 2 images"):
            folds.add(ones([2, 4]), ones([2, 3]), **options)
    assert not sum(moments.count for moments in folds.moments)
    with pytest.raises(ValueError, match="at least 2 folds. Received: 1"):
        Folds(4, 3, count=1)
    with pytest.raises(ValueError, match=r"same number and size.*\(3, 2000\), \(4, 2000\)"):
        Folds(4, 3, count=3).merge(Folds(4, 3, count=4))

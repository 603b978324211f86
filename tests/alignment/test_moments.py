"""Moments of parts are those of all rows, whatever the batches and their order."""

import numpy as np
import pytest

from keras_lit.alignment import Moments


def pairs(count=5000, image_dim=5, text_dim=3):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[count, image_dim + text_dim]) @ rng.normal(size=[8, 8]) + 1000
    return np.split(rows.astype("float32"), [image_dim], axis=1)


def expected(images, texts):
    rows = np.concatenate([images, texts], axis=1).astype("float64")
    centred = rows - rows.mean(axis=0)
    return len(rows), rows.mean(axis=0), centred.T @ centred


def check(moments, count, mean, scatter):
    assert moments.count == count
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-9)
    # The rows' mean is 1000 times their deviations: float32 sums of squares would lose it all.
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-5 * np.abs(scatter).max())


@pytest.mark.parametrize("size", [1, 700, 5000])
def test_batches_add_up(size):
    images, texts = pairs()
    moments = Moments(5, 3)
    for first in range(0, len(images), size):
        moments.add(images[first : first + size], texts[first : first + size])
    check(moments, *expected(images, texts))


def test_parts_merge_in_any_order_and_stay_as_they_are():
    images, texts = pairs()
    parts = [Moments(5, 3) for _ in range(3)]
    for part, rows in zip(parts, (slice(0, 10), slice(10, 4000), slice(4000, None)), strict=True):
        part.add(images[rows], texts[rows])
    for order in ([0, 1, 2], [2, 0, 1]):
        found = Moments(5, 3)
        for i in order:
            found.merge(parts[i])
        check(found, *expected(images, texts))
    check(parts[0], *expected(images[:10], texts[:10]))


def test_what_is_known_becomes_moments():
    images, texts = pairs()
    known = expected(images, texts)
    check(Moments.of(5, 3, *known), *known)
    with pytest.raises(ValueError, match=r"should have shapes \(7,\).*\(8,\)"):
        Moments.of(4, 3, *known)


def test_one_tower_alone_and_a_caller_who_uses_an_array_again():
    images, _ = pairs()
    moments, buffer = Moments(5), np.empty([100, 5], "float32")
    for first in range(0, len(images), 100):
        buffer[:] = images[first : first + 100]
        moments.add(buffer)
    check(moments, *expected(images, images[:, :0]))


def test_bad_rows_are_refused():
    images, texts = pairs(10)
    with pytest.raises(ValueError, match=r"as wide as 5 and 3.*\(10, 5\), \(10, 2\)"):
        Moments(5, 3).add(images, texts[:, :2])
    for columns in ([10, 3], [10, 5]), ([10, 8],), ([10, 5],), ([9, 5], [10, 3]):
        with pytest.raises(ValueError, match="as wide as 5 and 3"):
            Moments(5, 3).add(*map(np.ones, columns))
    with pytest.raises(ValueError, match="should be finite"):
        Moments(5, 3).add(images / 0, texts)
    with pytest.raises(ValueError, match=r"same widths.*\(5, 3\), \(5, 2\)"):
        Moments(5, 3).merge(Moments(5, 2))
    with pytest.raises(ValueError, match="`image_dim` should be a positive whole number"):
        Moments(0)

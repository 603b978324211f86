"""Heat maps against cosines by hand; the pointing game against counting."""

import types

import numpy as np
import pytest
import tensorflow as tf

from keras_lit.evaluation import heat_maps, pointing_accuracy, sheets


def stub(patches, pooling="mean"):
    """A model whose patches and texts are given."""
    tower = types.SimpleNamespace(head=None, pooling=pooling, embedding_dim=patches.shape[-1])
    return types.SimpleNamespace(
        image_tower=tower,
        encode_patches=lambda image, verbose: patches,
        encode_text=lambda texts, verbose: np.array([[0.6, 0.0, 0.0, 0.8], [0.8, 0, 0.6, 0]]),
    )


PATCHES = np.array([[[[0, 0, 1, 0.0], [0, 0, 0.6, 0.8]]]])  # One row, two columns.


def test_cosines():
    found = heat_maps(stub(PATCHES), "photo.jpg", ["a", "b"])
    np.testing.assert_allclose(found, [[[0, 0.64]], [[0.6, 0.36]]], atol=1e-6)


def test_the_half_of_the_patches():
    """As in dino.txt: (0, 1) and (1, 0) are what is left of the texts, at unit length."""
    found = heat_maps(stub(PATCHES, "first_and_mean"), "photo.jpg", ["a", "b"])
    np.testing.assert_allclose(found, [[[0, 0.8]], [[1, 0.6]]], atol=1e-6)


def test_one_image_at_a_time():
    with pytest.raises(ValueError, match="of one image. Received: 2"):
        heat_maps(stub(np.repeat(PATCHES, 2, axis=0)), ["a.jpg", "b.jpg"], "a")


def test_pointing():
    masks = np.zeros([3, 4, 8], bool)
    masks[0, :2, :2] = masks[1, 2:, 6:] = masks[2, :, :4] = True
    maps = np.zeros([3, 2, 4])
    maps[0, 0, 0] = maps[1, 1, 2] = maps[2, 1, 1] = 1  # The second is a cell too far to the left.
    found = pointing_accuracy(maps, masks)
    assert found["pointing_accuracy"] == pytest.approx(2 / 3)
    assert found["pointing_chance"] == pytest.approx((4 + 4 + 16) / 3 / 32)


def test_ties_count_against_the_map():
    masks = np.zeros([3, 4, 8], bool)
    masks[:, :2, :4] = True  # The first two of the cells of the upper row.
    maps = np.zeros([3, 2, 4])
    maps[0, 0, :2] = maps[1, 0, 1:3] = 1
    assert pointing_accuracy(maps, masks)["pointing_accuracy"] == 1 / 3


@pytest.mark.parametrize(
    "texts", [np.ones([2, 5]), np.ones([4]), np.ones([0, 4]), np.full([1, 4], np.nan)]
)
def test_embeddings_in_place_of_sentences(texts):
    with pytest.raises(ValueError, match=r"finite floats \[n, 4\]. Received: float64 of shape"):
        heat_maps(stub(PATCHES), "photo.jpg", texts)
    given = tf.constant([[0.6, 0.0, 0.0, 0.8]])
    np.testing.assert_allclose(heat_maps(stub(PATCHES), "a.jpg", given), [[[0, 0.64]]], atol=1e-6)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (
            np.zeros([2, 1, 1]),
            np.ones([1, 2, 2]),
            r"for each heat map .*: \(1, 2, 2\) and \(2, 1, 1\)",
        ),
        (np.zeros([2, 1, 1]), np.array([[[1]], [[0]]]), r"Empty are: \[1\]"),
        (np.zeros([2, 2]), np.ones([4, 4]), r"Received: \(4, 4\) and \(2, 2\)"),
        (np.zeros([1, 1, 1]), np.full([1, 2, 2], np.nan), "masks of 0 and 1"),
        (np.full([1, 1, 1], np.nan), np.ones([1, 2, 2]), "Heat maps should be finite"),
    ],
)
def test_bad_masks(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        pointing_accuracy(maps, masks)


def test_a_heat_picture_is_bright_where_the_map_is_high():
    pixels = np.full([4, 4, 3], 100, "uint8")
    found = sheets.heat_picture(pixels, np.array([[0.2, 0.2], [0.2, 0.9]]))
    np.testing.assert_array_equal(found[3, 3], np.round(35 + 0.65 * np.array([253, 231, 37])))
    np.testing.assert_array_equal(found[0, 0], np.round(35 + 0.65 * np.array([68, 1, 84])))

"""The hashes that Beam computes are those of one machine."""

import numpy as np
import pytest

from keras_lit.data import duplicates
from keras_lit.data.beam import PerceptualHashes
from tests import small


def test_the_same_bits():
    pytest.importorskip("imagehash")
    images = [pair["image"] for pair in small.encoded_pairs(6).as_numpy_iterator()]
    transform = PerceptualHashes(8, mirrored=True)
    found = [transform._hashed(number, {"image": images[number]}) for number in (3, 1)]
    expected = duplicates.perceptual_hashes(images, 8, mirrored=True)
    assert [number for number, _ in found] == [3, 1]
    np.testing.assert_array_equal([bits for _, bits in found], expected[[3, 1]])
    with pytest.raises(Exception, match="number 7"):
        transform._hashed(7, b"no picture")
    with pytest.raises(ValueError, match="multiple of 4"):
        PerceptualHashes(7)

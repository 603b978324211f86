"""Heads in closed form equal textbook solutions by other routes."""

import numpy as np
import pytest

from keras_lit.alignment import Moments, cca, ridge, whitening


def pairs(image_dim, text_dim, count=300):
    rng = np.random.default_rng(1)
    meaning = rng.normal(size=[count, 3]) * [3, 2, 1]
    return tuple(
        meaning @ rng.normal(size=[3, dim]) + rng.normal(size=[count, dim]) + 7
        for dim in (image_dim, text_dim)
    )


def moments_of(images, texts):
    moments = Moments(images.shape[1], texts.shape[1])
    moments.add(images, texts)
    return moments


def root(rows, penalty):
    """The inverse square root of the penalised covariance."""
    covariance = np.cov(rows.T, ddof=0)
    covariance += penalty * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize(("image_dim", "text_dim"), [(7, 4), (4, 7)])
@pytest.mark.parametrize("dim", [None, 2])
def test_cca_equals_whitening_and_singular_vectors(image_dim, text_dim, dim):
    images, texts = pairs(image_dim, text_dim)
    centred = images - images.mean(axis=0), texts - texts.mean(axis=0)
    roots = root(images, 0.3), root(texts, 2.0)
    cross = roots[0] @ centred[0].T @ centred[1] @ roots[1] / len(images)
    left, correlations, right = np.linalg.svd(cross, full_matrices=False)
    expected = [
        centred[0] @ roots[0] @ left * correlations,
        centred[1] @ roots[1] @ right.T * correlations,
    ]
    heads = cca(moments_of(images, texts), 0.3, 2.0, dim)
    found = [heads.image.project(images), heads.text.project(texts)]
    assert found[0].shape == found[1].shape == (300, dim or 4)
    signs = np.sign((found[0] * expected[0][:, : dim or 4]).sum(axis=0))
    for rows, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, (signs * wanted[:, : dim or 4]), atol=1e-7)


def test_more_features_than_pairs():
    images, texts = pairs(40, 30, count=20)
    heads = cca(moments_of(images, texts), 0.1, 0.1)
    found = heads.image.project(images), heads.text.project(texts)
    assert np.isfinite(found).all()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found]
    assert ((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(20)).all()


def test_ridge_equals_least_squares_with_rows_for_the_penalty():
    images, texts = pairs(7, 4)
    centred = images - images.mean(axis=0)
    weight = np.sqrt(0.5 * len(images) * images.var(axis=0).mean())
    rows = np.concatenate([centred, weight * np.eye(7)])
    targets = np.concatenate([texts - texts.mean(axis=0), np.zeros([7, 4])])
    kernel = np.linalg.lstsq(rows, targets, rcond=None)[0]
    heads = ridge(moments_of(images, texts), 0.5)
    np.testing.assert_allclose(
        heads.image.project(images), centred @ kernel + texts.mean(axis=0), atol=1e-9
    )
    np.testing.assert_array_equal(heads.text.project(texts), texts)


def test_whitening_is_symmetric_and_of_the_image_side():
    images, texts = pairs(7, 4)
    head = whitening(moments_of(images, texts), 0.2)
    np.testing.assert_allclose(head.kernel, root(images, 0.2), atol=1e-9)
    np.testing.assert_allclose(head.project(images).mean(axis=0), 0, atol=1e-9)


def test_bad_arguments_are_refused():
    moments = moments_of(*pairs(7, 4))
    for call in (
        lambda: cca(moments, 0.0),
        lambda: cca(moments, 1.0, -1.0),
        lambda: ridge(moments, 0),
        lambda: whitening(moments, 0.0),
    ):
        with pytest.raises(ValueError, match="penalty` should be a positive number"):
            call()
    with pytest.raises(ValueError, match=r"`dim` should be from 1 to 4.*Received: 5"):
        cca(moments, dim=5)
    with pytest.raises(ValueError, match="There should be rows"):
        cca(Moments(7, 4))

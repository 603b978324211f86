"""What training has changed, alone in a file, and loaded onto the same base."""

import numpy as np
import pytest

import keras_lit
from keras_lit import Lock
from keras_lit.checkpoints import load_adapters, load_lit, save_adapters
from tests.checkpoints.files import GOLDEN
from tests.towers.test_locks import made, trained

TEXTS = ["a red dog", "a white moon and a toucan"]


@pytest.fixture(scope="module")
def ready():
    return trained(Lock(lora=2))


@pytest.mark.slow
def test_the_same_numbers_on_the_same_base(ready, tmp_path):
    path = save_adapters(ready, tmp_path / "adapters.npz")
    # Of each of three blocks [16, 4, 2] and [2, 4], for queries and values; heads; temperature.
    floats = 3 * 2 * (16 * 4 * 2 + 2 * 4) + (16 * 16 + 16) + (6 * 16 + 16) + 1
    with np.load(path, allow_pickle=False) as file:
        assert sum(file[name].size for name in file.files if name != "about") == floats
    fresh = made(Lock(lora=2))
    assert np.abs(fresh.encode_text(TEXTS) - ready.encode_text(TEXTS)).max() > 1e-3
    load_adapters(fresh, path)
    np.testing.assert_array_equal(fresh.encode_text(TEXTS), ready.encode_text(TEXTS))
    for x, y in zip(fresh.weights, ready.weights, strict=True):
        np.testing.assert_array_equal(x, y)


def test_without_heads(ready, tmp_path):
    path = save_adapters(ready, tmp_path / "adapters.npz", heads=False)
    fresh = made(Lock(lora=2))
    load_adapters(fresh, path)
    ids = ready.text_tower.preprocessor(TEXTS)
    expected = ready.text_tower.features(ids)
    np.testing.assert_array_equal(fresh.text_tower.features(ids), expected)
    np.testing.assert_array_equal(fresh.text_tower.head.bias, 0 * fresh.text_tower.head.bias)


def test_another_base_and_other_options_are_refused(ready, tmp_path):
    path = save_adapters(ready, tmp_path / "adapters.npz")
    for other, message in (
        (made(Lock(lora=2), seed=2), "another base: the locked weights of the text tower differ"),
        (made(Lock(lora=3)), "other weights train"),
        (made(Lock(last_blocks=1)), "other weights train"),
    ):
        with pytest.raises(ValueError, match=message):
            load_adapters(other, path)
    with pytest.raises(ValueError, match=r"adapters.npz is refused.*`load_adapters` reads"):
        load_lit(path)
    whole = GOLDEN / "lit_text_transformer.npz"
    with pytest.raises(ValueError, match=r"not of `save_adapters` .*whole models `load_lit` reads"):
        load_adapters(made(Lock(lora=2)), whole)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged, or not of `save_adapters`"):
        load_adapters(made(Lock(lora=2)), path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="it is a Git LFS pointer"):
        load_adapters(made(Lock(lora=2)), path)
    with pytest.raises(ValueError, match=r"should end in \.npz"):
        save_adapters(ready, tmp_path / "adapters.bin")


def test_averages_of_norms_that_train_go_along(tmp_path):
    from tests.small import make_model

    model, fresh = (make_model("UU", batch_norm=True) for _ in range(2))
    norm = model.image_tower.backbone.layers[-1]
    norm.moving_mean.assign(np.arange(6.0))
    load_adapters(fresh, save_adapters(model, tmp_path / "all.npz"))
    np.testing.assert_array_equal(fresh.image_tower.backbone.layers[-1].moving_mean, np.arange(6))
    assert keras_lit.fingerprints.fingerprint(fresh.image_tower)


def test_a_locked_head_belongs_to_the_base(ready, tmp_path):
    options = {"options": Lock(lora=2), "lock_heads": True}
    path = save_adapters(made(**options), tmp_path / "adapters.npz")
    other = made(**options)
    load_adapters(other, path)
    bias = other.image_tower.head.bias
    bias.assign(bias + 1)
    with pytest.raises(ValueError, match="weights of the head of the image tower differ"):
        load_adapters(other, path)
    load_adapters(other, save_adapters(other, path, heads=False))

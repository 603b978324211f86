"""What is saved is what was loaded, name by name and bit by bit."""

import numpy as np
import pytest

import keras_lit
from keras_lit import ImageTower, LiT, TextTower, backbones, checkpoints
from tests.checkpoints.files import GOLDEN, RELEASES, arrays_of


@pytest.mark.parametrize("name", RELEASES)
def test_the_released_layout_comes_back(name, tmp_path):
    model = checkpoints.load_lit(GOLDEN / f"{name}.npz", text_heads=4)
    checkpoints.save_lit(model, tmp_path / "lit.npz")
    expected = arrays_of(name)
    with np.load(tmp_path / "lit.npz", allow_pickle=False) as file:
        assert set(file) == set(expected)
        for key, array in expected.items():
            assert file[key].dtype == array.dtype
            np.testing.assert_array_equal(file[key], array)
    assert [path.name for path in tmp_path.iterdir()] == ["lit.npz"]


def vision(**options):
    return backbones.VisionTransformer(32, 8, 12, 2, 20, 3, **options)


def text_backbone(**options):
    return backbones.TextTransformer(50, 9, 12, 2, 20, 3, **options)


@pytest.mark.parametrize(
    ("image_backbone", "image_pooling", "text", "loss"),
    [
        (vision, "first", ("last", None), "softmax"),
        (
            lambda: vision(class_token=False),
            "map",
            ("map", None),
            "sigmoid",
        ),
        (
            lambda: vision(class_token=False),
            "mean",
            ("none", "last"),
            "softmax",
        ),
        (lambda: backbones.MLPMixer(32, 8, 12, 2, 6, 20), "mean", ("last", None), "softmax"),
    ],
)
def test_round_trip(image_backbone, image_pooling, text, loss, tmp_path):
    pooling, own = text
    image_tower = ImageTower(image_backbone(), image_pooling, projection_dim=10)
    text_tower = TextTower(text_backbone(pooling=own), sequence_length=9, pooling=pooling)
    model = LiT(image_tower, text_tower, temperature=7.0, loss=loss)
    rng = np.random.default_rng(0)
    for weight in (*image_tower.weights, *text_tower.weights):
        weight.assign(rng.normal(size=weight.shape))
    checkpoints.save_lit(model, tmp_path / "lit.npz")
    again = checkpoints.load_lit(tmp_path / "lit.npz")
    images = rng.uniform(-1, 1, [3, 32, 32, 3]).astype("float32")
    token_ids = rng.integers(0, 50, [3, 9])
    np.testing.assert_array_equal(again.encode_image(images), model.encode_image(images))
    # Loaded, the last block computes the last token alone.
    np.testing.assert_allclose(
        again.encode_text(token_ids), model.encode_text(token_ids), atol=1e-6
    )
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert again.loss_name == loss
    if loss == "sigmoid":
        np.testing.assert_array_equal(again.bias, -10.0)


@pytest.mark.parametrize(
    ("image_tower", "text_tower", "message"),
    [
        (
            lambda: ImageTower(backbones.VisionTransformer(32, 8, 12, 1, 20, 3), "mean"),
            lambda: TextTower(text_backbone(), sequence_length=9),
            "VisionTransformer is pooled as first. Received: 'mean'",
        ),
        (
            lambda: ImageTower(backbones.MLPMixer(32, 8, 12, 1, 6, 20), "mean"),
            lambda: TextTower(text_backbone(pooling="first"), pooling="none", sequence_length=9),
            "TextTransformer is pooled as last or map. Received: 'first'",
        ),
        (
            lambda: ImageTower(
                keras_lit.backbones.VisionTransformer(32, 8, 12, 1, 20, 3, class_token=False), "max"
            ),
            lambda: TextTower(text_backbone(), sequence_length=9),
            "pooled as mean or map. Received: 'max'",
        ),
    ],
)
def test_poolings_that_the_layout_cannot_express(image_tower, text_tower, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        checkpoints.save_lit(LiT(image_tower(), text_tower()), tmp_path / "lit.npz")
    assert not list(tmp_path.iterdir())


def test_backbones_that_the_layout_cannot_express(tmp_path):
    bert = keras_lit.backbones.BertEncoder(50, 1, 3, 12, 20)
    image_tower = ImageTower(backbones.VisionTransformer(32, 8, 12, 1, 20, 3), "first")

    class Own(backbones.TextTransformer):
        pass

    with pytest.raises(ValueError, match=r"holds towers of VisionTransformer, .*Received: Own"):
        tower = TextTower(Own(50, 9, 12, 2, 20, 3), pooling="last", sequence_length=9)
        checkpoints.save_lit(LiT(image_tower, tower), tmp_path / "lit.npz")
    with pytest.raises(ValueError, match="BertEncoder is pooled as first. Received: 'mean'"):
        tower = TextTower(bert, pooling="mean")
        checkpoints.save_lit(LiT(image_tower, tower), tmp_path / "lit.npz")


def test_a_file_is_whole_or_as_before(tmp_path, monkeypatch):
    model = checkpoints.load_lit(GOLDEN / "lit_text_transformer.npz")
    (tmp_path / "lit.npz").write_bytes(b"before")

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save_lit(model, tmp_path / "lit.npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]

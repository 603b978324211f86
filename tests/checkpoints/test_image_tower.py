"""Image towers: what big_vision's code computes of the same files."""

import keras
import numpy as np
import pytest

from keras_lit import ImageTower, backbones, checkpoints
from tests.checkpoints.files import GOLDEN, arrays_of, renamed

INPUTS = np.load(GOLDEN / "inputs.npz")
POOLINGS = {"vit_tok": "first", "vit_gap": "mean", "vit_map": "map", "mlp_mixer": "mean"}


@pytest.mark.parametrize("name", POOLINGS)
def test_outputs_equal_the_reference(name):
    golden = arrays_of(name)
    tower = checkpoints.load_image_tower(GOLDEN / f"{name}.npz", head=True)
    assert tower.pooling == POOLINGS[name]
    np.testing.assert_allclose(tower(INPUTS["image"]), golden["output"], atol=5e-6)
    features = checkpoints.load_image_tower(GOLDEN / f"{name}.npz")(INPUTS["image"])
    assert features.shape == (3, 40)
    head = features @ golden["params/head/kernel"] + golden["params/head/bias"]
    np.testing.assert_allclose(head, golden["output"], atol=5e-6)


def test_two_towers_equal_the_reference():
    golden = arrays_of("two_towers")
    model = checkpoints.load_lit(GOLDEN / "two_towers.npz")
    np.testing.assert_allclose(model.encode_image(INPUTS["image"]), golden["zimg"], atol=1e-6)
    np.testing.assert_allclose(model.encode_text(INPUTS["text"]), golden["ztxt"], atol=1e-6)
    np.testing.assert_array_equal(np.reshape(model.temperature, [1]), golden["temperature"])


def load(arrays, path, **options):
    np.savez(path / "tower.npz", **arrays)
    return checkpoints.load_image_tower(path / "tower.npz", **options)


def weights_of(name):
    arrays = {key: array for key, array in arrays_of(name).items() if key != "output"}
    return renamed(arrays, ("params/", ""))


def inlined_pooling(arrays):
    """As in ViT-g's development."""
    return renamed(arrays, ("MAPHead_0/", ""))


def positions_of_a_class_token(arrays):
    """Left in the file of a model that had none; other than with `cls` it is of no use."""
    positions = arrays["pos_embedding"]
    return {**arrays, "pos_embedding": np.concatenate([positions[:, :1] * 9, positions], axis=1)}


def representation_layer(arrays):
    """The original ViTs have one before the classifier; it is of the classifier."""
    return {
        **arrays,
        "pre_logits/kernel": np.ones([40, 9], "f"),
        "pre_logits/bias": np.ones(9, "f"),
    }


@pytest.mark.parametrize(
    "layout", [inlined_pooling, positions_of_a_class_token, representation_layer]
)
def test_layouts(layout, tmp_path):
    arrays = weights_of("vit_map")
    changed = layout(arrays)
    assert set(changed) != set(arrays) or changed["pos_embedding"].shape[1] == 65
    features = load(changed, tmp_path)(INPUTS["image"])
    outputs = features @ arrays["head/kernel"] + arrays["head/bias"]
    np.testing.assert_allclose(outputs, arrays_of("vit_map")["output"], atol=5e-6)


def test_one_resolution_for_a_mixer(tmp_path):
    message = r"one number of patches, here 64 of 8 x 8.*Received `image_size`=32"
    with pytest.raises(ValueError, match=message):
        load(weights_of("mlp_mixer"), tmp_path, image_size=32)
    assert load(weights_of("mlp_mixer"), tmp_path, image_size=64).embedding_dim == 40


def test_positions_that_are_no_square(tmp_path):
    arrays = weights_of("vit_gap")
    arrays["pos_embedding"] = arrays["pos_embedding"][:, :60]
    with pytest.raises(ValueError, match=r"'pos_embedding' should hold a square.*60 positions"):
        load(arrays, tmp_path)


@pytest.mark.parametrize(
    ("backbone", "size", "count"),
    [  # timm's counts of vit_{tiny,small,base,large}_patch16_224 without their heads.
        ("VisionTransformer", "Ti/16", 5_524_416),
        ("VisionTransformer", "S/16", 21_665_664),
        ("VisionTransformer", "B/16", 85_798_656),
        ("VisionTransformer", "L/16", 303_301_632),
    ],
)
def test_sizes(backbone, size, count):
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(backbones, backbone).from_size(size)
    keras.utils.clear_session()
    assert model.count_params() == count


@pytest.mark.parametrize("backbone", [backbones.VisionTransformer, backbones.MLPMixer])
def test_impossible_sizes(backbone):
    with pytest.raises(ValueError, match="`size` should be one of .*'B'.*Received: 'X'"):
        backbone.from_size("X/16")
    with pytest.raises(ValueError, match="`size` should name the patch.*Received: 'B'"):
        backbone.from_size("B")
    with pytest.raises(ValueError, match=r"multiple of `patch_size`. Received: \(30, 30\)"):
        backbone(30, 8, 12, 1, 24, 3)


@pytest.mark.parametrize("size", [0, "224", (32, -32)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="`image_size` should be a positive whole number"):
        checkpoints.load_image_tower(GOLDEN / "vit_gap.npz", image_size=size)


def test_attention_heads_divide_the_width():
    with pytest.raises(ValueError, match="divisible by `num_heads`. Received: 12 and 5"):
        backbones.VisionTransformer(32, 8, 12, 1, 24, 5)


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: backbones.VisionTransformer(
            (32, 16), (8, 4), 12, 2, 20, 3, class_token=False, dropout=0.1
        ),
        lambda: backbones.MLPMixer((32, 16), (8, 4), 12, 2, 6, 20),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "map"])
def test_round_trip(backbone, pooling, tmp_path):
    tower = ImageTower(backbone(), pooling)
    for weight in tower.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    images = np.random.default_rng(1).normal(size=[3, 32, 16, 3]).astype("float32")
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    np.testing.assert_array_equal(again(images), tower(images))

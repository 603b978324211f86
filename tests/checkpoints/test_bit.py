"""BiT ResNets, in both layouts, against the paper's network written down in NumPy."""

import keras
import numpy as np
import pytest

from keras_lit import ImageTower, LiT, TextTower, backbones, checkpoints

GREEK = {"scale": "gamma", "bias": "beta"}
LETTERS = {f"{kind}{i}": letter for kind in ("gn", "conv") for i, letter in enumerate("abc", 1)}
SHAPES = {
    "root_block/conv_root/kernel": (7, 7, 3, 32),
    "block1/unit01/gn1": (32,),
    "block1/unit01/conv_proj/kernel": (1, 1, 32, 128),
    "block1/unit01/conv1/kernel": (1, 1, 32, 32),
    "block1/unit01/gn2": (32,),
    "block1/unit01/conv2/kernel": (3, 3, 32, 32),
    "block1/unit01/gn3": (32,),
    "block1/unit01/conv3/kernel": (1, 1, 32, 128),
    "block1/unit02/gn1": (128,),
    "block1/unit02/conv1/kernel": (1, 1, 128, 32),
    "block1/unit02/gn2": (32,),
    "block1/unit02/conv2/kernel": (3, 3, 32, 32),
    "block1/unit02/gn3": (32,),
    "block1/unit02/conv3/kernel": (1, 1, 32, 128),
    "block2/unit01/gn1": (128,),
    "block2/unit01/conv_proj/kernel": (1, 1, 128, 256),
    "block2/unit01/conv1/kernel": (1, 1, 128, 64),
    "block2/unit01/gn2": (64,),
    "block2/unit01/conv2/kernel": (3, 3, 64, 64),
    "block2/unit01/gn3": (64,),
    "block2/unit01/conv3/kernel": (1, 1, 64, 256),
    "norm-pre-head": (256,),
    "head/kernel": (256, 5),
    "head/bias": (5,),
}


def made_weights():
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in SHAPES.items():
        if (name.startswith("block") and "gn" in name) or name == "norm-pre-head":
            arrays[f"{name}/scale"] = rng.normal(1, 0.3, (1, 1, 1, *shape)).astype("float32")
            arrays[f"{name}/bias"] = rng.normal(0, 0.3, (1, 1, 1, *shape)).astype("float32")
        else:
            arrays[name] = rng.normal(0.2, 0.5, shape).astype("float32")
    return arrays


def convolve(x, kernel, strides, value=0.0, reduce=None):
    """Padded by half of the kernel; `reduce` makes a pooling of it."""
    size = kernel.shape[0] if reduce is None else kernel
    half = size // 2
    x = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)], constant_values=value)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    windows = windows[:, ::strides, ::strides]
    if reduce is not None:
        return reduce(windows, axis=(-2, -1))
    kernel = kernel - kernel.mean((0, 1, 2))
    kernel = kernel / np.sqrt((kernel**2).mean((0, 1, 2)) + 1e-10)
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def normalize(x, arrays, name):
    n, h, w, c = x.shape
    groups = x.reshape(n, h, w, 32, c // 32)
    groups = groups - groups.mean((1, 2, 4), keepdims=True)
    groups = groups / np.sqrt((groups**2).mean((1, 2, 4), keepdims=True) + 1e-5)
    y = groups.reshape(x.shape) * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]
    return np.maximum(y, 0)


def numpy_bit(images, arrays):
    arrays = {name: array.astype("float64") for name, array in arrays.items()}
    x = convolve(images.astype("float64"), arrays["root_block/conv_root/kernel"], 2)
    x = convolve(x, 3, 2, value=-np.inf, reduce=np.max)
    for unit, strides in (("block1/unit01", 1), ("block1/unit02", 1), ("block2/unit01", 2)):
        y = normalize(x, arrays, f"{unit}/gn1")
        if f"{unit}/conv_proj/kernel" in arrays:
            x = convolve(y, arrays[f"{unit}/conv_proj/kernel"], strides)
        y = convolve(y, arrays[f"{unit}/conv1/kernel"], 1)
        y = normalize(y, arrays, f"{unit}/gn2")
        y = convolve(y, arrays[f"{unit}/conv2/kernel"], strides)
        y = normalize(y, arrays, f"{unit}/gn3")
        x = x + convolve(y, arrays[f"{unit}/conv3/kernel"], 1)
    features = normalize(x, arrays, "norm-pre-head").mean((1, 2))
    return features @ arrays["head/kernel"] + arrays["head/bias"]


def of_bit(arrays):
    """The layout of BiT's own files."""
    result = {}
    for name, array in arrays.items():
        match name.split("/"):
            case ["root_block", *_]:
                new = "root_block/standardized_conv2d/kernel"
            case ["head", part]:
                new = f"head/conv2d/{part}"
                array = array[None, None] if part == "kernel" else array
            case ["norm-pre-head", part]:
                new = f"group_norm/{GREEK[part]}"
                array = array[0, 0, 0]
            case [block, unit, "conv_proj", _]:
                new = f"{block}/{unit}/a/proj/standardized_conv2d_4/kernel"
            case [block, unit, norm, "scale" | "bias" as part]:
                new = f"{block}/{unit}/{LETTERS[norm]}/group_norm/{GREEK[part]}"
                array = array[0, 0, 0]
            case [block, unit, convolution, _]:
                new = f"{block}/{unit}/{LETTERS[convolution]}/standardized_conv2d_7/kernel"
        result[f"resnet/{new}"] = array
    assert len(result) == len(arrays)
    return result


@pytest.mark.parametrize("layout", [dict, of_bit])
def test_outputs_equal_numpy(layout, tmp_path):
    arrays = made_weights()
    np.savez(tmp_path / "bit.npz", **layout(arrays))
    tower = checkpoints.load_image_tower(tmp_path / "bit.npz", image_size=37, head=True)
    images = np.random.default_rng(1).uniform(-1, 1, [2, 37, 37, 3]).astype("float32")
    np.testing.assert_allclose(tower(images), numpy_bit(images, arrays), rtol=1e-4, atol=1e-4)
    assert tower.preprocessor.image_size == (37, 37) and tower.pooling == "mean"


def test_a_lit_of_a_bit_is_saved(tmp_path):
    np.savez(tmp_path / "bit.npz", **of_bit(made_weights()))
    image_tower = checkpoints.load_image_tower(tmp_path / "bit.npz")
    assert image_tower.embedding_dim == 256
    text_tower = TextTower(backbones.TextTransformer(50, 9, 12, 1, 20, 3), sequence_length=9)
    model = LiT(image_tower, text_tower)
    checkpoints.save_lit(model, tmp_path / "lit.npz")
    again = checkpoints.load_lit(tmp_path / "lit.npz")
    for weight, expected in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_units_are_complete(tmp_path):
    arrays = {n.replace("unit02", "unit03"): array for n, array in made_weights().items()}
    np.savez(tmp_path / "bit.npz", **arrays)
    with pytest.raises(ValueError, match=r"'block1/unit\*' should be numbered 1, 2.*\[1, 3\]"):
        checkpoints.load_image_tower(tmp_path / "bit.npz")


def test_round_trip(tmp_path):
    tower = ImageTower(backbones.BiTResNet((1, 2), 12, 4))
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    images = np.random.default_rng(1).uniform(-1, 1, [2, 40, 40, 3]).astype("float32")
    np.testing.assert_array_equal(again(images), tower(images))


@pytest.mark.parametrize(
    ("image", "size", "millions"),
    [
        ("VisionTransformer", "B/32", 197),
        ("MLPMixer", "B/32", 169),
        ("BiTResNet", "R50x1", 134),
    ],
)
def test_table_6(image, size, millions):
    """The paper's counts of the whole models, with BERT-base."""
    with keras.StatelessScope(initialize_variables=False):
        image_tower = ImageTower(getattr(backbones, image).from_size(size))
        text_tower = TextTower(backbones.BertEncoder(30_522, 12, 12, 768, 3072))
        model = LiT(image_tower, text_tower)
    keras.utils.clear_session()
    assert round(model.count_params() / 1e6) == millions


def test_impossible_sizes():
    with pytest.raises(ValueError, match="`size` should be one of 'R26'.*Received: 'R18'"):
        backbones.BiTResNet.from_size("R18x1")
    with pytest.raises(ValueError, match="`size` should name the width.*Received: 'R50'"):
        backbones.BiTResNet.from_size("R50")
    with pytest.raises(ValueError, match="divisible by `groups`. Received: 24 and 32"):
        backbones.BiTResNet((1,), 24)

"""Segmentation of squares of colour by a tower that sees colours."""

import warnings

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.evaluation import mean_iou, read_masks, report, segment
from keras_lit.evaluation.segmentation import in_view
from keras_lit.preprocessing import ImagePreprocessor

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])
NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def model():
    """Its patches are the mean colours of 4 x 4 pixels, its texts the colours."""
    backbone = keras.Sequential([keras.Input([16, 16, 3]), keras.layers.AveragePooling2D(4)])
    tower = keras_lit.ImageTower(backbone, preprocessor=ImagePreprocessor(16))
    model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(3), "LL")
    model.encode_text = lambda texts, **_: np.array(
        [COLOURS[NAMES.index(x)] / 127.5 - 1 for x in texts]
    )
    return model


@pytest.fixture
def folder(tmp_path):
    """Left red, right blue; the mask of a palette says that a half of the right is green."""
    mask = np.repeat([[0, 2]], 8, axis=0).repeat(4, axis=1)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    keras.utils.save_img(tmp_path / "images" / "a.png", COLOURS[mask], scale=False)
    mask[4:, 4:], mask[0, 0] = 1, 255
    picture = PIL.Image.fromarray(mask.astype("uint8"), "P")
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + 247 * [7, 8, 9] + 18 * [0])
    picture.save(tmp_path / "masks" / "a.png")
    return tmp_path


def test_a_folder(model, folder):
    result = segment(model, folder, NAMES, dataset="squares", verbose=0)
    # 16 x 16 pixels: 124 of red (one of 8 x 8 does not count), 64 of blue, 64 of green, all blue.
    assert result.metrics["pixel_accuracy"] == pytest.approx(188 / 252)
    assert result.metrics["mean_iou"] == pytest.approx((1 + 0 + 64 / 128) / 3)
    assert result.count == 1 and result.settings["grid"] == "4x4"
    (row,) = result.heat_maps
    assert [name for name, _ in row.maps] == NAMES and row.pixels.shape == (16, 16, 3)
    np.testing.assert_array_equal(row.pixels[0, 0], COLOURS[0])
    page = report([result], folder / "report").read_text()
    assert page.count("data:image/png") == 4 and "Heat maps" in page
    assert "heat_maps" not in result.to_dict()


def test_pointing_of_each_class(model):
    pixels = COLOURS[np.array([[0, 1], [1, 2]]).repeat(8, axis=0).repeat(8, axis=1)]
    mask = np.zeros([16, 16], int)
    mask[8:, 8:] = 2  # Green is no class of the mask, red is too large in it.
    result = segment(model, [(pixels.astype("uint8"), mask)], NAMES, verbose=0)
    assert result.metrics["pointing_accuracy"] == 1.0
    assert result.metrics["pointing_chance"] == 0.5  # Of 3/4 and 1/4.


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(24, 48), (40, 20), (16, 16)])
def test_a_mask_goes_where_its_picture_goes(resize, size):
    preprocessor = ImagePreprocessor(16, resize, 0.8, "0..255", background=255)
    mask = np.arange(size[0] * size[1]).reshape(size) * 8 // (size[0] * size[1])  # Bands.
    mask = mask * (np.arange(size[1]) < size[1] * 0.6)
    pixels = np.repeat(mask[..., np.newaxis] * 20, 3, axis=2).astype("uint8")
    seen = preprocessor(pixels).numpy()[..., 0] / 20
    found = in_view(preprocessor, mask)
    assert ((found == 255) == (seen > 12)).all()
    inside = found != 255
    # Bilinear pixels between two bands are neither.
    assert (np.abs(found - seen)[inside] < 0.51).mean() > 0.9


def test_mean_iou_leaves_out_what_is_nowhere():
    truth, said = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 1])
    confusion = np.zeros([4, 4], int)
    np.add.at(confusion, (truth, said), 1)
    of_classes = []
    for i in (0, 1, 3):
        both, either = ((truth == i) & (said == i)).sum(), ((truth == i) | (said == i)).sum()
        of_classes.append(both / either)
    assert mean_iou(confusion) == pytest.approx(sum(of_classes) / 3)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full([16, 16], 3), r"Mask 0 should be .* of 0 to 2.* other numbers: \[3\]"),
        (np.zeros([16, 16, 3], int), r"Received: shape \(16, 16, 3\)"),
        (np.zeros([16, 8], int), r"shape of its picture.* \(16, 8\) for \(16, 16\) of picture 0"),
    ],
)
def test_bad_masks(model, mask, message):
    with pytest.raises(ValueError, match=message):
        segment(model, [(np.zeros([16, 16, 3], "uint8"), mask)], NAMES, verbose=0)


def test_a_picture_is_turned_as_exif_says_and_its_mask_is_too(model, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.repeat([[0, 2]], 8, axis=0).repeat(4, axis=1)[:4]  # 4 x 8 pixels as they are stored.
    turned = PIL.Image.Exif()
    turned[274] = 6  # By 90 degrees clockwise.
    image = PIL.Image.fromarray(COLOURS[mask].astype("uint8"))
    image.save(tmp_path / "images" / "a.png", exif=turned)
    PIL.Image.fromarray(mask.astype("uint8")).save(tmp_path / "masks" / "a.png")
    with pytest.raises(
        ValueError, match=r"upright as EXIF says.* \(4, 8\) for \(8, 4\) of .*a.png"
    ):
        segment(model, tmp_path, NAMES, verbose=0)
    upright = np.rot90(mask, -1).astype("uint8")
    PIL.Image.fromarray(upright).save(tmp_path / "masks" / "a.png")
    assert segment(model, tmp_path, NAMES, verbose=0).metrics["pixel_accuracy"] == 1.0
    PIL.Image.fromarray(upright).save(tmp_path / "masks" / "a.bmp")
    with pytest.raises(ValueError, match="one mask of each stem.* beside a.bmp"):
        read_masks(tmp_path)


def test_rows_of_each_kind(model, folder):
    """Their sides are looked at, too."""
    image, mask = folder / "images" / "a.png", np.zeros([8, 8], int)
    pixels, content = np.array(PIL.Image.open(image)), image.read_bytes()
    wanted = segment(model, [(pixels, mask)], NAMES, verbose=0).metrics
    with PIL.Image.open(image) as picture:
        for given in (picture, str(image), content, tf.constant(content)):
            for row in ((given, mask), {"mask": mask, "image": given}):
                assert segment(model, [row], NAMES, verbose=0).metrics == wanted
            with pytest.raises(ValueError, match=r"shape of its picture.* \(8, 4\) for \(8, 8\)"):
                segment(model, [(given, mask[:, :4])], NAMES, verbose=0)
    rows = tf.data.Dataset.from_tensors((pixels, mask)).filter(lambda *_: True)
    assert segment(model, rows, NAMES, verbose=0).metrics == wanted
    with pytest.raises(ValueError, match="of one image. Received: 2"):
        segment(model, [([pixels, pixels], mask)], NAMES, verbose=0, pictures=0)


def test_a_class_as_near_comes_before_the_right_one(model):
    pixels, mask = np.full([16, 16, 3], COLOURS[0], "uint8"), np.zeros([16, 16], int)
    for names, accuracy in ((["red", "blue"], 1.0), (["red", "red"], 0.0), (["red"], 1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = segment(model, [(pixels, mask)], names, verbose=0).metrics
        assert found["pixel_accuracy"] == accuracy


def test_what_cannot_be_counted(model):
    with pytest.raises(ValueError, match="at most 255 classes.* Received: 256"):
        segment(model, [], ["a class"] * 256, verbose=0)
    for wrong in (np.zeros([2, 2]), np.ones([2, 3])):
        with pytest.raises(ValueError, match=r"counts of pixels \[classes, classes\]"):
            mean_iou(wrong)


def test_bad_folders(model, folder):
    with pytest.raises(FileNotFoundError, match='two folders, "images" and "masks"'):
        read_masks(folder / "images")
    (folder / "masks" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 images have no mask .*: a.png"):
        read_masks(folder)
    with pytest.raises(ValueError, match="a picture with a mask. Received none"):
        segment(model, [], NAMES, verbose=0)

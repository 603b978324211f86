"""Pictures as people hold them are embedded as their files are, or a sentence says what to pass."""

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_lit.training import pictures
from keras_lit.training.batches import as_dataset
from tests.small import make_model

RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, [9 + i, 12 - i, 3]).astype("uint8") for i in range(3)]


@pytest.fixture(scope="module")
def model():
    return make_model("LU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(PIXELS):
        (path / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return path


@pytest.fixture(scope="module")
def expected(model):
    return np.concatenate([model.encode_image(pixels[np.newaxis]) for pixels in PIXELS])


FORMS = {
    "a glob": lambda folder: f"{folder}/*.png",
    "Path.glob": lambda folder: iter(sorted(folder.glob("*.png"))),
    "an array of names": lambda folder: np.array(sorted(map(str, folder.glob("*.png")))),
    "PIL": lambda folder: [PIL.Image.open(folder / f"{i}.png") for i in range(3)],
    "an iterator of PIL": lambda folder: (PIL.Image.open(folder / f"{i}.png") for i in range(3)),
    "arrays of several sizes": lambda folder: PIXELS,
    "an iterator of arrays": lambda folder: iter(PIXELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_embeds_as_its_pixels(form, model, folder, expected):
    np.testing.assert_allclose(model.encode_image(FORMS[form](folder)), expected, atol=1e-6)


def test_one_picture(model, folder, expected):
    path = folder / "1.png"
    with open(path, "rb") as file:
        files = file, [io.BytesIO(path.read_bytes())]
        for one in (PIXELS[1], PIL.Image.open(path), path, tf.constant(path.read_bytes()), *files):
            np.testing.assert_allclose(model.encode_image(one), expected[1:2], atol=1e-6)


def test_one_grey_picture(model):
    grey = PIXELS[1][..., 0]
    expected = model.encode_image(np.stack([grey] * 3, axis=-1))
    np.testing.assert_allclose(model.encode_image(grey), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "HSV"])
def test_a_pil_picture_is_what_it_shows(mode):
    """Transparent pixels over white, as in files; PIL's own conversion is the oracle."""
    image = PIL.Image.fromarray(PIXELS[0])
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        holes = RNG.integers(0, 2, image.size[::-1]).astype("uint8") * 255
        image.putalpha(PIL.Image.fromarray(holes))
    image = image.convert(mode)
    white = PIL.Image.new("RGBA", image.size, "white")
    shown = image if mode != "HSV" else image.convert("RGB")  # PIL has no way from HSV to RGBA.
    shown = PIL.Image.alpha_composite(white, shown.convert("RGBA")).convert("RGB")
    (encoded,) = pictures.columns([image])["image"]
    found = PIL.Image.open(io.BytesIO(encoded)).convert("RGBA")
    found = PIL.Image.alpha_composite(white, found).convert("RGB")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(shown))


def test_a_pil_picture_is_turned_as_its_file(model, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    PIL.Image.fromarray(PIXELS[2]).save(path, exif=exif)
    upright = model.encode_image(np.rot90(PIXELS[2], -1)[np.newaxis])
    np.testing.assert_allclose(model.encode_image(path), upright, atol=1e-6)
    np.testing.assert_allclose(model.encode_image(PIL.Image.open(path)), upright, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "Images should be file names.*Received: NoneType"),
        ({"a.jpg"}, "Received: set"),
        ([b"", PIL.Image.new("F", (2, 2))], "PIL images should hold whole numbers"),
        (
            ["a.jpg", np.zeros([2, 2, 3], "uint8")],
            r"Received: a list of str, uint8 of shape \(2, 2, 3\)",
        ),
        ([np.zeros([2, 2, 3])] * 2, r"uint8 arrays.*a list of float64 of shape \(2, 2, 3\)"),
        ([np.zeros([5, 8, 9], "uint8")], r"1 to 4 channels.*\(5, 8, 9\).*\[\.\.\., np.newaxis\]"),
    ],
)
def test_others_are_refused_in_a_sentence(images, message):
    with pytest.raises(ValueError, match=message):
        pictures.columns(images)


def test_folders_and_empty_globs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder. Pass the pictures in it.*\*\.jpg"):
        pictures.listed(tmp_path)
    with pytest.raises(ValueError, match=r"There are no files 'no\*\.jpg'"):
        pictures.listed("no*.jpg")
    named = pathlib.Path(tmp_path / "really[1].jpg")
    named.touch()
    assert pictures.listed(str(named)) == [str(named)]


def test_columns_of_files_are_read_and_named(folder):
    files = sorted(folder.glob("*.png"))
    rows = as_dataset({"image": files, "text": ["x", "y", "z"]}, batch_size=2)
    (first, second) = rows.as_numpy_iterator()
    assert list(first["image"]) == [path.read_bytes() for path in files[:2]]
    assert list(second["name"]) == [str(files[2]).encode()] and list(second["text"]) == [b"z"]
    own = as_dataset({"image": files, "text": ["x", "y", "z"], "name": ["a", "a", "b"]})
    assert list(next(own.as_numpy_iterator())["name"]) == [b"a", b"a", b"b"]


def test_other_keys_and_paths_are_met_with_the_line_to_type(model):
    pairs = tf.data.Dataset.from_tensor_slices({"jpg": [b""] * 2, "caption": ["a", "b"]}).batch(2)
    line = r'dataset.map\(lambda x: {"image": x\["jpg"\], "text": x\["caption"\]}\)'
    with pytest.raises(ValueError, match=rf"Received: \['caption', 'jpg'\]. Rename.*{line}"):
        model.predict(pairs)
    with pytest.raises(ValueError, match="class_pairs"):
        model.predict({"image": PIXELS, "label": [0, 1, 2]})
    with pytest.raises(ValueError, match=r"read it first.*image_text_pairs\('photos'\)"):
        model.predict("photos")
    with pytest.raises(ValueError, match=r'column \'image\'.*"image": x\["jpg"\]'):
        model.encode_image(pairs)
    for text in (3, None, {"a", "b"}):
        with pytest.raises(ValueError, match="Text should be a string, or strings"):
            model.encode_text(text)
    with pytest.raises(ValueError, match="Received some of NoneType"):
        model.encode_text(["a", None])

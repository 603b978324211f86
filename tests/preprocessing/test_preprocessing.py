import io
import json
import pathlib
import subprocess
import sys

import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from keras_lit.preprocessing.decoding import decode_image

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
REFERENCE = np.load(GOLDEN / "preprocessing.npz")


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture
def picture():
    """A smooth gradient, which JPEG keeps, without any symmetry."""
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 5, y * 7, x + y * 3], axis=-1).astype("uint8"))


@pytest.mark.parametrize(
    ("resize", "expected"), [("stretch", "image_resized"), ("crop", "image_cropped")]
)
def test_resized_pixels_equal_the_reference(resize, expected):
    preprocessor = ImagePreprocessor(24, resize=resize)
    result = preprocessor(REFERENCE["image"])
    np.testing.assert_allclose(result, REFERENCE[expected][0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resize": "crop", "crop_fraction": 0.875},
        {"resize": "pad", "value_range": "imagenet", "antialias": True},
        {"interpolation": "bicubic", "value_range": "efficientnet_lite"},
        {"random_crop": (0.3, 0.8), "random_flip": True, "resize": "pad"},
    ],
)
def test_eager_tf_data_and_graph_agree(options, picture):
    preprocessor = ImagePreprocessor((20, 28), **options)
    encoded = [encode(picture, "PNG"), encode(picture.rotate(90, expand=True), "PNG")]
    batch = tf.constant(encoded)

    def run(batch):
        return preprocessor(batch, training=True, seed=tf.constant([3, 5]))

    eager = run(batch)
    assert eager.shape == (2, 20, 28, 3) and eager.dtype == tf.float32
    np.testing.assert_array_equal(eager, next(iter(tf.data.Dataset.from_tensors(batch).map(run))))
    np.testing.assert_array_equal(eager, tf.function(run)(batch))
    if "random_crop" not in options:
        for i in range(2):
            np.testing.assert_array_equal(eager[i], preprocessor(encoded[i]))
            pixels = np.asarray(Image.open(io.BytesIO(encoded[i])))
            np.testing.assert_array_equal(eager[i], preprocessor(pixels))


def test_layer_round_trips_through_its_config():
    layer = ImagePreprocessor((20, 28), "pad", value_range=((1.0, 2.0, 3.0), 4.0), background=7)
    again = ImagePreprocessor.from_config(layer.get_config())
    image = np.arange(5 * 9 * 3, dtype="uint8").reshape(5, 9, 3)
    np.testing.assert_array_equal(layer(image), again(image))


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [
        ("-1..1", [-1.0, 0.6]),
        ("0..1", [0.0, 0.8]),
        ("0..255", [0.0, 204.0]),
        ("efficientnet_lite", [-127 / 128, 77 / 128]),
        ((10.0, 2.0), [-5.0, 97.0]),
    ],
)
def test_value_ranges(value_range, expected):
    pixels = np.array([[[0, 0, 0], [204, 204, 204]]], "uint8")
    result = ImagePreprocessor((1, 2), value_range=value_range)(pixels)
    np.testing.assert_allclose(result[0, :, 1], expected, rtol=1e-6, atol=1e-6)


def test_imagenet_range_is_per_channel():
    result = ImagePreprocessor(1, value_range="imagenet")(np.full([1, 1, 3], 255, "uint8"))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-5)


def test_pad_keeps_the_aspect_ratio_and_the_background():
    pixels = np.zeros([10, 20, 3], "uint8")
    result = ImagePreprocessor(8, "pad", value_range="0..255", background=9)(pixels).numpy()
    assert (result[:2] == 9).all() and (result[2:6] == 0).all() and (result[6:] == 9).all()


def test_a_thin_picture_keeps_a_row_of_pixels():
    pixels = np.zeros([1, 100, 3], "uint8")
    result = ImagePreprocessor(8, "pad", value_range="0..255", background=9)(pixels).numpy()
    assert [set(row.ravel()) for row in result] == [{9}] * 3 + [{0}] + [{9}] * 4


def test_random_crops_are_of_the_padded_picture():
    layer = ImagePreprocessor(8, "pad", value_range="0..255", background=9, random_crop=(1.0, 1.0))
    result = layer(np.zeros([10, 20, 3], "uint8"), training=True, seed=tf.constant([1, 2]))
    assert (result[:2] == 9).numpy().all() and (result[2:6] == 0).numpy().all()


def test_crop_takes_the_centre():
    pixels = np.repeat(np.arange(0, 240, 20, dtype="uint8")[None, :, None], 4, axis=0)
    pixels = np.repeat(pixels, 3, axis=-1)  # 4 x 12, each column its own value
    result = ImagePreprocessor(4, "crop", value_range="0..255")(pixels)
    np.testing.assert_array_equal(result[0, :, 0], [80, 100, 120, 140])


def test_crop_keeps_a_whole_number_of_pixels():
    """24 / 38 * 95 is 60, and in float32 a little less."""
    pixels = np.random.default_rng(0).integers(0, 256, [38, 95, 3]).astype("uint8")
    expected = tf.cast(tf.image.resize(pixels, [24, 60]), tf.uint8)[:, 18:42]
    result = ImagePreprocessor(24, "crop", value_range="0..255")(pixels)
    np.testing.assert_array_equal(result, expected)


def test_random_crop_and_flip_follow_the_seed(picture):
    layer = ImagePreprocessor(16, random_crop=(0.2, 0.5), random_flip=True)
    images = np.stack([np.asarray(picture)] * 8)
    first, again, other = (
        layer(images, training=True, seed=tf.constant(seed)).numpy()
        for seed in ([1, 2], [1, 2], [3, 4])
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1, "rows of a batch should differ"
    np.testing.assert_array_equal(layer(images)[0], layer(images)[1])
    # The green channel grows downwards only, so a flip shows in the red one, which grows rightwards.
    rightwards = first[:, 8, -1, 0] > first[:, 8, 0, 0]
    assert 0 < rightwards.sum() < 8


FORMATS = {
    "jpeg": ("RGB", "JPEG", {"quality": 98, "subsampling": 0}),
    "jpeg cmyk": ("CMYK", "JPEG", {"quality": 98}),
    "png": ("RGB", "PNG", {}),
    "png rgba": ("RGBA", "PNG", {}),
    "gif": ("RGB", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "webp": ("RGB", "WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_decode_to_rgb(name, picture):
    mode, file_format, options = FORMATS[name]
    decoded = decode_image(encode(picture.convert(mode), file_format, **options))
    assert decoded.dtype == tf.uint8
    error = np.abs(np.asarray(decoded, "int32") - np.asarray(picture, "int32"))
    assert error.mean() < (8 if name == "gif" else 2), error.mean()


@pytest.mark.parametrize(
    ("mode", "file_format"), [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("L", "BMP")]
)
def test_grey_images_get_three_equal_channels(mode, file_format, picture):
    grey = picture.convert(mode)
    decoded = np.asarray(decode_image(encode(grey, file_format)))
    assert decoded.shape == (30, 40, 3)
    np.testing.assert_allclose(decoded[..., 0], np.asarray(grey.convert("L")), atol=3)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_sixteen_bits_are_scaled_to_eight():
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], "uint16")
    decoded = decode_image(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(decoded[..., 0], [[0, 100], [200, 255]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background", [255, 50])
def test_alpha_is_composited_over_the_background(mode, background):
    image = Image.new(mode, (3, 1), (100,) * len(mode))
    image.putalpha(Image.fromarray(np.array([[0, 51, 255]], "uint8")))
    decoded = decode_image(encode(image, "PNG"), background)
    # 51 / 255 = 0.2
    expected = [background, round(0.2 * 100 + 0.8 * background), 100]
    np.testing.assert_array_equal(decoded[0, :, 1], expected)


def test_animations_give_their_first_frame(picture):
    moving = encode(picture, "GIF", save_all=True, append_images=[picture.rotate(180)])
    np.testing.assert_array_equal(decode_image(moving), decode_image(encode(picture, "GIF")))


@pytest.mark.parametrize(
    "bad", [b"", b"not an image", b"\xff\xd8\xff\xe0 broken"], ids=["empty", "text", "jpeg"]
)
@pytest.mark.parametrize("in_tf_data", [False, True])
def test_a_bad_image_is_named(bad, in_tf_data, picture):
    preprocessor = ImagePreprocessor(16)
    batch = tf.constant([encode(picture, "PNG"), bad, encode(picture, "PNG")])
    names = tf.constant(["a.png", b"caf\xe9/b.jpg", "c.png"])  # As old file systems have them.

    def run(batch):
        return preprocessor(batch, names=names)

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"does not decode.*caf\ufffd/b\.jpg"):
        next(iter(tf.data.Dataset.from_tensors(batch).map(run))) if in_tf_data else run(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "squeeze"}, "`resize` should be one of 'stretch', 'crop', 'pad'"),
        ({"value_range": "0..7"}, "`value_range` should be one of"),
        ({"crop_fraction": 0.0}, r"`crop_fraction` should be in \(0, 1\]"),
        ({"random_crop": (0.5, 0.2)}, "smallest <= largest"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImagePreprocessor(16, **arguments)


@pytest.mark.parametrize("images", [np.zeros([2, 4, 4, 3], "int32"), np.zeros([4, 4], "uint8")])
def test_wrong_pixels_are_refused(images):
    with pytest.raises(ValueError, match=r"uint8 pixels.*Received"):
        ImagePreprocessor(16)(images)


# Text.

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "naive", "##s"]


def bert(**options):
    return keras_nlp.models.BertTokenizer(
        vocabulary=WORDS, lowercase=True, strip_accents=True, **options
    )


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "A dogs", [2, 5, 6, 8, 3, 0]),
        ({"end_token_id": None}, "A dogs", [2, 5, 6, 8, 0, 0]),
        ({}, "a a a a a a a a", [2, 5, 5, 5, 5, 3]),  # cut, with [SEP] kept
        ({}, "naïve", [2, 7, 3, 0, 0, 0]),
        ({}, "", [2, 3, 0, 0, 0, 0]),
        ({"start_token_id": None, "pad_token_id": 4}, "cat", [1, 3, 4, 4, 4, 4]),
    ],
)
def test_wordpiece_ids(options, text, expected):
    preprocessor = TextPreprocessor(bert(), 6, **options)
    np.testing.assert_array_equal(preprocessor([text])[0], expected)
    np.testing.assert_array_equal(preprocessor(text), expected)
    from_data = next(iter(tf.data.Dataset.from_tensors([text]).map(preprocessor)))
    np.testing.assert_array_equal(from_data[0], expected)
    assert from_data.dtype == tf.int32


@pytest.mark.slow
def test_token_ids_equal_the_reference():
    from keras_lit.demo.pretrained import minilm_tokenizer  # the standard BERT vocabulary

    settings = json.loads((GOLDEN / "preprocessing.json").read_text())
    preprocessor = TextPreprocessor(
        minilm_tokenizer(), settings["sequence_length"], end_token_id=None
    )
    np.testing.assert_array_equal(preprocessor(settings["texts"]), REFERENCE["token_ids"])


def test_lowercase_option():
    cased = keras_nlp.models.BertTokenizer(vocabulary=WORDS, lowercase=False)
    assert TextPreprocessor(cased, 4)("DOG")[1] == 1
    folding = TextPreprocessor(cased, 4, lowercase=True)
    assert folding("DOG")[1] == 6
    assert TextPreprocessor.from_config(folding.get_config()).lowercase


@pytest.mark.parametrize("text", [[1, 2], [1.5], [["a", "b"]]])
def test_text_that_is_no_strings_is_refused(text):
    with pytest.raises(ValueError, match=r"Text should be strings.*Received"):
        TextPreprocessor(bert(), 6)(text)


@pytest.mark.slow
def test_what_is_unlikely_is_spared_the_optimisation_of_graphs():
    # An optimisation that shows: it strips assertions; of a process of its own, for it stays on.
    code = """
import tensorflow as tf
from keras_lit.preprocessing.image import first_that_works
tf.config.optimizer.set_experimental_options({"debug_stripper": True})

def fail(images):
    with tf.control_dependencies([tf.debugging.Assert(False, ["not stripped"])]):
        return tf.identity(images)

def fallen_back(images):
    return first_that_works(images, lambda x: tf.io.decode_base64(x), fail)

for function in (fail, fallen_back):
    try:
        print(next(iter(tf.data.Dataset.from_tensors("?").map(function))).numpy().decode())
    except tf.errors.InvalidArgumentError as error:
        print("stripped" if "not stripped" not in str(error) else "kept")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["?", "kept"]

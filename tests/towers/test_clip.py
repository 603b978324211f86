"""keras-hub's CLIP and SigLIP as LiT: the same logits, and training goes on."""

import keras_nlp
import numpy as np
import pytest

from keras_lit import LiT

models = keras_nlp.models
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=[3, 16, 16, 3]).astype("float32")
# The highest id ends the text; what follows it is padding.
TOKEN_IDS = np.array([[1, 5, 49, 0, 0, 0], [1, 7, 3, 8, 49, 0], [1, 2, 6, 4, 9, 49]], "int32")


def clip():
    vision = models.CLIPVisionEncoder(8, 12, 2, 2, 24, image_shape=(16, 16, 3))
    text = models.CLIPTextEncoder(50, 12, 12, 2, 2, 24, max_sequence_length=6)
    return models.CLIPBackbone(vision, text, 10)


def siglip():
    vision = models.SigLIPVisionEncoder(8, 12, 2, 2, 24, image_shape=(16, 16, 3))
    text = models.SigLIPTextEncoder(50, 12, 12, 2, 2, 24, max_sequence_length=6)
    return models.SigLIPBackbone(vision, text)


def randomized(backbone):
    for weight in backbone.trainable_weights:
        weight.assign(RNG.normal(size=weight.shape, scale=0.3))
    return backbone


@pytest.mark.parametrize(("make", "loss"), [(clip, "softmax"), (siglip, "sigmoid")])
def test_logits_equal_keras_hubs(make, loss):
    backbone = randomized(make())
    model = LiT.from_towers_of(backbone)
    images, texts = model.encode_image(IMAGES), model.encode_text(TOKEN_IDS)
    bias = model.bias.numpy() if loss == "sigmoid" else 0.0
    logits = model.temperature * images @ texts.T + bias
    expected = backbone({"images": IMAGES, "token_ids": TOKEN_IDS})["vision_logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert model.loss_name == loss and model.text_tower.sequence_length == 6
    scale = (backbone.clip_head if loss == "softmax" else backbone.siglip_head).logit_scale
    np.testing.assert_array_equal(model.log_temperature, scale)


@pytest.mark.slow
@pytest.mark.parametrize("make", [clip, siglip])
def test_tuning_moves_the_text_alone(make):
    backbone = randomized(make())
    model = LiT.from_towers_of(backbone)
    model.compile("sgd", jit_compile=False)
    before = [weight.numpy() for weight in backbone.vision_encoder.weights]
    text = backbone.text_encoder.trainable_weights[0].numpy()
    model.fit({"image": IMAGES, "text": TOKEN_IDS}, verbose=0)
    for weight, old in zip(backbone.vision_encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert (backbone.text_encoder.trainable_weights[0].numpy() != text).any(), (
        "the encoders are shared"
    )


def test_preprocessing():
    """CLIP: the short side resized, the centre, CLIP's mean and deviation; SigLIP: -1..1."""
    pixels = np.full([1, 16, 32, 3], [255, 0, 100], "uint8")
    pixels[:, :, :8] = pixels[:, :, -8:] = 7
    found = LiT.from_towers_of(clip()).image_tower.preprocessor(pixels)[0, 8, 8]
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    wanted = (np.array([1, 0, 100 / 255]) - mean) / deviation
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    found = LiT.from_towers_of(siglip()).image_tower.preprocessor(pixels)[0, 8, 8]
    np.testing.assert_allclose(found, [1, -1, 100 / 127.5 - 1], atol=1e-5)


def test_a_tokenizer_gives_clip_its_ids():
    words = ["<|startoftext|>", "<|endoftext|>", "d", "o", "g", "do", "g</w>", "dog</w>", "!"]
    ids = {word: i for i, word in enumerate(words[2:] + words[:2])}
    tokenizer = models.CLIPTokenizer(ids, ["d o", "do g</w>"])
    text_tower = LiT.from_towers_of(clip(), tokenizer).text_tower
    assert text_tower.preprocessor(["DOG"]).numpy().tolist() == [[7, 5, 8, 0, 0, 0]]


def test_options_and_other_backbones():
    assert float(LiT.from_towers_of(clip(), temperature=3.0).temperature) == pytest.approx(3)
    assert LiT.from_towers_of(clip()).max_temperature == 100
    with pytest.raises(ValueError, match=r"CLIPBackbone` or `SigLIPBackbone`. Received: ViT"):
        LiT.from_towers_of(models.ViTBackbone((16, 16, 3), 8, 1, 2, 12, 24))

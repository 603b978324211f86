"""Every family of image and text backbones: built small, locked or tuned for a step, saved, read."""

import keras
import keras_cv
import keras_nlp
import numpy as np
import pytest

from keras_lit import ImageTower, LiT, TextTower, backbones
from keras_lit.preprocessing import ImagePreprocessor

models = keras_nlp.models
SIZE = 32
TEXT_LENGTH = 6
WORDS = 40

IMAGE = {
    "VisionTransformer": lambda: backbones.VisionTransformer(SIZE, 8, 12, 2, 24, 3),
    "MLPMixer": lambda: backbones.MLPMixer(SIZE, 8, 12, 2, 6, 24),
    "BiTResNet": lambda: backbones.BiTResNet((1, 1), 8, 4),
    "ViT": lambda: models.ViTBackbone((SIZE, SIZE, 3), 8, 1, 2, 12, 24),
    "DINOv2": lambda: models.DINOV2Backbone(8, 1, 12, 2, 24, image_shape=(SIZE, SIZE, 3)),
    "DINOv3": lambda: models.DINOV3Backbone(8, 1, 12, 3, 24, image_shape=(SIZE, SIZE, 3)),
    "CLIP vision": lambda: models.CLIPVisionEncoder(8, 12, 1, 2, 24, image_shape=(SIZE, SIZE, 3)),
    "SigLIP vision": lambda: models.SigLIPVisionEncoder(
        8, 12, 1, 2, 24, image_shape=(SIZE, SIZE, 3)
    ),
    "Swin": lambda: models.SwinTransformerBackbone((SIZE, SIZE, 3), 8, (1, 1), (2, 2), 4),
    "MobileNet": lambda: models.MobileNetBackbone(
        [[8], [12]], [1, 1], [[8], [8]], [[3], [3]], [[2], [2]], [[None], [0.25]],
        [["relu"], ["hard_swish"]], [[1], [1]], 16, 8, 1, False, 16,
        image_shape=(SIZE, SIZE, 3), input_num_filters=8,
    ),
    "ResNet": lambda: models.ResNetBackbone(
        [64], [7], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=(SIZE, SIZE, 3)
    ),
    "ResNetV2": lambda: models.ResNetBackbone(
        [64], [7], [64, 64], [1, 1], [1, 2], "basic_block", True, image_shape=(SIZE, SIZE, 3)
    ),
    "EfficientNet": lambda: models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3], stackwise_num_repeats=[1], stackwise_input_filters=[8],
        stackwise_output_filters=[8], stackwise_expansion_ratios=[2], stackwise_strides=[2],
        stackwise_squeeze_and_excite_ratios=[0.25], stackwise_block_types=["v1"],
        stackwise_width_coefficients=[1.0], stackwise_depth_coefficients=[1.0],
        input_shape=(SIZE, SIZE, 3),
    ),
    "keras-cv ResNetV2": lambda: keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[8, 8], stackwise_blocks=[2, 2], stackwise_strides=[1, 2],
        include_rescaling=True, input_shape=(SIZE, SIZE, 3),
    ),
    "keras-cv EfficientNetV2": lambda: keras_cv.models.EfficientNetV2Backbone(
        stackwise_kernel_sizes=[3], stackwise_num_repeats=[1], stackwise_input_filters=[8],
        stackwise_output_filters=[8], stackwise_expansion_ratios=[2], stackwise_strides=[2],
        stackwise_squeeze_and_excite_ratios=[0.25], stackwise_conv_types=["unfused"],
        include_rescaling=True, width_coefficient=1.0, depth_coefficient=1.0,
        input_shape=(SIZE, SIZE, 3),
    ),
    "keras-cv DenseNet": lambda: keras_cv.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1], include_rescaling=True, growth_rate=4,
        input_shape=(SIZE, SIZE, 3),
    ),
}  # fmt: skip

TEXT = {
    "TextTransformer": lambda: backbones.TextTransformer(WORDS, TEXT_LENGTH, 12, 1, 24, 2),
    "BertEncoder": lambda: backbones.BertEncoder(WORDS, 1, 2, 12, 24),
    "Sentence encoder": lambda: backbones.UniversalSentenceEncoder(WORDS, 12, 8, 10, 12),
    "BERT": lambda: models.BertBackbone(WORDS, 1, 2, 12, 24),
    "DistilBERT": lambda: models.DistilBertBackbone(WORDS, 1, 2, 12, 24),
    "RoBERTa": lambda: models.RobertaBackbone(WORDS, 1, 2, 12, 24),
    "XLM-R": lambda: models.XLMRobertaBackbone(WORDS, 1, 2, 12, 24),
    "ALBERT": lambda: models.AlbertBackbone(WORDS, 1, 2, 8, 12, 24),
    "DeBERTa": lambda: models.DebertaV3Backbone(WORDS, 1, 2, 12, 24),
    "T5": lambda: backbones.t5_encoder(models.T5Backbone(WORDS, 1, 2, 12, 24)),
    "CLIP text": lambda: models.CLIPTextEncoder(WORDS, 12, 12, 1, 2, 24),
    "SigLIP text": lambda: models.SigLIPTextEncoder(
        WORDS, 12, 12, 1, 2, 24, max_sequence_length=TEXT_LENGTH
    ),
}
POOLINGS = {"T5": "mean"}


def make_pairs():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, [4, SIZE, SIZE, 3]).astype("uint8")
    return {"image": image, "text": rng.integers(1, WORDS, [4, TEXT_LENGTH]).astype("int32")}


def one_step(image_tower, text_tower, directory):
    """Locks the image tower, tunes the text tower, saves, reads; gives the model and what moved."""
    model = LiT(image_tower, text_tower, tuning="LU")
    locked = [variable.numpy() for variable in model.image_tower.variables]
    text = [variable.numpy() for variable in model.text_tower.trainable_variables]
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    pairs = make_pairs()
    model.fit(pairs, batch_size=4, epochs=1, verbose=0)
    for variable, before in zip(model.image_tower.variables, locked, strict=True):
        np.testing.assert_array_equal(variable, before)
    moved = [
        (variable.numpy() != before).any()
        for variable, before in zip(model.text_tower.trainable_variables, text, strict=True)
    ]
    model.save(directory / "lit.keras")
    again = keras.saving.load_model(directory / "lit.keras")
    batch = model.preprocess(pairs)
    embeddings, read = model(batch), again(batch)
    for side, expected in embeddings.items():
        assert np.isfinite(expected).all() and np.std(expected, axis=0).max() > 1e-4
        np.testing.assert_allclose(read[side], expected, atol=1e-6)
    return moved


@pytest.mark.slow
@pytest.mark.parametrize("family", IMAGE)
def test_image_towers(family, tmp_path):
    image_tower = ImageTower(IMAGE[family](), preprocessor=ImagePreprocessor(SIZE))
    words = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(WORDS, 12)]
    )
    text_tower = TextTower(words, sequence_length=TEXT_LENGTH, pooling="mean")
    assert any(one_step(image_tower, text_tower, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("family", TEXT)
def test_text_towers(family, tmp_path):
    keras.utils.set_random_seed(0)  # Of so few units all could be off.
    grid = keras.Sequential([keras.Input([SIZE, SIZE, 3]), keras.layers.Conv2D(6, 8, strides=8)])
    text_tower = TextTower(
        TEXT[family](), sequence_length=TEXT_LENGTH, pooling=POOLINGS.get(family, "auto")
    )
    moved = one_step(ImageTower(grid), text_tower, tmp_path)
    assert np.mean(moved) > 0.5

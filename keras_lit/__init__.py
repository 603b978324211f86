"""keras_lit: LiT (Locked-image text Tuning) for Keras 3 on TensorFlow."""

import importlib
from typing import Any

import keras

__version__ = "0.1.0"  # Set first: setup reads it here, and modules import it from here.

if not hasattr(keras, "config") or int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(
        f"keras_lit needs Keras 3, and this is Keras {keras.__version__}. "
        "Run `pip install --upgrade keras`."
    )
if keras.config.backend() != "tensorflow":
    raise ImportError(
        "keras_lit runs on Keras' TensorFlow backend, and the backend is "
        f"{keras.config.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow (or "
        '`os.environ["KERAS_BACKEND"] = "tensorflow"`) before anything imports keras.'
    )

from keras_lit import backbones, losses, optimizers, preprocessing
from keras_lit.model import LiT
from keras_lit.preprocessing import decoding as images  # noqa: F401 (other programs decode with it)
from keras_lit.preprocessing import tokenizers
from keras_lit.towers import ImageTower, TextTower, fingerprints

__all__ = [
    "ImageTower",
    "LiT",
    "TextTower",
    "__version__",
    "alignment",
    "backbones",
    "callbacks",
    "checkpoints",
    "data",
    "demo",
    "evaluation",
    "export",
    "features",
    "fingerprints",
    "losses",
    "optimizers",
    "preprocessing",
    "recipes",
    "search",
    "tokenizers",
]
__dir__ = __all__.copy


def __getattr__(name: str) -> Any:
    """The other modules when they are asked for: to load a model takes none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"keras_lit.{name}")

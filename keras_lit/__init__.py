"""keras_lit: LiT (Locked-image text Tuning) for Keras 3 on TensorFlow.

Keep a pretrained image model locked, and train a text model to read out its representations.
With a folder "photos", in which each picture lies beside a `.txt` of the same name:

    import keras_lit

    pairs = keras_lit.data.image_text_pairs("photos")
    captions = [pair["text"] for pair in pairs.as_numpy_iterator()]
    image_tower = keras_lit.ImageTower.from_preset("dinov2_base")
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 8_000)
    text_tower = keras_lit.TextTower.from_size("S", tokenizer)
    model = keras_lit.LiT(image_tower, text_tower, tuning="Lu")
    model.compile(keras_lit.optimizers.Adafactor(1e-3))
    model.fit(pairs.batch(512), epochs=10)
    similarity = model.encode_image(["a.jpg"]) @ model.encode_text(["a dog", "a cat"]).T
    model.save("model.keras")

`print(model)` and `model.summary()` say what it is made of and what trains; `keras_lit.evaluation`
measures it, `keras_lit.callbacks` does so inside `fit`, `keras_lit.export.save` serves it.
"""

import importlib
from typing import TYPE_CHECKING, Any

import keras

__version__ = "0.1.0"  # Set first: setup reads it here, and modules import it from here.
"""The version, "major.minor.patch"."""

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
from keras_lit.soups import interpolate, soup
from keras_lit.towers import ImageTower, TextTower, fingerprints
from keras_lit.towers.locks import Lock

if TYPE_CHECKING:
    from keras_lit import (
        alignment,
        callbacks,
        checkpoints,
        data,
        demo,
        evaluation,
        export,
        features,
        recipes,
    )

__all__ = [
    "ImageTower",
    "LiT",
    "Lock",
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
    "interpolate",
    "losses",
    "optimizers",
    "preprocessing",
    "recipes",
    "search",
    "soup",
    "tokenizers",
]
__dir__ = __all__.copy


if not TYPE_CHECKING:  # Editors and mypy would take any name for one of ours.

    def __getattr__(name: str) -> Any:
        """The other modules when they are asked for: to load a model takes none of them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"keras_lit.{name}")

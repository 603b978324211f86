"""The README of an artifact: contents, inputs, origin and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lit import __version__
from keras_lit.evaluation.calibration import Calibration
from keras_lit.export.signatures import Signature
from keras_lit.model import LiT
from keras_lit.preprocessing.decoding import MAX_PIXELS
from keras_lit.towers import Tower

# What a model cannot know of itself; a user's own sections come after these.
ASKED = ("data", "metrics", "limits")
TUNINGS = {"L": "pretrained, locked", "U": "trained from what was given", "u": "trained anew"}


def model_card(
    model: LiT,
    signatures: Mapping[str, Signature],
    weights: str,
    class_names: Sequence[str] | None,
    templates: Sequence[str],
    sections: Mapping[str, Any],
    calibration: Calibration | None = None,
    dim: int | None = None,
    usage: str | None = None,
) -> str:
    """Markdown from the model and from `sections`: title -> text, or a mapping (a table).

    `usage` is Python that asks the artifact; None: that of a SavedModel.
    """
    parts = ["# LiT model", "Embeds images and text in one space: Locked-image text Tuning."]
    towers = {"image": model.image_tower, "text": model.text_tower}
    for (name, tower), letter in zip(towers.items(), model.tuning, strict=True):
        if f"encode_{name}" in signatures:
            parts += [f"## {name.capitalize()} tower", _table(_tower(tower, TUNINGS[letter], dim))]
    if "encode_image" in signatures:
        found = _plain(model.image_tower.preprocessor)
        served = {k: v for k, v in found.items() if k not in ("random_crop", "random_flip")}
        parts += ["## Pictures", _table(served)]
    if "encode_text" in signatures and model.text_tower.preprocessor is not None:
        tokenizer = model.text_tower.preprocessor.tokenizer
        vocabulary = {
            "tokenizer": type(tokenizer).__name__,
            "size": f"{tokenizer.vocabulary_size():,}",
            **_plain(model.text_tower.preprocessor),
        }
        vocabulary.pop("tokenizer_vocabulary", None)
        parts += ["## Vocabulary", _table(vocabulary)]
    scores = {
        "loss": model.loss_name,
        "temperature": f"{float(model.temperature):.4g}",
        **({} if class_names is None else {"classes": ", ".join(class_names)}),
        "prompts": " / ".join(templates),
        "stored weights": weights,
    }
    inputs = {
        f"`{name}`": ", ".join(f"`{x.name}` {x.dtype.name} {_shape(x)}" for x in found.inputs)
        for name, found in signatures.items()
    }
    parts += ["## Scores", _table(scores)]
    if calibration is not None:
        parts += ["## Calibration", _table(_calibration(calibration))]
    parts += ["## Signatures", _table(inputs)]
    usage = _of_saved_model(signatures) if usage is None else usage
    parts += ["## In Python", f"```python\n{usage}\n```"]
    said = {**dict.fromkeys(ASKED, "Not stated."), **sections}
    for title, content in said.items():
        parts += [f"## {title[:1].upper()}{title[1:]}"]
        parts += [_table(content) if isinstance(content, Mapping) else str(content)]
        parts += [_limits(model, signatures)] if title == "limits" else []
    versions = f"keras_lit {__version__}, Keras {keras.__version__}, TensorFlow {tf.__version__}"
    return "\n\n".join([*parts, f"Written by {versions}."]) + "\n"


def _of_saved_model(signatures: Mapping[str, Signature]) -> str:
    loading = ["import tensorflow as tf"]
    if "encode_text" in signatures:
        loading += ["import tensorflow_text  # the tokenizer's operations"]
    name = next(iter(signatures))
    loading += ["", 'model = tf.saved_model.load("the folder of this file")']
    loading += [f'outputs = model.signatures["{name}"]({signatures[name].inputs[0].name}=...)']
    return "\n".join(loading)


def _calibration(calibration: Calibration) -> dict[str, Any]:
    found = {**calibration.to_dict(), "fitted_on": calibration.fitted_on or "not stated"}
    del found["class_names"]
    return {k.replace("_", " "): v for k, v in found.items() if v is not None}


def _tower(tower: Tower, tuning: str, dim: int | None) -> dict[str, Any]:
    head = tower.projection_dim
    return {
        "backbone": f"{type(tower.backbone).__name__} ({tower.backbone.name})",
        "weights": f"{tower.count_params():,}",
        "tuning": tuning,
        "pooling": tower.pooling,
        "linear head": f"{tower.feature_dim} to {head}" if head else "none",
        "embedding": f"float32 [n, {dim or tower.embedding_dim}], unit length",
    }


def _plain(layer: keras.layers.Layer) -> dict[str, Any]:
    return {k: v for k, v in layer.get_config().items() if isinstance(v, int | float | str | tuple)}


def _limits(model: LiT, signatures: Mapping[str, Signature]) -> str:
    found = [
        "Scores compare the labels that are given; a high one does not say that a label is right."
    ]
    if "encode_image" in signatures:
        turned = model.image_tower.preprocessor.exif_orientation
        found += [
            f"Pictures: JPEG, PNG, BMP, WebP, the first frame of a GIF; at most {MAX_PIXELS:,} "
            f"pixels; EXIF orientation is {'' if turned else 'not '}applied."
        ]
    if "encode_text" in signatures:
        found += [f"Text beyond {model.text_tower.sequence_length} tokens is cut off."]
    if "similarity" in signatures:
        found += [
            "`similarity` and `classify_labels` take texts [n, m], a row for each of n pictures, "
            "or [1, m], one for all. A list [m] is refused where m is n, as a server that batches "
            "would mix it with those of other requests."
        ]
    return "\n".join(f"- {line}" for line in found)


def _shape(spec: tf.TensorSpec) -> str:
    return "[n, m], [1, m] or [m]" if spec.shape.rank is None else str(list(spec.shape))


def _table(rows: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        return shown.replace("|", "\\|").replace("\n", " ")

    lines = [f"| {cell(name)} | {cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])

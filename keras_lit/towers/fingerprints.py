"""What identifies a tower's features: architecture, weights, preprocessing and compute dtype."""

import hashlib
import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import internals
from keras_lit.towers.base import Tower
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.towers.lower import Lower
from keras_lit.towers.text import TextTower

__all__ = ["fingerprint"]

Fingerprint = dict[str, str]
# What a config holds that does not change what an inference computes. The compute dtype has an
# entry of its own, since not every config holds it.
_IGNORED = {
    *("name", "dtype", "trainable", "seed", "build_config", "compile_config"),
    *("shared_object_id", "registered_name", "batch_shape", "batch_input_shape"),
    *("random_crop", "random_flip"),
    "tokenizer_vocabulary",  # `of_preprocessor` looks at the tokenizer's words.
}
_IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def fingerprint(tower: Tower) -> Fingerprint | None:
    """Tells apart the features of different towers; the head is not part of it.

    Names of layers, initialisers and what is trainable do not count, nor do random crops and flips,
    so that the same tower has the same fingerprint in every process.

    Args:
        tower: an `ImageTower` or a `TextTower`.

    Returns:
        {"architecture", "weights", "preprocessing"}: SHA-256 hashes in hexadecimal, and
        {"compute_dtype"}: as in "float32", or "bfloat16+float32" where layers differ.
        For a tower `from_features`, what that was given, which may be None.

    Example:

    >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
    >>> keras_lit.fingerprints.fingerprint(keras_lit.ImageTower(backbone))["compute_dtype"]
    'float32'
    """
    if isinstance(tower.backbone, FeaturesOnly):
        return tower.backbone.fingerprint
    parts = [part for part in (tower.backbone, tower.attention_pooling) if part is not None]
    made_of = [*map(canonical, parts), tower.pooling]
    if isinstance(tower, TextTower):
        made_of += [tower.sequence_length, tower.pad_token_id]
    return {
        "architecture": _hash(made_of),
        "weights": of_weights([weight for part in parts for weight in part.weights]),
        "preprocessing": of_preprocessor(tower.preprocessor),
        "compute_dtype": _compute_dtype(parts),
    }


@tf.autograph.experimental.do_not_convert  # A vocabulary of 128,000 words would take minutes.
def of_cached(tower: Tower, below: Lower | None) -> Fingerprint | None:
    """Of precomputed features: `fingerprint`, or that of what is below the last blocks."""
    if below is None:
        return fingerprint(tower)
    return {
        "architecture": _hash([canonical(tower.backbone), "before a block", *below.shape]),
        "weights": of_weights(below.weights),
        "preprocessing": of_preprocessor(tower.preprocessor),
        "compute_dtype": _compute_dtype([tower.backbone]),
    }


def _compute_dtype(parts: list[Any]) -> str:
    layers = [layer for part in parts for layer in internals.flat_layers(part)]
    return "+".join(sorted({layer.compute_dtype for layer in layers}))


def of_embeddings(tower: Tower) -> Fingerprint | None:
    """Tells apart the embeddings of different towers: `fingerprint`, and the "head"."""
    found, head = fingerprint(tower), tower.head
    if found is None or head is None:
        return found
    return {**found, "head": _hash([canonical(head), of_weights(head.weights)])}


def of_preprocessor(preprocessor: keras.layers.Layer) -> str:
    """The hash of a preprocessor's configuration, a tokenizer's vocabulary included."""
    parts = [canonical(preprocessor)]
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is not None:
        words = tokenizer.vocabulary_size() if hasattr(tokenizer, "vocabulary_size") else 0
        parts.append([tokenizer.id_to_token(i) for i in range(words)])
    return _hash(parts)


def of_weights(weights: list[keras.Variable]) -> str:
    """The hash of their values, dtypes and shapes, in this order."""
    digest = hashlib.sha256()
    for weight in weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def identity(fingerprint: Fingerprint) -> int:
    """A fingerprint as one int64, which travels with each pair."""
    return int(_hash(fingerprint)[:15], 16)


def differences(expected: dict[str, Any], received: dict[str, Any]) -> list[str]:
    """Where two nested dicts differ: "path.to.entry: expected x, received y"."""
    found = []
    for name in sorted({*expected, *received}):
        first, second = expected.get(name), received.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            found += [f"{name}.{line}" for line in differences(first, second)]
        elif first != second:
            found.append(f"{name}: expected {first!r}, received {second!r}")
    return found


def canonical(layer: Any) -> Any:
    """The configuration of a layer or optimizer without what differs between equal ones."""
    try:
        config = keras.saving.serialize_keras_object(layer)
    except (NotImplementedError, TypeError):
        return type(layer).__name__
    names: dict[str, str] = {}
    _collect_names(config, names)
    return _clean(config, names)


def _collect_names(config: Any, names: dict[str, str]) -> None:
    """Automatic names count the layers of a process; their order of appearance does not."""
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            names.setdefault(config["name"], f"#{len(names)}")
        config = [*config.values()]
    if isinstance(config, list | tuple):
        for value in config:
            _collect_names(value, names)


def _clean(config: Any, names: dict[str, str]) -> Any:
    if isinstance(config, dict):
        return {
            key: _clean(value, names)
            for key, value in config.items()
            if key not in _IGNORED and not key.endswith(_IGNORED_ENDINGS)
        }
    if isinstance(config, list | tuple):
        return [_clean(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def check_same_features(stand_in: Tower, tower: Tower, side: str) -> None:
    """Raises ValueError unless a tower gives the features that a model was trained with.

    That model's own tower, `stand_in`, often is one `from_features`.
    """
    if tower.head is not None:
        raise ValueError(
            f"The {side} tower that is attached should have no head: the features are its pooled "
            "output, and the model has its own head for them. Received `projection_dim`: "
            f"{tower.projection_dim}."
        )
    expected, received = (_dim(x) for x in (stand_in, tower))
    if (known := fingerprint(stand_in)) is not None:
        expected |= known
        received |= fingerprint(tower) or {}
    if found := differences(expected, received):
        raise ValueError(
            f"The {side} tower should be the one whose features the model was trained on. "
            f"Differences: {'; '.join(found)}."
        )


def _dim(tower: Tower) -> dict[str, Any]:
    """The width of the features, or the shape where they are tokens."""
    shape = tower.feature_shape
    return {"dim": shape[0] if len(shape) == 1 else list(shape)}

"""What training has changed of a model, alone: LoRA's matrices, unlocked blocks, heads."""

import json
import os
import pathlib
import re
from typing import Any

import keras
import numpy as np

from keras_lit import files, internals
from keras_lit.checkpoints.npz import check_start
from keras_lit.model import LiT
from keras_lit.towers import fingerprints, settings


def save_adapters(model: LiT, filepath: str | os.PathLike, heads: bool = True) -> pathlib.Path:
    """Writes what trains of a model to one small file, for a model of the same base.

    With `text_options=keras_lit.Lock(lora=8)` these are a few megabytes, however large the towers.
    Statistics of batch norms that train belong to it; the optimizer's state does not.

    Args:
        model: a `LiT`.
        filepath: str or path, ending in ".npz".
        heads: bool, whether heads, temperature and bias that train are written too. False: of
            backbones only.

    Returns:
        The path.

    Raises:
        ValueError: another ending; nothing trains.

    Example:

    >>> def model():
    ...     keras.utils.set_random_seed(0)  # In place of a file with the base.
    ...     backbone = keras_lit.backbones.TextTransformer(100, 16, 8, 1, 16, 2)
    ...     towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower(backbone)
    ...     return keras_lit.LiT(*towers, tuning="LU", text_options=keras_lit.Lock(lora=2))
    >>> trained, fresh, ids = model(), model(), np.ones([2, 16], "int32")
    >>> learned = trained.text_tower.head.bias.assign(np.arange(8.0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "adapters.npz"
    >>> path = keras_lit.checkpoints.save_adapters(trained, path)
    >>> keras_lit.checkpoints.load_adapters(fresh, path)
    >>> np.array_equal(fresh.encode_text(ids), trained.encode_text(ids))
    True
    """
    path = pathlib.Path(filepath)
    if path.suffix != ".npz":
        raise ValueError(f"`filepath` should end in .npz. Received: {str(path)!r}.")
    found = _trained(model, heads)
    if not found:
        raise ValueError("Nothing is trainable: all is locked by `tuning` or frozen.")
    about = {"heads": heads, "base": _bases(model, heads)}
    # NumPy's files do not know bfloat16, of which float32 holds every value.
    arrays: dict[str, Any] = {
        name: np.asarray(variable.numpy(), "float32") for name, variable in found.items()
    }
    with files.whole(path) as working, open(working, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
    return path


def load_adapters(model: LiT, filepath: str | os.PathLike) -> None:
    """Reads what `save_adapters` wrote into a model of the same base and options.

    Args:
        model: a `LiT` with the same `tuning`, options and heads, whose locked weights are those
            that the file was trained on.
        filepath: str or path.

    Raises:
        ValueError: a damaged file; another base, other options or other heads.

    Example: `keras_lit.checkpoints.load_adapters(model, "adapters.npz")`; more at `save_adapters`.
    """
    path = pathlib.Path(filepath)
    try:
        check_start(str(path))
        with np.load(path, allow_pickle=False) as file:
            if "about" not in file.files:
                raise ValueError("it has no record of adapters; whole models `load_lit` reads")
            saved = {name: file[name] for name in file.files}
        about = json.loads(str(saved.pop("about")))
        heads, bases = about["heads"], about["base"]
    except FileNotFoundError:
        raise
    except Exception as error:  # What NumPy and zipfile raise depends on the byte.
        raise ValueError(
            f"{str(path)!r} is damaged, or not of `save_adapters` ({type(error).__name__}: "
            f"{error}). Put a copy of it back."
        ) from error
    variables = _trained(model, heads)
    wrong = set(variables) ^ set(saved)
    wrong |= {n for n, v in variables.items() if not wrong and saved[n].shape != tuple(v.shape)}
    if wrong:
        raise ValueError(
            f"{str(path)!r} is of a model of which other weights train. Give this one the same "
            f"`tuning`, `image_options`, `text_options` and heads. First difference: {min(wrong)}."
        )
    others = [part for part, base in _bases(model, heads).items() if bases.get(part, base) != base]
    if others:
        raise ValueError(
            f"{str(path)!r} was trained on another base: the locked weights of the "
            f"{' tower and the '.join(others)} tower differ. Load the towers that it was trained "
            "from."
        )
    for name in variables:
        if not np.isfinite(saved[name]).all():
            raise ValueError(
                f"{str(path)!r} holds NaN or infinite values in {name}: train it anew."
            )
    for name, variable in variables.items():
        variable.assign(saved[name])
    model.calibration = None  # It was one of other weights.


def _trained(model: LiT, heads: bool) -> dict[str, keras.Variable]:
    """By name, what trains, and the statistics of the batch norms among it."""
    trains = {id(x) for x in model.trainable_variables}
    known = {id(x) for x in model.weights}
    found: dict[int, keras.Variable] = {}
    parts = [model] if heads else [model.image_tower.backbone, model.text_tower.backbone]
    for layer in (x for part in parts for x in internals.flat_layers(part)):
        own = [x for x in internals.own_parameters(layer) if id(x) in trains]
        states = internals.own_states(layer) if own else []
        found |= {id(x): x for x in [*own, *states] if id(x) in known}
    # Automatic names count the layers of a process.
    names = [re.sub(r"_\d+", "", variable.path) for variable in found.values()]
    return {f"{i:05}/{x}": v for i, (x, v) in enumerate(zip(names, found.values(), strict=True))}


def _bases(model: LiT, heads: bool) -> dict[str, str]:
    """{"image", "text", "head of the image", ...}: a hash of what is locked; none where nothing is.

    Without kernels that have LoRA: read from an earlier file they may differ by rounding.
    """
    skipped = {id(x) for x in _trained(model, heads).values()}
    for layer in settings.with_lora(internals.flat_layers(model)):
        skipped |= {id(x) for x in internals.own_weights(layer)}
    found = {}
    for side, tower in {"image": model.image_tower, "text": model.text_tower}.items():
        of_backbone = tower.backbone.weights
        parts, known = {side: of_backbone}, {*map(id, of_backbone)}
        if heads:
            all_of_it = [y for x in tower._all_layers() for y in internals.own_parameters(x)]
            parts[f"head of the {side}"] = [x for x in all_of_it if id(x) not in known]
        for name, weights in parts.items():
            if locked := [x for x in weights if id(x) not in skipped]:
                found[name] = fingerprints.of_weights(locked)
    return found

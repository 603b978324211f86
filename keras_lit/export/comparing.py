"""What the versions of a model give up, and what they save: size, speed, embeddings, recalls."""

import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit.evaluation.retrieval import retrieval_recall
from keras_lit.export import edge_towers
from keras_lit.export.edge import SETTINGS
from keras_lit.files import read_json
from keras_lit.model import LiT
from keras_lit.preprocessing.image import out_of_range
from keras_lit.training import batches

Run = Callable[[Any], np.ndarray]
Runs = dict[str, Run]
# Rows at a time, as in the columns of the table, and how often these are timed.
_BATCHES = {1: 20, 32: 5}


def compare(
    model: LiT,
    directory: str | os.PathLike,
    pairs: Any,
    threads: int | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> list[dict[str, Any]]:
    """Runs pairs through every version in a directory, and prints a table beside the model.

    A row for `model` and for each version of `save` below the directory, in any format, in the
    order of their names:

    | column | |
    |---|---|
    | `version`, `format` | its path, and "keras", "saved_model", "onnx" or "litert" |
    | `MB` | of its towers' files |
    | `image_ms@1`, `image_ms@32`, `text_ms@1`, ... | median milliseconds for so many rows, from \
the tower's pixels and token ids; of the model and a SavedModel from pictures and strings |
    | `image_cosine`, `text_cosine` | the worst between its embedding of a row and the model's |
    | `image_to_text_recall@1`, ..., `mean_recall` | equal captions are equally right |

    A version of one tower has that tower's columns only, one that keeps fewer numbers (`dim`) no
    cosines.

    Args:
        model: the `LiT` whose versions these are.
        directory: a version, or a folder with versions anywhere below it.
        pairs: pairs with strings, in any form that `fit` takes; all are held in memory.
        threads: int, of a run; None: as many as the runtime takes.
        verbose: 0, 1 or "auto": the table and a progress bar (0: neither).

    Returns:
        The rows: a list of {column: value}, the model's first.

    Raises:
        ImportError: a runtime of `keras_lit[edge]` is missing.
        ValueError: no versions, or one that is damaged.

    Example: `keras_lit.export.compare(model, "edge", test_pairs)`.
    """
    folders = sorted(
        path.parent
        for name in (SETTINGS, "saved_model.pb")
        for path in pathlib.Path(directory).rglob(name)
    )
    if not folders:
        raise ValueError(
            f"{directory} should hold versions of `keras_lit.export.save`. Received: none."
        )
    raw, pixels, token_ids = _inputs(model, pairs)
    groups = np.unique(token_ids, axis=0, return_inverse=True)[1].reshape(-1)
    own: Runs = {
        "image": lambda images: model.encode_image(images, verbose=0),
        "text": lambda texts: model.encode_text(texts, verbose=0),
    }
    whole = {side: encode(raw[side]) for side, encode in own.items()}
    shown = int(bool(verbose))
    progress = keras.utils.Progbar(len(folders) + 1, verbose=shown, unit_name="version")
    rows = [{"version": "", "format": "keras", **_measured(own, raw, whole, groups)}]
    progress.add(1)
    for folder in folders:
        if (folder / SETTINGS).exists():
            format, size, runs = _edge(folder, threads)
            inputs = {"image": pixels, "text": token_ids}
        else:
            format, size, runs = _saved_model(folder)
            inputs = raw
        version = str(folder.relative_to(directory))
        found = _measured(runs, inputs, whole, groups)
        rows.append({"version": version, "format": format, "MB": size / 1e6, **found})
        progress.add(1)
    if verbose:
        print(table(rows))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of `compare` as text, a line each, under the columns' names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [columns, *shown]
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _inputs(model: LiT, pairs: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """All pairs as they are, their pixels in the tower's size, and their token ids."""
    raw: dict[str, list[np.ndarray]] = {"image": [], "text": []}
    pixels, token_ids = [], []
    preprocessor = model.image_tower.preprocessor
    for batch in batches.as_dataset(pairs, 32 if isinstance(pairs, dict) else None):
        if batch["text"].dtype != tf.string or batch["text"].shape.rank != 1:
            raise ValueError(
                '`pairs` should have strings as "text", one for each image. Received: '
                f"{batch['text'].dtype.name} of shape {batch['text'].shape}."
            )
        for side, rows in raw.items():
            rows.append(batch[side].numpy())
        pixels.append(out_of_range(preprocessor(batch["image"]).numpy(), preprocessor.value_range))
        token_ids.append(model.text_tower.preprocessor(batch["text"]).numpy())
    whole = {side: np.concatenate(rows) for side, rows in raw.items()}
    return whole, np.concatenate(pixels), np.concatenate(token_ids)


def _edge(folder: pathlib.Path, threads: int | None) -> tuple[str, int, Runs]:
    settings = read_json(folder / SETTINGS, "Export it again.")
    format, size = settings["format"], 0
    runs: Runs = {}
    for side in ("image", "text"):
        if side in settings:
            path = folder / settings[side]["file"]
            size += path.stat().st_size
            run = edge_towers.load(path, format, threads)
            any_length = settings[side].get("any_length")
            runs[side] = _trimming(run, settings[side]["pad_token_id"]) if any_length else run
    return f"{format} {settings['weights']}", size, runs


def _trimming(run: edge_towers.Run, padding: int) -> edge_towers.Run:
    """Runs on token ids without the last columns of padding, as a client does."""

    def trimmed(token_ids: np.ndarray) -> np.ndarray:
        words = np.flatnonzero((token_ids != padding).any(axis=0))
        return run(token_ids[:, : max(words, default=0) + 1])

    return trimmed


def _saved_model(folder: pathlib.Path) -> tuple[str, int, Runs]:
    loaded = tf.saved_model.load(str(folder))
    size = sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())

    def of_text(texts: np.ndarray) -> np.ndarray:
        found = loaded.signatures["encode_text"](text=tf.constant(texts.tolist()))
        return found["embedding"].numpy()

    def of_images(images: np.ndarray) -> np.ndarray:
        if images.dtype == np.uint8:
            found = loaded.signatures["encode_pixels"](pixels=tf.constant(images))
        else:
            given = tf.constant(images.tolist())
            found = loaded.signatures["encode_image"](image_bytes=given)
        return found["embedding"].numpy()

    both: Runs = {"image": of_images, "text": of_text}
    runs = {side: run for side, run in both.items() if f"encode_{side}" in loaded.signatures}
    return "saved_model", size, runs


def _measured(
    runs: Runs, inputs: dict[str, Any], whole: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, float]:
    found, embeddings = {}, {}
    for side, run in runs.items():
        rows = inputs[side]
        parts = [run(rows[i : i + 32]) for i in range(0, len(rows), 32)]
        embeddings[side] = np.concatenate(parts)
        for size, repeats in _BATCHES.items():
            found[f"{side}_ms@{size}"] = 1e3 * _seconds(run, rows[:size], repeats)
        if embeddings[side].shape == whole[side].shape:
            found[f"{side}_cosine"] = float((embeddings[side] * whole[side]).sum(axis=1).min())
    if len(embeddings) == 2:
        index = np.arange(len(groups))
        recalls = retrieval_recall(
            embeddings["image"], embeddings["text"], index, image_groups=groups, verbose=0
        )
        recalls = {name: value for name, value in recalls.items() if "recall@" in name}
        found |= {**recalls, "mean_recall": statistics.mean(recalls.values())}
    return found


def _seconds(run: Callable[[Any], Any], rows: Any, repeats: int) -> float:
    run(rows)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(rows)
        times.append(time.perf_counter() - start)
    return statistics.median(times)

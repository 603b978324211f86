"""What the quickstart draws: how the training went, and what the model finds."""

import pathlib
from typing import Any

import matplotlib
import numpy as np

import keras_lit
from keras_lit import evaluation

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"ridge": "lightgrey", "closed form": "tab:orange", "LiT": "tab:green"}


def training(history: dict[str, Any], results: dict[str, Any], path: pathlib.Path) -> None:
    """Loss, validation recall by epoch, and test recall by language beside that of closed forms.

    Args:
        history: of `fit`, with "validation", a recall after each of "validated" epochs.
        results: of "ridge", "closed form" and "LiT" what `scores.of_two` returns.
        path: of the PNG.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    epochs = range(1, len(history["loss"]) + 1)
    left.plot(epochs, history["loss"], label="contrastive loss")
    left.plot(epochs, history["chance_loss"], "--", color="grey", label="chance, ln(batch)")
    left.set(title="Training", xlabel="epoch", ylim=(0, None))
    scores = 100 * np.array(history["validation"])
    middle.plot(history["validated"], scores, marker="o", color=COLOURS["LiT"], label="LiT")
    for name in ("closed form", "ridge"):
        level = 100 * results[name]["validation"]
        middle.axhline(level, ls="--", color=COLOURS[name], label=name)
    middle.set(title="Validation: mean of the six recalls, %", xlabel="epoch (0: before training)")
    languages = list(results["LiT"]["languages"])
    width = 0.8 / len(results)
    for number, (name, result) in enumerate(results.items()):
        places = np.arange(len(languages)) + width * (number - 1)
        heights = [100 * result["languages"][each]["mean_recall"] for each in languages]
        right.bar(places, heights, width, label=name, color=COLOURS[name])
    right.set_xticks(range(len(languages)), languages)
    right.set(title="Test: mean of the six recalls, %, by language")
    for axes in (left, middle):
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, middle, right):
        axes.legend(frameon=False, fontsize=8, ncols=3 if axes is right else 1)
        axes.spines[["top", "right"]].set_visible(False)
    right.set_ylim(0, 1.15 * right.get_ylim()[1])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def contact_sheet(model: keras_lit.LiT, queries: list[str], split: Any, path: pathlib.Path) -> None:
    """Queries, each over its five nearest pictures; a green frame marks those of that caption."""
    right = np.array([[query in texts.values() for texts in split.captions] for query in queries])
    rows = evaluation.sheets.nearest_pictures(
        queries,
        model.encode_text(queries, verbose=0),
        model.encode_image(split.features, verbose=0),
        right,
        evaluation.Images(split.pairs, ()),
        size=128,
    )
    lines = -(-len(rows) // 2)
    figure = plt.figure(figsize=(11, 1.35 * lines))
    # The first half of the queries on the left.
    parts = figure.subfigures(lines, 2, wspace=0.03, squeeze=False).T.ravel()
    for part, row in zip(parts, rows, strict=False):
        part.text(0.03, 0.84, row.query, fontsize=12, weight="bold")
        grid = part.subplots(1, 5, gridspec_kw={"wspace": 0.08})
        part.subplots_adjust(left=0.03, right=0.99, bottom=0.02, top=0.79)
        for axes in grid:
            axes.axis("off")
        for axes, hit in zip(grid, row.hits, strict=False):
            axes.axis("on")
            axes.imshow(hit.pixels)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                colour, width = (COLOURS["LiT"], 4) if hit.right else ("lightgrey", 1)
                spine.set(color=colour, linewidth=width)
    figure.savefig(path, dpi=100)
    plt.close(figure)

"""Finds images of one source that occur in another, or repeat within it, and lists them.

    python examples/find_duplicates.py                  # Tux Paint's stamps: train in test
    python examples/find_duplicates.py --source photos  # repeats within a folder
    python examples/find_duplicates.py --source photos --against coco_captions --against-split val
    python examples/find_duplicates.py --hash-only      # no image tower

By perceptual hash and by the embeddings of EfficientNet-Lite0. Writes to --output duplicates.json
(the matches, best first), drop.txt (the names to leave out, for
`keras_lit.data.duplicates.not_named`) and duplicates.png (the matches, side by side).
"""

import argparse
import itertools
import json
import os
import pathlib

import matplotlib
import numpy as np
import tensorflow as tf

import keras_lit
from keras_lit import evaluation
from keras_lit.data import duplicates

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    """Reads, matches, reports."""
    args = parse_arguments()
    skipped: set[str] = set()
    pairs = read(args.source, args.split, skipped)
    reference_source, reference_split = args.against or args.source, args.against_split
    within = (reference_source, reference_split) == (args.source, args.split)
    references = pairs if within else read(reference_source, reference_split, skipped)

    matches = duplicates.match_hashes(
        duplicates.perceptual_hashes(pairs),
        None if within else duplicates.perceptual_hashes(references),
        args.max_distance,
    )
    if not args.hash_only:
        tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)
        matches |= duplicates.match_embeddings(
            embeddings(tower, pairs),
            None if within else embeddings(tower, references),
            args.min_similarity,
            whiten=1.0,
        )

    names = [os.fsdecode(pair["name"]) for pair in pairs.as_numpy_iterator()]
    others = [os.fsdecode(pair["name"]) for pair in references.as_numpy_iterator()]
    report = matches.report(names, others)
    rows = matches.repeats(len(names)) if within else np.unique(matches.queries)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "duplicates.json").write_text(json.dumps(report, indent=1))
    drop = "".join(f"{names[row]}\n" for row in rows)
    (args.output / "drop.txt").write_bytes(os.fsencode(drop))
    contact_sheet(matches, pairs, references, args.output / "duplicates.png")
    print(
        f"{len(report)} matches; {len(rows)} of {len(names)} images are in {args.output}/drop.txt; "
        f"{len(skipped)} bad records left out"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="tux_paint_stamps")
    parser.add_argument("--split", default="train")
    parser.add_argument("--against", help="the source to look in; --source itself by default")
    parser.add_argument("--against-split", help="test for the stamps, otherwise train")
    parser.add_argument("--max-distance", type=int, default=40, help="bits of 256")
    parser.add_argument("--min-similarity", type=float, default=0.7, help="after whitening")
    parser.add_argument("--hash-only", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default="runs/duplicates")
    args = parser.parse_args()
    if args.against_split is None:
        args.against_split = "test" if args.source == "tux_paint_stamps" else "train"
    return args


def read(source: str, split: str, skipped: set[str]) -> tf.data.Dataset:
    """Each image once."""
    return keras_lit.data.image_text_pairs(source, split, captions="first", skipped=skipped)


def embeddings(tower: keras_lit.ImageTower, pairs: tf.data.Dataset) -> np.ndarray:
    """[images, dim] of all images."""
    images = pairs.map(lambda pair: tower.preprocessor(pair["image"]), tf.data.AUTOTUNE)
    return tower.predict(images.batch(32), verbose=2)


def contact_sheet(
    matches: duplicates.Matches,
    pairs: tf.data.Dataset,
    references: tf.data.Dataset,
    path: pathlib.Path,
) -> None:
    """Twenty matches, from the least to the most certain quantile."""
    order = np.argsort(matches.scores)
    chosen = order[np.linspace(0, len(order) - 1, min(20, len(order))).astype(int)]
    left, right = (
        evaluation.sheets.thumbnails(evaluation.Images(dataset, ()), set(rows.tolist()))
        for dataset, rows in ((pairs, matches.queries), (references, matches.references))
    )
    figure, grid = plt.subplots(4, 5, figsize=(10, 5))
    for axes, match in itertools.zip_longest(grid.ravel(), chosen):
        axes.axis("off")
        if match is not None:
            two = left[matches.queries[match]], right[matches.references[match]]
            axes.imshow(np.concatenate(two, axis=1))
            axes.set_title(f"{matches.scores[match]:.2f}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

"""Draws pairs at random on contact sheets: look at captions before you train on them.

    python examples/look_at_pictures.py open_pictures --output runs/look

Of a TensorFlow dataset it also prints how many examples of each class each split has.
"""

import argparse
import collections
import pathlib
import textwrap

import matplotlib
import tensorflow_datasets as tfds

import keras_lit
from keras_lit.data import builders

matplotlib.use("agg")
from matplotlib import pyplot as plt

COLUMNS, ROWS = 10, 5


def main() -> None:
    """Prints counts and draws sheets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a TensorFlow dataset, folder or table")
    parser.add_argument("--split", default=None, help="of a TensorFlow dataset; default: all")
    parser.add_argument("--count", type=int, default=200, help="pictures to draw")
    parser.add_argument("--seed", type=int, default=0, help="another one, other pictures")
    parser.add_argument("--output", default="runs/look", type=pathlib.Path, help="folder")
    args = parser.parse_args()

    options = {}
    if builders.is_name(args.source):
        builder = builders.builder(args.source)
        builder.download_and_prepare()
        print_counts(builder)
        options["split"] = args.split or "+".join(builder.info.splits)
    pairs = keras_lit.data.image_text_pairs(args.source, captions="first", **options)
    # The order of files may be that of classes: mix all before some are taken.
    drawn = list(pairs.shuffle(100_000, seed=args.seed).take(args.count).as_numpy_iterator())
    args.output.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(drawn), COLUMNS * ROWS)):
        path = args.output / f"{number}.png"
        save_sheet(drawn[start : start + COLUMNS * ROWS], path)
        print(path)


def print_counts(builder: tfds.core.DatasetBuilder) -> None:
    """How many examples of each class there are, for each feature that is a class."""
    classes = {
        name: feature.names
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples:,} examples")
        labels = builder.as_dataset(
            split=split, decoders=tfds.decode.PartialDecoding(dict.fromkeys(classes, True))
        )
        counts = {name: collections.Counter() for name in classes}
        for example in labels.as_numpy_iterator():
            for name, names in classes.items():
                counts[name][names[example[name]]] += 1
        for name, count in counts.items():
            print(f"  {name}: " + ", ".join(f"{key} {n:,}" for key, n in count.most_common()))


def save_sheet(pairs: list[dict[str, bytes]], path: pathlib.Path) -> None:
    """Pictures in a grid, the caption under each."""
    whole = keras_lit.preprocessing.ImagePreprocessor(
        160, "pad", value_range="0..1", antialias=True
    )
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(1.7 * COLUMNS, 2 * ROWS))
    for axis in axes.flat:
        axis.axis("off")
    for axis, pair in zip(axes.flat, pairs, strict=False):
        axis.imshow(whole(pair["image"]))
        caption = textwrap.wrap(pair["text"].decode(), 24)[:3]
        axis.set_title("\n".join(caption), fontsize=8, y=-0.05, va="top")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()

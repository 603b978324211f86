"""What captions that occur more than once in a batch cost, with groups and without.

    python examples/studies/repeated_captions.py

OpenPictures has most emoji in two styles, under one name. All variants train on the same pictures
for the same steps, three in ten of which repeat a caption. "unique" never puts both pictures of a
caption into one batch, the others always do: as positives of each other ("groups") or as negatives
("no groups"). The image tower is locked, the text tower averages a vocabulary's embeddings.
"""

import argparse
import functools
import pathlib
from typing import Any

import keras
import numpy as np
import runner
import scores
import stamps
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit

METRICS = {
    "mean_recall": "mean of the six test recalls, %",
    "loss": "training loss, last epoch",
    "image_to_text_accuracy": "training accuracy, image to text",
}
VARIANTS = [
    f"{loss}, {kind}"
    for loss in ("softmax", "sigmoid")
    for kind in ("unique", "groups", "no groups")
]


def read(directory: str, split: str, limit: int | None) -> dict[str, Any]:
    """EfficientNet-Lite0's features, captions and styles of the pictures of a split."""
    tower = keras_lit.demo.efficientnet_lite0(antialias=True)
    pictures = tfds.builder_from_directory(directory).as_dataset(split=split).take(limit or -1)
    pixels = pictures.map(lambda x: {"image": tower.preprocessor(x["image"])}, tf.data.AUTOTUNE)
    rows = list(pictures.map(lambda x: (x["caption"], x["style"])).as_numpy_iterator())
    features = [tower.features(x["image"]).numpy() for x in pixels.batch(32).prefetch(2)]
    return {
        "features": np.concatenate(features),
        "text": np.array([text.decode().lower() for text, _ in rows]),
        "style": np.array([style for _, style in rows]),
    }


def cached(path: pathlib.Path, make: Any) -> dict[str, Any]:
    """What `make()` gave the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with keras_lit.files.whole(path) as working, open(working, "wb") as file:
            np.savez(file, **make())
    return dict(np.load(path))


def twos_and_ones(part: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, 2] of captions in two styles, and rows of captions that occur once."""
    twos, ones = [], []
    for caption in np.unique(part["text"]):
        rows = np.flatnonzero(part["text"] == caption)
        _, first = np.unique(part["style"][rows], return_index=True)
        (twos if len(first) > 1 else ones).append(rows[np.sort(first)[:2]])
    return np.array(twos), np.array([row[0] for row in ones])


def order(
    twos: np.ndarray, ones: np.ndarray, together: bool, batch: int, rng: np.random.Generator
) -> np.ndarray:
    """[batches, batch] rows of one epoch."""
    twos, ones = rng.permuted(rng.permutation(twos), axis=1), rng.permutation(ones)
    if together:
        units = [*twos, *ones[:, np.newaxis]]
        parts = [np.concatenate([units[i] for i in rng.permutation(len(units))])]
    else:  # One of the two in each half of the epoch.
        halves = zip(twos.T, np.array_split(ones, 2), strict=True)
        parts = [rng.permutation(np.concatenate(half)) for half in halves]
    count = (twos.size + len(ones)) // batch // 2  # As many batches in each half.
    sizes = [2 * count] if together else [count, count]
    return np.concatenate(
        [part[: n * batch].reshape(n, batch) for part, n in zip(parts, sizes, strict=True)]
    )


def train(
    data: dict[str, Any], test: dict[str, Any], args: argparse.Namespace, variant: str, seed: int
) -> list[runner.Point]:
    """One run; the curve has its end only."""
    loss, kind = variant.split(", ")
    twos, ones = twos_and_ones(data)
    text_tower = stamps.bag_of_pieces(data["text"])
    token_ids = text_tower.preprocessor(data["text"]).numpy()
    rng = np.random.default_rng(seed)
    epochs = [order(twos, ones, kind != "unique", args.batch_size, rng) for _ in range(args.epochs)]
    rows = np.concatenate(epochs)
    features, texts = tf.constant(data["features"]), tf.constant(token_ids)
    batches = tf.data.Dataset.from_tensor_slices(rows).map(
        lambda row: {"image_features": tf.gather(features, row), "text": tf.gather(texts, row)}
    )
    model = keras_lit.LiT(
        keras_lit.ImageTower.from_features(data["features"].shape[1]),
        text_tower,
        "LU",
        loss=loss,
        group_captions=kind != "no groups",
    )
    schedule = keras_lit.optimizers.WarmupSchedule(args.learning_rate, len(rows), len(rows) // 10)
    model.compile(keras_lit.optimizers.Adam(schedule, weight_decay=0.01), jit_compile=False)
    steps = len(rows) // args.epochs
    logs = model.fit(batches, epochs=args.epochs, steps_per_epoch=steps, verbose=0).history
    images, captions = model.encode_image(test["features"]), model.encode_text(list(test["text"]))
    recall = 100 * scores.mean_recall(scores.recalls(images, captions, test["text"]))
    last = {name: float(logs[name][-1]) for name in METRICS if name in logs}
    return [{"pairs": float(rows.size), "mean_recall": recall, **last}]


def main() -> None:
    """Trains, measures, reports."""
    parser = runner.parser(__doc__, epochs=20, batch_size=512, learning_rate=3e-3)
    parser.set_defaults(data_dir="~/tensorflow_datasets/open_pictures/1.0.0", seeds=5)
    args = parser.parse_args()
    directory = str(pathlib.Path(args.data_dir).expanduser())
    parts = [
        cached(
            args.output / f"open_pictures_{split}_{args.limit or 'all'}.npz",
            functools.partial(read, directory, split, args.limit),
        )
        for split in ("train", "test")
    ]
    keras.utils.set_random_seed(0)
    twos, ones = twos_and_ones(parts[0])
    print(f"{len(twos)} of {2 * len(twos) + len(ones)} pictures repeat a caption")
    results = runner.run(
        "repeated_captions", args, VARIANTS, functools.partial(train, *parts, args)
    )
    runner.report("repeated_captions", args, results, METRICS, "{:.2f} ± {:.2f}", x=None)


if __name__ == "__main__":
    main()

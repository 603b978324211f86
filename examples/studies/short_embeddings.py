"""What shorter embeddings cost: fewer dimensions with and without `dims`, int8, and one bit each.

    python examples/studies/short_embeddings.py

OpenPictures, with the training pairs, towers, settings and cached features of few_pairs.py: `fit`
starts from the heads of `LiT.align`, once as it is and once with `dims`. Validation chooses the
epoch by the full embedding. An index of each dtype is searched for the test pictures, and for all.
"""

import functools
import pathlib
import tempfile
from typing import Any

import few_pairs
import numpy as np
import runner
import scores
import tensorflow as tf

import keras_lit
from keras_lit.search import Index
from keras_lit.search.store import Picture, Store
from keras_lit.search.writing import writing

WIDTH = 384
DIMS = (WIDTH // 8, WIDTH // 4, WIDTH // 2)
VARIANTS = {"plain": None, "dims": DIMS}
# Dimensions kept and the dtype of the index; then the bytes that a search reads per picture.
KEPT = [(WIDTH, "float32"), (WIDTH, "int8"), (WIDTH, "binary")]
KEPT += [(dim, "float32") for dim in DIMS[::-1]] + [(DIMS[1], "int8"), (DIMS[1], "binary")]
BYTES = {"float32": lambda dim: 4 * dim, "int8": lambda dim: dim + 4}
BYTES["binary"] = lambda dim: 8 * -(-dim // 64)


def answers(vectors: np.ndarray, queries: np.ndarray, dtype: str) -> np.ndarray:
    """[n, 10]: the rows of the vectors that an index of this dtype finds."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"dim": vectors.shape[1], "dtype": dtype, "folder": None, "tower": {}}
        store = Store.create(pathlib.Path(folder), {**settings, "approximate": False})
        with writing(store) as writer:
            rows = [Picture(str(i), b"%d" % i, None, "{}") for i in range(len(vectors))]
            writer.append(rows, vectors)
        hits = Index(folder).search_many(list(queries), max(scores.KS))
    return np.array([[int(hit.name) for hit in of_query] for of_query in hits])


def recall(found: np.ndarray, captions: np.ndarray, wanted: np.ndarray) -> float:
    """The mean of recall@1, 5 and 10 in %; a row is right if its caption is the wanted one."""
    right = captions[found] == wanted[:, np.newaxis]
    return 100 * float(np.mean([right[:, :k].any(axis=1).mean() for k in scores.KS]))


def measure(model: keras_lit.LiT, parts: dict[str, few_pairs.Part]) -> runner.Point:
    """The recalls of each kind, "<numbers> <dtype>", and among all pictures, "all ..."."""
    test, point = parts["test"], {}
    captions = np.concatenate([test["text"], *(parts[x]["text"] for x in ("train", "validation"))])
    features = [parts[x]["features"] for x in ("test", "train", "validation")]
    _, once = np.unique(test["text"], return_index=True)
    for dim, dtype in KEPT:
        texts = model.encode_text(test["text_features"][:, 0], 256, 0, dim)
        images = model.encode_image(np.concatenate(features), 256, 0, dim)
        own = images[: len(texts)]
        both = [
            recall(answers(own, texts, dtype), test["text"], test["text"]),
            recall(answers(texts[once], own, dtype), test["text"][once], test["text"]),
        ]
        point[f"{dim} {dtype}"] = float(np.mean(both))
        point[f"all {dim} {dtype}"] = recall(answers(images, texts, dtype), captions, test["text"])
    return point


def train(data: few_pairs.Data, variant: str, seed: int) -> list[runner.Point]:
    """One cell."""
    size = len(data.parts["train"]["text"])
    model = few_pairs.start("align, fit", data, size, few_pairs.NOISE[few_pairs.ALL])
    if (dims := VARIANTS[variant]) is not None:
        options = {"temperature": float(model.temperature), "dims": dims}
        model = keras_lit.LiT(model.image_tower, model.text_tower, "LL", **options)
    settings = few_pairs.SETTINGS["align, fit"][few_pairs.ALL]
    best = few_pairs.Best(data.parts["validation"])
    few_pairs.fit(model, data.few(size), best, seed, *settings)
    return [measure(model, data.parts)]


def report(results: list[dict[str, Any]]) -> str:
    """A row for each kind of vector: bytes, recalls, and their share of the full embedding's."""
    lines = ["| numbers | dtype | bytes |", "| --- | --- | --- |"]
    ends = list(VARIANTS) + [f"{x}, of all pictures" for x in VARIANTS]
    lines = [line + of * len(ends) for line, of in zip(lines, ("{} |", " --- |"), strict=True)]
    lines[0] = lines[0].format(*(f" {x}" for x in ends))
    for dim, dtype in KEPT:
        cells = [str(dim), dtype, str(BYTES[dtype](dim))]
        for prefix in ("", "all "):
            found = runner.summarise(results, f"{prefix}{dim} {dtype}")
            whole = runner.summarise(results, f"{prefix}{WIDTH} float32")
            for variant, (mean, spread) in found.items():
                part = 100 * mean / whole[variant][0]
                cells.append(f"{mean:.1f} ± {spread:.1f} ({part:.1f} %)")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, measures, reports."""
    parser = runner.parser(__doc__)
    parser.set_defaults(data_dir="~/tensorflow_datasets/open_pictures/1.0.0")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    data = few_pairs.Data(args)
    results = runner.run("short_embeddings", args, VARIANTS, functools.partial(train, data))
    print(report(results))


if __name__ == "__main__":
    main()

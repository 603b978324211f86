"""What a model gives up and saves as ONNX and LiteRT, in float32 and int8, beside its SavedModel.

    python examples/benchmarks/edge.py --model runs/quickstart/model.keras
    python examples/benchmarks/edge.py                # EfficientNet-Lite0 and MiniLM, as pretrained
    python examples/benchmarks/edge.py --towers own   # our ViT-S/32 and text transformer, untrained
    python examples/benchmarks/edge.py --towers hub   # keras-hub's ViT and our text transformer
    python examples/benchmarks/edge.py --client       # embeddings of the clients beside Keras' own

Pairs are those of OpenPictures' test part, calibration pictures of its training part. Recalls mean
something for trained heads only; sizes and times for all. With `--client` the float32 files are
asked by `examples/edge`, in processes without TensorFlow, that read the pictures themselves.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import harness
import keras
import keras_nlp
import numpy as np
import tensorflow as tf

import keras_lit

NAMES = {
    "pretrained": {"image": "EfficientNet-Lite0", "text": "MiniLM"},
    "own": {"image": "ViT-S/32", "text": "text transformer S"},
    "hub": {"image": "keras-hub's ViT", "text": "text transformer S"},
}


def main() -> None:
    """Writes the versions, compares them, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a LiT as .keras")
    parser.add_argument("--towers", choices=["pretrained", "own", "hub"], default="pretrained")
    parser.add_argument("--source", default="open_pictures")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--formats", nargs="+", default=["saved_model", "onnx", "litert"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--client", action="store_true", help="only compare embeddings")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/edge.json"))
    args = parser.parse_args()
    fraction = 0.2 if pathlib.Path(args.source).exists() else 0.0  # Others have splits.
    train, test = (
        keras_lit.data.image_text_pairs(args.source, split, test_fraction=fraction).take(args.count)
        for split in ("train", "test")
    )
    model = keras.saving.load_model(args.model) if args.model else towers(args.towers, train)
    calibration = train.batch(32)
    with tempfile.TemporaryDirectory() as directory:
        formats = [x for x in args.formats if x != "saved_model" or not args.client]
        for format in formats:
            folder = f"{directory}/{format}"
            keras_lit.export.save(model, folder, format=format)
            if format != "saved_model" and not args.client:
                options = {"weights": "int8", "calibration": calibration}
                keras_lit.export.save(model, folder, format=format, **options)
        if args.client:
            names = {"image": "image", "text": "text"} if args.model else NAMES[args.towers]
            found = beside_keras(model, names, pathlib.Path(directory), formats, test)
        else:
            found = keras_lit.export.compare(model, directory, test.batch(32), args.threads)
    harness.report(found, args.output)


def beside_keras(
    model: keras_lit.LiT,
    names: dict[str, str],
    directory: pathlib.Path,
    formats: list[str],
    pairs: tf.data.Dataset,
) -> list[dict[str, Any]]:
    """Cosines between what the clients print of pictures and captions, and the model's own."""
    rows = [*pairs.as_numpy_iterator()]
    texts = [row["text"].decode() for row in rows]
    given: dict[str, list[str]] = {"captions": texts}
    expected = {"captions": model.encode_text(texts, verbose=0)}
    encoders = {"PNG": tf.io.encode_png, "JPEG": tf.io.encode_jpeg}
    for name, encode in encoders.items():
        paths = [directory / f"{i}.{name.lower()}" for i in range(len(rows))]
        for path, row in zip(paths, rows, strict=True):
            pixels = row["image"]
            if isinstance(pixels, bytes):  # A file.
                pixels = tf.io.decode_image(pixels, 3, expand_animations=False)
            path.write_bytes(encode(pixels).numpy())
        given[name] = [*map(str, paths)]
        expected[name] = model.encode_image(paths, verbose=0)
    found = []
    for format in formats:
        client = pathlib.Path(__file__).parent.parent / "edge" / f"{format}_client.py"
        for name, asked in given.items():
            side, option = ("text", "--text") if name == "captions" else ("image", "--images")
            command = [sys.executable, client, directory / format / "1", option, *asked]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            cosines = (np.array(json.loads(child.stdout)[side]) * expected[name]).sum(axis=1)
            row = {"tower": names[side], "format": format, "of": f"{len(asked)} {name}"}
            row |= {"worst cosine": f"{cosines.min():.6f}"}
            found.append(row | {"mean cosine": f"{cosines.mean():.6f}"})
    return found


def towers(kind: str, pairs: object) -> keras_lit.LiT:
    """Towers by name, joined by heads that are not trained."""
    if kind == "pretrained":
        image = keras_lit.demo.efficientnet_lite0(resize="pad")
        return keras_lit.LiT(image, keras_lit.demo.minilm(), "LU")
    if kind == "own":
        backbone = keras_lit.backbones.VisionTransformer.from_size("S/32", 224)
    else:
        backbone = keras_nlp.models.ViTBackbone((224, 224, 3), 32, 6, 6, 384, 1536)
    tokenizer = keras_lit.tokenizers.train_sentencepiece(pairs, 2_000)
    text = keras_lit.TextTower.from_size("S", tokenizer)
    return keras_lit.LiT(keras_lit.ImageTower(backbone), text, "LU")


if __name__ == "__main__":
    main()

"""What a model gives up and saves as ONNX and LiteRT, in float32 and int8, beside its SavedModel.

    python examples/benchmarks/edge.py --model runs/quickstart/model.keras
    python examples/benchmarks/edge.py                # EfficientNet-Lite0 and MiniLM, as pretrained
    python examples/benchmarks/edge.py --towers own   # our ViT-S/32 and text transformer, untrained
    python examples/benchmarks/edge.py --towers hub   # keras-hub's ViT and our text transformer

Pairs are those of OpenPictures' test part, calibration pictures of its training part. Cosines and
recalls mean something for trained heads only; sizes and times for all.
"""

import argparse
import pathlib
import tempfile

import harness
import keras
import keras_nlp

import keras_lit


def main() -> None:
    """Writes the versions, compares them, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a LiT as .keras")
    parser.add_argument("--towers", choices=["pretrained", "own", "hub"], default="pretrained")
    parser.add_argument("--source", default="open_pictures")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--formats", nargs="+", default=["saved_model", "onnx", "litert"])
    parser.add_argument("--threads", type=int)
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
        for format in args.formats:
            folder = f"{directory}/{format}"
            keras_lit.export.save(model, folder, format=format)
            if format != "saved_model":
                options = {"weights": "int8", "calibration": calibration}
                keras_lit.export.save(model, folder, format=format, **options)
        found = keras_lit.export.compare(model, directory, test.batch(32), args.threads)
    harness.report(found, args.output)


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

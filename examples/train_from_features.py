"""Trains a text tower on precomputed image features, and attaches the image tower at the end.

    python examples/train_from_features.py --features runs/features --output runs/from_features
    python examples/train_from_features.py --heads linear   # or mlp; after precompute with --text

The image tower is not in memory while it trains, with --heads neither is the text tower: then heads
train alone, on mixtures of pairs with --mixup 1. Killed and started again, the run goes on where it
was, and ends with the same weights.
"""

import argparse
import pathlib

import keras

import keras_lit


def main() -> None:
    """Trains, attaches, saves."""
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    count = keras_lit.features.verify(args.features, args.split)["pairs"]
    pairs = keras_lit.features.load(args.features, args.split, shuffle=True, seed=args.seed)
    batches = pairs.batch(args.batch_size, drop_remainder=True)
    if args.mixup:
        batches = keras_lit.features.latent_mixup(batches, args.mixup, args.seed)
    model = heads(args) if args.heads else text_model(args)
    steps = args.epochs * (count // args.batch_size)
    schedule = keras_lit.optimizers.WarmupSchedule(1e-3, steps, steps // 10)
    model.compile(keras_lit.optimizers.Adafactor(schedule))
    resume = keras_lit.callbacks.ExactResume(args.output / "resume", save_freq=args.save_freq)
    model.fit(batches, epochs=args.epochs, callbacks=[resume], verbose=2)
    model = model.with_image_tower(keras_lit.demo.efficientnet_lite0())
    if args.heads:
        model = model.with_text_tower(keras_lit.demo.minilm())
    model.save(args.output / "model.keras")
    keras_lit.export.save(model, args.output / "saved_model")
    print(f"trained {args.output / 'model.keras'} on {count} pairs")


def text_model(args: argparse.Namespace) -> keras_lit.LiT:
    """A text tower from scratch, with a vocabulary of these captions."""
    captions = [pair["text"] for pair in keras_lit.features.load(args.features, args.split)]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(
        sorted(caption.numpy() for caption in captions), args.vocabulary
    )
    image_tower = keras_lit.features.image_tower(args.features, args.split)
    return keras_lit.LiT(image_tower, keras_lit.TextTower.from_size(args.text, tokenizer))


def heads(args: argparse.Namespace) -> keras_lit.LiT:
    """Two heads of one width on two caches: linear ones, or ShareLock's kind for the text."""
    source, width = (args.features, args.split), args.width
    image_tower = keras_lit.features.image_tower(*source, width)
    text_tower = keras_lit.features.text_tower(*source, width, head=args.heads)
    return keras_lit.LiT(image_tower, text_tower, tuning="LL")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, default=pathlib.Path("runs/features"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--text", default="Ti", help="size of the text tower: Ti, S, B, L")
    parser.add_argument("--heads", choices=["linear", "mlp"], help="on cached text, trained alone")
    parser.add_argument("--width", type=int, default=512, help="of the heads")
    parser.add_argument("--mixup", type=float, default=0.0, help="alpha of latent mixup")
    parser.add_argument("--vocabulary", type=int, default=8_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--save-freq", type=int, default=100, help="batches between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/from_features"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

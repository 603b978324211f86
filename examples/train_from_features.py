"""Trains a text tower on precomputed image features, and attaches the image tower at the end.

    python examples/train_from_features.py --features runs/features --output runs/from_features

The image tower is not in memory while it trains. Killed and started again, the run goes on where it
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
    keras_lit.features.verify(args.features, args.split)
    pairs = keras_lit.features.load(args.features, args.split, shuffle=True, seed=args.seed)
    captions = [pair["text"] for pair in keras_lit.features.load(args.features, args.split)]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(
        sorted(caption.numpy() for caption in captions), args.vocabulary
    )
    model = keras_lit.LiT(
        keras_lit.features.image_tower(args.features, args.split),
        keras_lit.TextTower.from_size(args.text, tokenizer),
        tuning="Lu",
    )
    steps = args.epochs * (len(captions) // args.batch_size)
    schedule = keras_lit.optimizers.WarmupSchedule(1e-3, steps, steps // 10)
    model.compile(keras_lit.optimizers.Adafactor(schedule))
    resume = keras_lit.callbacks.ExactResume(args.output / "resume", save_freq=args.save_freq)
    batches = pairs.batch(args.batch_size, drop_remainder=True)
    model.fit(batches, epochs=args.epochs, callbacks=[resume], verbose=2)
    model = model.with_image_tower(keras_lit.demo.efficientnet_lite0())
    model.save(args.output / "model.keras")
    keras_lit.export.save(model, args.output / "saved_model")
    print(f"trained {args.output / 'model.keras'} on {len(captions)} pairs")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, default=pathlib.Path("runs/features"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--text", default="Ti", help="size of the text tower: Ti, S, B, L")
    parser.add_argument("--vocabulary", type=int, default=8_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--save-freq", type=int, default=100, help="batches between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/from_features"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

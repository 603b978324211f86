"""Classifies pictures by words with a LiT that the authors released, or with any checkpoint.

    python examples/zero_shot_released.py dog.jpg --classes dog cat toucan
    python examples/zero_shot_released.py photos/*.jpg --checkpoint LiT-L16L --classes dog cat
    python examples/zero_shot_released.py dog.jpg --classes dog cat \\
        --checkpoint tuned.npz --vocabulary vocab.txt --text-heads 12

A released model is downloaded once, with its vocabulary (LiT-B16B_2: 780 MB).
"""

import argparse

import numpy as np

import keras_lit
from keras_lit import evaluation


def main() -> None:
    """Prints the likeliest classes of each picture."""
    args = parse_arguments()
    model = keras_lit.checkpoints.load_lit(
        args.checkpoint, text_heads=args.text_heads, tokenizer=args.vocabulary
    )
    templates = evaluation.prompts.templates(args.templates)
    weights = evaluation.zero_shot_weights(model.encode_text, args.classes, templates)
    logits = float(model.temperature) * model.encode_image(args.images) @ weights.T
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    for image, row in zip(args.images, probabilities, strict=True):
        best = np.argsort(-row)[: args.top]
        print(f"{image}: " + ", ".join(f"{args.classes[i]} {row[i]:.1%}" for i in best))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", help="JPEG, PNG, GIF, BMP or WebP files")
    parser.add_argument("--classes", nargs="+", required=True, help="what may be in the pictures")
    parser.add_argument(
        "--checkpoint",
        default="LiT-B16B_2",
        help=f"an .npz file, or one of {', '.join(keras_lit.checkpoints.RELEASED)}",
    )
    parser.add_argument("--vocabulary", help="default: of the checkpoint's name, beside it")
    parser.add_argument("--text-heads", type=int, help="of a BERT that was not released")
    parser.add_argument("--templates", default="clip_best_7", help="a set of prompts, by name")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show")
    return parser.parse_args()


if __name__ == "__main__":
    main()

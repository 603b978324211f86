"""Encodes the images of a dataset once, for training without images; --text their captions, too.

    python examples/precompute_features.py --dataset tux_paint_stamps --output runs/features

Interrupt it at any time, and run it again to go on. On several machines that share a disk start
`--job 0 --jobs 4` to `--job 3 --jobs 4`, and then once with `--merge`. Then see
train_from_features.py.
"""

import argparse
import pathlib

import keras_lit


def main() -> None:
    """Encodes each split, or joins what several jobs wrote."""
    args = parse_arguments()
    for split in args.splits:
        if args.merge:
            manifest = keras_lit.features.merge(args.output, split)
        else:
            manifest = keras_lit.features.precompute(
                keras_lit.demo.efficientnet_lite0(),
                keras_lit.data.image_text_pairs(
                    args.dataset, split, test_fraction=args.test_fraction
                ),
                args.output,
                batch_size=args.batch_size,
                shards=args.shards,
                split=split,
                dtype=args.dtype,
                skip_bad_images=args.skip_bad_images,
                shard_index=args.job,
                num_shards=args.jobs,
                text_tower=keras_lit.demo.minilm() if args.text else None,
            )
        if manifest is not None:
            print(
                f"{split}: {manifest['pairs']} pairs of "
                f"{manifest['bytes'] / manifest['pairs']:.0f} bytes, "
                f"{len(manifest['skipped'])} images skipped, in {args.output}"
            )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", default="tux_paint_stamps", help="a TensorFlow dataset, folder or table"
    )
    parser.add_argument("--splits", nargs="+", default=["train"])
    parser.add_argument("--test-fraction", type=float, default=0.0, help="of folders and tables")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/features"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shards", type=int, help="the number of files, 16 by default")
    parser.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    parser.add_argument("--text", action="store_true", help="captions too, through MiniLM")
    parser.add_argument("--skip-bad-images", action="store_true")
    parser.add_argument("--job", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--merge", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

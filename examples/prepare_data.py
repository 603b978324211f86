"""Prepares pairs for training: reads a source, filters, leaves duplicates out, writes shards.

    python examples/prepare_data.py --source photos --output prepared
    python examples/prepare_data.py --source "cc12m/*.tar" --rules align --drop drop.txt
    python examples/prepare_data.py --source photos --format jsonl  # pictures and a table

Writes to --output 00000.tar, 00001.tar, ... (webdataset's layout; or images/ and captions.jsonl),
which `keras_lit.data.image_text_pairs` reads, and report.json: how many pairs each rule dropped,
the bad records by name, and the images that repeat earlier ones. --drop takes lists of names, such
as those of `examples/find_duplicates.py --against` a test set. --output is there when all of it is;
a run that was killed leaves OUTPUT.<number>.tmp, which the next one removes.
"""

import argparse
import collections
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_lit import files
from keras_lit.data import duplicates, filters, image_text_pairs, statistics

Captioned = tuple[bytes, list[str]]  # an image and its captions


def main() -> None:
    """Reads, filters, writes, reports."""
    args = parse_arguments()
    if args.output.exists() and any(args.output.iterdir()):
        raise SystemExit(f"{args.output} should be empty: it would mix with what is written.")
    skipped: set[str] = set()
    pairs = image_text_pairs(args.source, args.split, skipped=skipped)
    counts: collections.Counter[str] = collections.Counter()
    clean = filters.apply(pairs, rules(args, pairs), counts)
    repeats = [] if args.max_distance < 0 else repeated(clean, args.max_distance)
    clean = filters.apply(clean, [duplicates.not_named(repeats)])
    counts.clear()  # Looking for repeats has read the pairs once already.
    captions = by_image(clean)
    kept = counts.pop("kept", 0)
    dropped = dict(counts)

    files.remove_leftovers(args.output)
    with files.whole_folder(args.output) as working:
        write = {"tar": write_tars, "jsonl": write_jsonl}[args.format]
        written = write(with_captions(clean, captions), working, args.images_per_shard)
        report = {
            "written": written,
            "dropped": dropped,
            "repeats": repeats,
            "bad_records": sorted(skipped),
        }
        (working / "report.json").write_text(json.dumps(report, indent=1))
    for name, count in report["dropped"].items():
        print(f"{count} dropped by the rule: {name}")
    print(
        f"{kept - written} pairs of {len(repeats)} images that repeat others dropped, "
        f"{len(skipped)} bad records left out, {written} pairs written to {args.output}"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="as for `image_text_pairs`")
    parser.add_argument("--split", default="train")
    parser.add_argument("--rules", choices=["lit", "align", "none"], default="lit")
    parser.add_argument("--short-side", type=int, default=200, help="images should have more")
    parser.add_argument("--drop", nargs="*", type=pathlib.Path, default=[], help="lists of names")
    parser.add_argument("--max-distance", type=int, default=4, help="of repeats, in 256; -1: keep")
    parser.add_argument("--format", choices=["tar", "jsonl"], default="tar")
    parser.add_argument("--images-per-shard", type=int, default=10_000)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("prepared"))
    args = parser.parse_args()
    if args.images_per_shard < 1:
        parser.error(f"--images-per-shard should be at least 1. Received: {args.images_per_shard}.")
    return args


def rules(args: argparse.Namespace, pairs: tf.data.Dataset) -> list[filters.Filter]:
    """The rules for images, those for texts, and the names to drop."""
    dropped = {name for file in args.drop for name in read_names(file)}
    named = [duplicates.not_named(dropped)] if dropped else []
    if dropped and not any(
        os.fsdecode(pair["name"]) in dropped for pair in pairs.as_numpy_iterator()
    ):
        raise SystemExit(
            f"None of the {len(dropped)} names to drop is in {args.source}, which calls its images "
            "otherwise. Pass the --source as it was passed when the list was written."
        )
    if args.rules == "none":
        return named
    corpus = statistics.collect(pairs)
    texts = {"lit": filters.lit_text_rules, "align": filters.align_text_rules}[args.rules]
    size, *images = filters.align_image_rules(corpus)
    size = filters.short_side(args.short_side)
    return [*named, size, *images, *texts(corpus)]


def read_names(file: pathlib.Path) -> list[str]:
    """A list of names, one a line; file names are bytes, in whatever encoding."""
    # A name may hold other line breaks.
    return [name for name in re.split(r"\r?\n", os.fsdecode(file.read_bytes())) if name]


def repeated(pairs: tf.data.Dataset, max_distance: int) -> list[str]:
    """Names of the images that look like an earlier one; captions of one image are no repeats."""
    hashes: dict[bytes, np.ndarray] = {}
    for pair in pairs:
        name = pair["name"].numpy()
        if name not in hashes:
            hashes[name] = duplicates.perceptual_hashes([pair["image"]])[0]
    if not hashes:
        return []
    names = list(map(os.fsdecode, hashes))
    matches = duplicates.match_hashes(np.array(list(hashes.values())), max_distance=max_distance)
    return [names[row] for row in matches.repeats(len(names))]


def by_image(pairs: tf.data.Dataset) -> dict[bytes, list[str]]:
    """The captions of each image, by a hash of its bytes: its rows may be anywhere."""
    captions: dict[bytes, list[str]] = {}
    for pair in pairs.as_numpy_iterator():
        captions.setdefault(hashed(pair["image"]), []).append(pair["text"].decode())
    return captions


def with_captions(pairs: tf.data.Dataset, captions: dict[bytes, list[str]]) -> Iterator[Captioned]:
    """(image, all of its captions), each image where it comes first."""
    for pair in pairs.as_numpy_iterator():
        if texts := captions.pop(hashed(pair["image"]), None):
            yield pair["image"], texts


def hashed(image: bytes) -> bytes:
    """Tells images apart."""
    return hashlib.blake2b(image, digest_size=16).digest()


def write_tars(images: Iterator[Captioned], output: pathlib.Path, images_per_shard: int) -> int:
    """Shards of (000000000.jpg, 000000000.json), ...; the number of pairs."""
    written = 0
    numbered = enumerate(images)
    for shard, rows in itertools.groupby(numbered, lambda row: row[0] // images_per_shard):
        with tarfile.open(output / f"{shard:05d}.tar", "w") as tar:
            for number, (image, captions) in rows:
                record = json.dumps({"caption": captions}, ensure_ascii=False).encode()
                for ending, content in ((suffix(image), image), ("json", record)):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                written += len(captions)
    return written


def write_jsonl(images: Iterator[Captioned], output: pathlib.Path, images_per_folder: int) -> int:
    """images/00000/000000000.jpg, ... and captions.jsonl; the number of pairs."""
    written = 0
    with (output / "captions.jsonl").open("w", encoding="utf-8") as table:
        for number, (image, captions) in enumerate(images):
            name = f"images/{number // images_per_folder:05d}/{number:09d}.{suffix(image)}"
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
            row = {"image": name, "text": captions}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += len(captions)
    return written


def suffix(image: bytes) -> str:
    """The ending of the image's format."""
    starts = {b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}
    return next((name for start, name in starts.items() if image.startswith(start)), "jpg")


if __name__ == "__main__":
    main()

"""Searches a folder of pictures for a sentence; the first time, or for new ones, it encodes them.

    python examples/search.py photos "two dogs in the snow" --model runs/quickstart/model.keras
    python examples/search.py photos "a dog" --minus snow --like photos/one.jpg --where "2024/*"

The index lies in the folder (`.index`), or where --index says. --dtype int8 takes a quarter of the
memory, binary a 32nd.
"""

import argparse
import pathlib

import keras

from keras_lit.search import Index, Query


def main() -> None:
    """Brings the index up to date, searches, prints scores and files."""
    args = parse_arguments()
    try:
        model = keras.saving.load_model(args.model)
        directory = args.index or args.folder / ".index"
        index = Index.build(model, args.folder, directory, dtype=args.dtype)
        query = Query(args.sentence)
        for picture in args.like:
            query += picture
        for sentence in args.minus:
            query -= sentence
        hits = index.search(query, args.count, {"name": args.where} if args.where else None)
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"Error: {error}") from error
    for hit in hits:
        print(f"{hit.score:.3f}  {hit.path}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sentence")
    parser.add_argument("--model", default="runs/quickstart/model.keras", help="a .keras file")
    parser.add_argument("--index", type=pathlib.Path, help="the folder of the index")
    parser.add_argument("--like", type=pathlib.Path, nargs="+", default=[], help="pictures to add")
    parser.add_argument("--minus", nargs="+", default=[], help="sentences to subtract")
    parser.add_argument("--where", help="a pattern of names")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "int8", "binary"], default="float32"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

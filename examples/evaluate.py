"""Evaluates a saved LiT on datasets and writes a report.

    python examples/evaluate.py runs/quickstart/model.keras --datasets tux_paint_stamps
    python examples/evaluate.py MODEL --datasets cifar100 oxford_iiit_pet coco_captions --download
    python examples/evaluate.py MODEL --datasets natural --select   # VTAB-natural, App. I.2
    python examples/evaluate.py MODEL --datasets photos             # a folder, see the README

Names of `keras_lit.evaluation.datasets` (or of their groups: imagenet, natural, specialised,
structured) are evaluated as the paper does; a folder with a sub-folder of pictures for each class
is evaluated for zero-shot classification, and anything else that `keras_lit.data.image_text_pairs`
reads for retrieval. Writes results.json, report.html and clip_benchmark/ to --output, anew after
each dataset. One that is missing or fails does not stop the others; after a failure, or without a
picture that does not decode, the exit status is 1.
"""

import argparse
import pathlib
from typing import Any

import keras

import keras_lit
from keras_lit import evaluation
from keras_lit.data import builders

TEXTS = (".txt", ".caption")
PREPROCESSING = {"plain": {}, "crop": {"resize": "crop", "crop_fraction": 0.875}}


def main() -> None:
    """Evaluates on one dataset after the other, and says at the end what was left out."""
    args = parse_arguments()
    model = keras.saving.load_model(args.model)
    names = []
    for name in args.datasets:
        names += evaluation.datasets.names(name) or [name]
    results, missing, failed = [], [], []
    for name in names:
        files: set[str] = set()
        try:
            result = evaluate(model, name, args, files)
        except FileNotFoundError as error:
            missing.append(str(error))
            print(f"left out: {error}", flush=True)
            continue
        except Exception as error:  # Of whatever reads it: the others should not be lost.
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print(f"left out: {failed[-1]}", flush=True)
            continue
        print(result, *(f"without {file}" for file in sorted(files)), sep="\n")
        # A text that belongs to no picture does not change what is evaluated.
        failed += [x for x in sorted(files) if not x.split(": ")[0].endswith(TEXTS)]
        results.append(result)
        title = f"Evaluation of {args.model.name}"
        page = evaluation.report(results, args.output, title, str(args.model))
    if not results:
        raise SystemExit("\n".join(["Nothing was evaluated:", *missing, *failed]))
    print(f"written to {page}")
    if failed:
        raise SystemExit("\n".join(["Left out:", *failed]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a .keras file")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--split", help="another than the usual one (test, for retrieval)")
    parser.add_argument("--templates", help="a set of keras_lit.evaluation.prompts")
    parser.add_argument("--select", action="store_true", help="choose on validation images")
    parser.add_argument(
        "--train", help="what it was trained on, to evaluate without duplicates too"
    )
    parser.add_argument("--same-text", action="store_true", help="images of one text are all right")
    parser.add_argument("--count", type=int, help="only so many images")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/evaluation"))
    return parser.parse_args()


def evaluate(
    model: keras_lit.LiT, name: str, args: argparse.Namespace, left_out: set[str]
) -> evaluation.Result:
    """Zero-shot classification, or retrieval for what has captions."""
    records = evaluation.datasets.DATASETS
    dataset = records.get(name) or evaluation.dataset_of_folder(name, args.split)
    if dataset is None or dataset.group == "retrieval":
        return retrieve(model, name, args, left_out)
    class_names = dataset.class_names(args.data_dir, args.download)
    options = dataset.preprocessing
    templates = args.templates or dataset.templates[0]
    if args.select and dataset.validation:
        best = evaluation.select(
            model,
            dataset.load("validation", args.data_dir, args.download),
            {"own": class_names},
            {key: evaluation.prompts.templates(key) for key in dataset.templates},
            PREPROCESSING,
            classes=dataset.classes(),
        )[0]
        print(f"{name}, on validation images: {best}")
        templates, options = best.templates, PREPROCESSING[best.preprocessing]
    images = evaluation.Images(
        dataset.load(args.split, args.data_dir, args.download),
        preprocessing=options,
        count=args.count,
        verbose=1,
    )
    return evaluation.classify(
        model,
        images,
        class_names,
        evaluation.prompts.templates(templates),
        name,
        dataset.classes(),
        dataset.several_labels,
        duplicates=seen(images, args),
    )


def retrieve(
    model: keras_lit.LiT, name: str, args: argparse.Namespace, left_out: set[str]
) -> evaluation.Result:
    """Retrieval on the pairs of a folder, a table or a TensorFlow dataset.

    Halves of pairs and pictures that do not decode are left out and named.
    """
    is_files = of_files(name)
    if not is_files and not args.download:
        builder = builders.builder(name, args.data_dir)
        if not builder.data_path.exists():
            raise FileNotFoundError(f"{name} is not in {builder.data_path}. Pass --download.")
    split = args.split or ("train" if is_files else "test")
    pairs = keras_lit.data.image_text_pairs(
        name,
        split,
        data_dir=None if is_files else args.data_dir,
        skipped=left_out if is_files else None,
    )
    pairs = pairs.take(args.count) if args.count else pairs
    pairs = evaluation.ImagesAndTexts(pairs, verbose=1)
    return evaluation.retrieve(
        model, pairs, name, same_text=args.same_text, duplicates=seen(pairs.images, args)
    )


def seen(images: evaluation.Images, args: argparse.Namespace) -> Any:
    """The images that are in the training set as well."""
    if args.train is None:
        return None
    data_dir = None if of_files(args.train) else args.data_dir
    pairs = keras_lit.data.image_text_pairs(args.train, captions="first", data_dir=data_dir)
    return evaluation.seen_in_training(images, pairs)


def of_files(name: str) -> bool:
    """Whether a name is that of files, and not of a TensorFlow dataset."""
    return pathlib.Path(name).exists() or not builders.is_name(name)


if __name__ == "__main__":
    main()

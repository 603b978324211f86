"""CPU time and memory of `zero_shot_weights` over the number of classes, beside `encode_text`.

    python examples/benchmarks/zero_shot.py --classes 300 1000 3000
    python examples/benchmarks/zero_shot.py --classes 1000 21000 --templates 80  # ImageNet's

Each class has a prompt of each template, read by a text tower that keras_lit trains from scratch.
"CPU seconds" are of all threads: to be read where others use the machine, too.
"""

import argparse
import pathlib
import sys
import time

import harness


def run(case: harness.Case) -> dict[str, float]:
    """Weights of all classes; then sentences of the same length, as many, by `encode_text`."""
    import keras_lit

    templates = [f"picture {i} of a {{}}." for i in range(case["templates"])]
    names = [f"thing {i}" for i in range(case["classes"])]
    vocabulary = ["picture", "thing", "of", "a", ".", *map(str, range(10))]
    tokenizer = keras_lit.tokenizers.train_wordpiece(vocabulary, len(vocabulary) + 10)
    backbone = keras_lit.backbones.TextTransformer(
        tokenizer.vocabulary_size(), 16, case["width"], case["layers"], 4 * case["width"], 2
    )
    image_tower = keras_lit.ImageTower.from_features(case["width"])
    model = keras_lit.LiT(image_tower, keras_lit.TextTower(backbone, tokenizer, 16))
    prompts = [template.format(name) for name in names for template in templates]

    def weights() -> None:
        keras_lit.evaluation.zero_shot_weights(model.encode_text, names, templates)

    model.encode_text(prompts[:64])  # Traces.
    keras_lit.evaluation.zero_shot_weights(model.encode_text, names[:2], templates)
    start = time.process_time()
    found = harness.measure(weights, case["repeats"])
    cpu_seconds = (time.process_time() - start) / (1 + case["repeats"])
    start = time.process_time()
    model.encode_text(prompts, verbose=0)
    return {
        "cpu_seconds": cpu_seconds,
        **found,
        "of_encode_text": cpu_seconds / (time.process_time() - start),
    }


def main() -> None:
    """Runs the cases, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--templates", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/zero_shot.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    common = {name: getattr(args, name) for name in ("templates", "width", "layers", "repeats")}
    cases = [{"library": "keras_lit", "classes": n, **common} for n in args.classes]
    harness.report(harness.main(__file__, run, cases, args.rounds, ""), args.output)


if __name__ == "__main__":
    main()

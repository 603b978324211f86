"""One text tower for all languages or for English alone: the paper's Table 8.

    python examples/studies/languages.py

The towers of `examples/multilingual.py` (pieces of the training captions, a locked and whitened
EfficientNet-Lite0, in each epoch a picture's caption in a language drawn anew) from scratch, with
no transformer layer or one, without that script's choice by validation. Each is asked in every
language that has `--at-least` so many captions.
"""

import runner
from stamps import multilingual

import keras_lit

# Layers, English alone, pieces of the vocabulary.
VARIANTS = {
    "all languages": (0, False, 32_000),
    "all languages, 1 layer": (1, False, 32_000),
    "English only": (0, True, 8_000),
    "English only, 1 layer": (1, True, 8_000),
}
METRICS = {"mean": "R@10, mean of the languages, %", "english": "R@10 in English, %"}


def main() -> None:
    """Trains, measures, reports."""
    args = runner.parser(
        __doc__, epochs=200, batch_size=256, width=256, learning_rate=2e-3, at_least=900
    ).parse_args()
    image_tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)
    train, test = (
        multilingual.read(args.data_dir, split, image_tower, args.limit)
        for split in ("train", "test")
    )
    counts = multilingual.captions_by_language(train, test)
    asked = [name for name, count in counts.items() if count >= args.at_least]

    def tune(variant: str, seed: int) -> list[runner.Point]:
        layers, english, pieces = VARIANTS[variant]
        languages = [multilingual.ENGLISH] if english else list(counts)
        args.seed = seed
        settings = {"layers": layers, "epochs": args.epochs}
        multilingual.add_whitening_head(image_tower, train["features"])
        tokenizer = multilingual.tokenizer_of(train, languages, pieces)
        model = multilingual.train_tower(image_tower, train, languages, tokenizer, settings, args)
        recalls = multilingual.evaluate(model, test, asked)
        return [
            {
                "mean": multilingual.mean_recall(recalls, counts, args.at_least),
                "english": multilingual.recall_at_10(recalls[multilingual.ENGLISH]),
            }
        ]

    results = runner.run("languages", args, VARIANTS, tune)
    runner.report("languages", args, results, METRICS, x=None)


if __name__ == "__main__":
    main()

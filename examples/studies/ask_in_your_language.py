"""A text tower of many languages learns from English captions, and is asked in others.

    python examples/studies/ask_in_your_language.py
    python examples/studies/ask_in_your_language.py --open-pictures --seeds 1

The universal sentence encoder (`keras_lit.demo.universal_sentence_encoder`) and MiniLM, which knows
English, on EfficientNet-Lite0's features: heads in closed form (canonical correlations weighted by
themselves, penalties of `--image-penalty` and `--text-penalty` times the mean variance) of the
training pictures' English captions, or of those in the 16 languages that the first of them knows.
Nothing is trained beyond that; a seed draws nine tenths of the training pictures. A language is
asked in among the test pictures that have a caption in it, which are not the same for all; with
`--open-pictures` among those that have one in all seven.
"""

import functools
import pathlib
from typing import Any

import captioned
import numpy as np
import repeated_captions
import runner
import scores
from scipy import linalg
from stamps import multilingual

import keras_lit
from keras_lit import evaluation

# Tux Paint's names of the languages that are asked in, by those of the table's columns.
ASKED = {
    "English": "en",
    "German": "de",
    "Spanish": "es",
    "Japanese": "ja",
    "Chinese": "zh_CN",
    "Arabic": "ar",
    "Russian": "ru",
}
KNOWN = (*ASKED.values(), "fr", "it", "ko", "nl", "pl", "pt", "th", "tr", "zh_TW")
# Tower, languages of the captions that the heads are made of.
VARIANTS = {
    "sentence encoder, English": ("universal_sentence_encoder", ("en",)),
    "sentence encoder, 16 languages": ("universal_sentence_encoder", KNOWN),
    "MiniLM, English": ("minilm", ("en",)),
}


def main() -> None:
    """Features, heads, recalls by language."""
    parser = runner.parser(__doc__, image_penalty=0.2, text_penalty=0.3, sequence_length=32)
    parser.add_argument("--open-pictures", action="store_true", help="instead of the stamps")
    args = parser.parse_args()
    if args.open_pictures:
        train, test = open_pictures(args.output)
    else:
        image_tower = keras_lit.demo.efficientnet_lite0(resize="pad", antialias=True)
        train, test = (
            multilingual.read(args.data_dir, split, image_tower, args.limit)
            for split in ("train", "test")
        )

    def tune(variant: str, seed: int) -> list[runner.Point]:
        name, languages = VARIANTS[variant]
        tower = getattr(keras_lit.demo, name)(args.sequence_length)
        drawn = np.random.default_rng(seed).permutation(len(train["captions"])) % 10 > 0
        some = multilingual.part(train, drawn)
        pairs = [
            (row, captions[language])
            for row, captions in enumerate(some["captions"])
            for language in languages
            if language in captions
        ]
        rows, texts = zip(*pairs, strict=True)
        penalties = args.image_penalty, args.text_penalty
        images = some["features"][list(rows)]
        project = correlated(images, features(tower, list(texts)), *penalties)
        recalls = evaluation.recall_by_language(
            lambda texts: project[1](features(tower, list(texts))),
            project[0](test["features"]),
            [{k: v for k, v in each.items() if k in ASKED.values()} for each in test["captions"]],
        )
        found = {name: 100 * scores.mean_recall(recalls[code]) for name, code in ASKED.items()}
        others = [recall for name, recall in found.items() if name != "English"]
        return [{**found, "others": float(np.mean(others))}]

    study = "ask_in_your_language" + "_open_pictures" * args.open_pictures
    results = runner.run(study, args, VARIANTS, tune)
    print("Mean of the six recalls, %, by the language that is asked in.")
    print(runner.table(results, {name: name for name in ASKED}))
    print("As parts of that in English:")
    for variant in dict.fromkeys(result["variant"] for result in results):
        means = {name: runner.summarise(results, name)[variant][0] for name in ASKED}
        parts = {name: mean / means["English"] for name, mean in means.items() if name != "English"}
        lowest = min(parts, key=lambda name: parts[name])
        said = ", ".join(f"{name} {part:.2f}" for name, part in parts.items())
        print(f"{variant}: {said}; lowest {lowest}")
    titles = {"English": "asked in English", "others": "in six others, mean"}
    path = args.output / f"{study}.png"
    runner.plot(results, {k: f"{v}, %" for k, v in titles.items()}, path, x=None)
    print(f"Drawn in {path}")


def open_pictures(output: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """To train, and to test those that have all languages: features, captions by stamps' codes."""
    codes = {code: {"zh_CN": "zh", "zh_TW": "zh_Hant"}.get(code, code) for code in KNOWN}
    builder = keras_lit.demo.OpenPictures()
    train, _, test = captioned.read(captioned.OPEN_PICTURES, "test", None, (*codes.values(),))
    found = []
    for split in (train, test):
        given = str(builder.data_path), split.name, None
        made = repeated_captions.cached(
            output / f"open_pictures_{split.name}_all.npz",
            functools.partial(repeated_captions.read, *given),
        )
        captions = [
            {code: texts[name] for code, name in codes.items() if name in texts}
            for texts in split.captions
        ]
        found.append({"features": made["features"], "captions": captions})
    asked = [all(code in each for code in ASKED.values()) for each in found[1]["captions"]]
    return found[0], multilingual.part(found[1], np.array(asked))


def features(tower: keras_lit.TextTower, texts: list[str]) -> np.ndarray:
    """What a text tower makes of strings, before any head."""
    return tower.predict(tower.preprocessor(texts), batch_size=256, verbose=0)


def correlated(
    images: np.ndarray, texts: np.ndarray, image_penalty: float, text_penalty: float
) -> tuple[Any, Any]:
    """Functions from features to embeddings of unit length, in closed form."""
    means = images.mean(axis=0), texts.mean(axis=0)
    images, texts = images - means[0], texts - means[1]
    whitening = [
        root(x, penalty) for x, penalty in ((images, image_penalty), (texts, text_penalty))
    ]
    left, correlations, right = linalg.svd(
        whitening[0] @ (images.T @ texts / len(images)) @ whitening[1], full_matrices=False
    )
    kernels = [w @ u * correlations**0.5 for w, u in zip(whitening, (left, right.T), strict=True)]

    def projection(mean: np.ndarray, kernel: np.ndarray) -> Any:
        def project(x: np.ndarray) -> np.ndarray:
            y = (x - mean) @ kernel
            return (y / np.linalg.norm(y, axis=1, keepdims=True)).astype("float32")

        return project

    return tuple(projection(*each) for each in zip(means, kernels, strict=True))


def root(centred: np.ndarray, penalty: float) -> np.ndarray:
    """The inverse root of the covariance, to which `penalty` times its mean variance is added."""
    covariance = centred.T @ centred / len(centred)
    values, vectors = linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 0) + penalty * values.mean()) @ vectors.T


if __name__ == "__main__":
    main()

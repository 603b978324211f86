"""Why locked is better: the paper's Figure 4.

    python examples/studies/why_locked.py

Over the training of a locked, a trained and a from-scratch image tower, each with the same
pretrained text tower: the contrastive loss (batches of 64) on what is trained on, on held-out
stamps and on pictures of another style (emoji, with their Unicode names), and the 10-shot accuracy
of the image tower's features on the stamps' folders.
"""

import functools

import emoji
import full
import numpy as np
import runner
import stamps

import keras_lit

VARIANTS = ("LU", "UU", "uU")
LEARNING_RATE = 1e-3
METRICS = {
    "train_loss": "loss on training pairs",
    "validation_loss": "loss on held-out stamps",
    "emoji_loss": "loss on emoji (another style)",
    "few_shot": "10-shot accuracy of the image tower, %",
}


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(
        __doc__, image_size=64, rounds=3, epochs=3, batch_size=64, tags=0.5, emoji=512
    ).parse_args()
    if args.full:
        full.run("why_locked", args, {letters: {"tuning": letters} for letters in VARIANTS})
        return
    towers = stamps.small_towers(args.image_size)
    data = stamps.Stamps(args, towers[0])
    pictures, names = emoji.emoji(args.emoji)
    pixels = np.stack([towers[0].preprocessor(picture) for picture in pictures])
    other = {"pixels": pixels, "text": names, "features": stamps.features(towers[0], pixels)}

    def train(variant: str, seed: int) -> list[runner.Point]:
        measure = functools.partial(
            figure_4, data=data, other=other, seed=seed, locked=variant[0] == "L"
        )
        return stamps.tune(data, *towers, variant, seed, LEARNING_RATE, args, measure)

    results = runner.run("why_locked", args, VARIANTS, train)
    runner.report("why_locked", args, results, METRICS, format="{:.2f} ± {:.2f}")


def figure_4(
    model: keras_lit.LiT, data: stamps.Stamps, other: dict, seed: int, locked: bool
) -> dict[str, float]:
    """The four numbers."""
    training, validation = data.parts(seed)
    return {
        "train_loss": loss(model, stamps.rows_of(data.train, training), locked),
        "validation_loss": loss(
            model, stamps.joined(stamps.rows_of(data.train, validation), data.test), locked
        ),
        "emoji_loss": loss(model, other, locked),
        "few_shot": few_shot(model, data, locked),
    }


def loss(model: keras_lit.LiT, part: dict, locked: bool) -> float:
    """The mean contrastive loss of a part."""
    images = model.encode_image(stamps.inputs(part, locked)[1], verbose=0)
    return stamps.loss(model, images, model.encode_text(part["text"], verbose=0))


def few_shot(model: keras_lit.LiT, data: stamps.Stamps, locked: bool) -> float:
    """Of the features before any head, for folders with enough stamps, in percent."""
    folders = [[name.split("/")[0] for name in part["name"]] for part in (data.train, data.test)]
    known = sorted({folder for folder in folders[1] if folders[0].count(folder) >= 10})
    features, labels = [], []
    for part, names in zip((data.train, data.test), folders, strict=True):
        rows = [i for i, name in enumerate(names) if name in known]
        labels.append(np.array([known.index(names[i]) for i in rows]))
        if locked:
            features.append(part["features"][rows])
        else:  # The image tower has no head.
            features.append(stamps.features(model.image_tower, part["pixels"][rows]))
    found = keras_lit.evaluation.few_shot_accuracy(
        features[0], labels[0], features[1], labels[1], shots=(10,)
    )
    return 100 * found["10shot_accuracy"]


if __name__ == "__main__":
    main()

"""Which tower to lock, to start pretrained, to start from scratch: the paper's Figure 3.

    python examples/studies/design_choices.py            # all seven, three seeds
    python examples/studies/design_choices.py --select   # first: learning rates, on validation
    python examples/studies/design_choices.py --open-pictures --epochs 1 --rounds 1 --output DIR

L: pretrained and locked, U: pretrained and trained, u: from scratch; image tower, then text tower.
The image tower is EfficientNet-Lite0 on small pictures, the text tower the lower half of MiniLM, so
that two cores can train them. Every variant sees as many pairs; the learning rates are those that
`--select` found best on the validation part ("train" without what was trained on).
"""

import argparse
import functools

import full
import runner
import stamps
import why_locked

import keras_lit

VARIANTS = ("LU", "Lu", "UU", "Uu", "UL", "uL", "uu")
CANDIDATES = (1e-4, 3e-4, 1e-3)
# Chosen for LU, UU and uu; the others have that of the one with the same image tower.
LEARNING_RATES = {variant: 3e-4 if variant[0] == "u" else 1e-3 for variant in VARIANTS}


def main() -> None:
    """Trains, measures, reports."""
    args = parse_arguments()
    if args.full:
        full.run("design_choices", args, {letters: {"tuning": letters} for letters in VARIANTS})
        return
    towers = stamps.small_towers(args.image_size)
    data = stamps.Stamps(args, towers[0])
    if args.select:
        select(data, towers, args)
        return

    def measure(model: keras_lit.LiT, locked: bool) -> dict[str, float]:
        found = stamps.measure(model, data.test, locked)
        if args.open_pictures:  # What training does to a tower that knows photos.
            found["few_shot"] = why_locked.few_shot(model, data, locked)
        return found

    def train(variant: str, seed: int) -> list[runner.Point]:
        own = functools.partial(measure, locked=variant[0] == "L")
        return stamps.tune(data, *towers, variant, seed, LEARNING_RATES[variant], args, own)

    metrics = dict(stamps.TEST_METRICS)
    if args.open_pictures:
        metrics["few_shot"] = why_locked.METRICS["few_shot"]
    results = runner.run("design_choices", args, VARIANTS, train)
    runner.report("design_choices", args, results, metrics)
    for metric, title in stamps.TEST_METRICS.items():
        values = runner.summarise(results, metric)
        if set(values) == set(VARIANTS):
            print(f"{title}:")
            print(stamps.ranked(values, ["LU", "Lu"], ["UU", "Uu"]))
            print(stamps.ranked(values, ["LU", "Lu", "UU", "Uu", "UL", "uL"], ["uu"]))
            print(stamps.ranked(values, ["LU"], ["UL", "uL"]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = full.parser(__doc__, image_size=64, rounds=3, epochs=3, batch_size=64, tags=0.5)
    parser.add_argument("--select", action="store_true", help="compare learning rates and stop")
    return parser.parse_args()


def select(data: stamps.Stamps, towers: tuple, args: argparse.Namespace) -> None:
    """Prints the mean recall on the validation part, by variant and learning rate."""
    rates = [f"{variant} {rate:g}" for variant in VARIANTS for rate in CANDIDATES]

    def train(variant: str, seed: int) -> list[runner.Point]:
        letters, rate = variant.split()
        validation = stamps.rows_of(data.train, data.parts(seed)[1])
        measure = functools.partial(stamps.measure, test=validation, locked=letters[0] == "L")
        return stamps.tune(data, *towers, letters, seed, float(rate), args, measure)

    results = runner.run("design_choices_rates", args, rates, train)
    print(runner.table(results, {"mean_recall": "validation recall, %"}))


if __name__ == "__main__":
    main()

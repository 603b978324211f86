"""When and how fast to unlock a pretrained image tower: the paper's Appendix H.

    python examples/studies/unlocking.py

Between locked (LU) and trained from the start at the text tower's learning rate (UU): the image
tower trains in the second half only ("delay"), at a tenth of the learning rate ("slow"), both, with
a learning rate that a sigmoid raises, or in the second of two cycles of the schedule.
"""

import full
import runner
import stamps

from keras_lit import optimizers

VARIANTS = ("LU", "UU", "delay", "slow", "delay and slow", "sigmoid", "two cycles")
LEARNING_RATE = 1e-3


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(
        __doc__, image_size=64, rounds=1, epochs=3, batch_size=64, tags=0.5
    ).parse_args()
    if args.full:
        recipe = full.recipe_of(args)
        full.run(
            "unlocking",
            args,
            {
                variant: {
                    "tuning": tuning_of(variant),
                    "optimizer": schedules(variant, recipe.steps, recipe.learning_rate),
                }
                for variant in VARIANTS
            },
        )
        return
    towers = stamps.small_towers(args.image_size)
    data = stamps.Stamps(args, towers[0])
    total = stamps.steps(len(data.parts(0)[0]), args)

    def train(variant: str, seed: int) -> list[runner.Point]:
        settings = schedules(variant, total)
        return stamps.tune(
            data, *towers, tuning_of(variant), seed, LEARNING_RATE, args, optimizer=settings
        )

    results = runner.run("unlocking", args, VARIANTS, train)
    runner.report("unlocking", args, results, stamps.TEST_METRICS, x=None)


def tuning_of(variant: str) -> str:
    """The two letters."""
    return "LU" if variant == "LU" else "UU"


def schedules(variant: str, total: int, learning_rate: float = LEARNING_RATE) -> dict[str, object]:
    """The arguments of the optimizer that make a variant; `total` steps."""
    half = max(1, total // 2)
    cycle = optimizers.WarmupSchedule(learning_rate, half, half // 10)
    return {
        "LU": {},
        "UU": {},
        "delay": {"image_multiplier": optimizers.Delay(half)},
        "slow": {"image_multiplier": 0.1},
        "delay and slow": {"image_multiplier": optimizers.Delay(half, 0.1)},
        "sigmoid": {"image_multiplier": optimizers.SigmoidRamp(half, total / 10)},
        "two cycles": {
            "learning_rate": optimizers.Cycles(cycle, half),
            "image_multiplier": optimizers.Delay(half),
        },
    }[variant]


if __name__ == "__main__":
    main()

"""Local against global loss, and the batch size: the paper's Figure 9.

    python examples/studies/batch_size.py

The locked tower's features are computed once. "global 256" contrasts all 256 pairs of a batch,
"local 256/8" spreads the batch over 8 replicas (logical devices of this CPU), each of which
contrasts its own 32 only. All see as many pairs; the text tower is the average of the embeddings of
a caption's pieces, and every batch size gets the best of LEARNING_RATES (on the validation part).
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import full
import runner
import stamps
import tensorflow as tf

REPLICAS = (1, 2, 4, 8)
BATCHES = (32, 64, 128, 256, 512)
FULL_BATCHES = (1_024, 4_096, 16_384, 32_768)
LEARNING_RATES = (1e-3, 3e-3)


def main() -> None:
    """Trains, measures, reports."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        devices = [tf.config.LogicalDeviceConfiguration()] * max(REPLICAS)
        tf.config.set_logical_device_configuration(cpu, devices)
    args = full.parser(__doc__, image_size=224, rounds=1, epochs=60, tags=0.5).parse_args()
    if args.full:
        recipe = full.recipe_of(args)
        pairs = recipe.batch_size * recipe.steps
        sizes = {size: {"batch_size": size, "steps": pairs // size} for size in FULL_BATCHES}
        full.run(
            "batch_size",
            args,
            {
                f"{kind} {size}": {"changes": changes, "local_loss": kind == "local"}
                for kind in ("global", "local")
                for size, changes in sizes.items()
            },
        )
        return
    image_tower, data = stamps.locked(args)
    strategies = {count: mirrored(count) for count in REPLICAS[1:]}
    variants = [f"global {batch}" for batch in BATCHES]
    variants += [f"local 256/{count}" for count in REPLICAS[1:]] + ["global 256/8"]

    def train(variant: str, seed: int) -> list[runner.Point]:
        kind, batch, count = *variant.replace("/", " ").split()[:2], variant.partition("/")[2]
        args.batch_size = int(batch)
        strategy = strategies[int(count)] if count else tf.distribute.get_strategy()
        with strategy.scope():
            return stamps.best_rate(
                data,
                image_tower,
                stamps.bag_of_pieces,
                seed,
                LEARNING_RATES,
                args,
                local_loss=kind == "local",
            )

    results = runner.run("batch_size", args, variants, train)
    metrics = {"mean_recall": "mean of the six recalls, %", "zero_shot": "zero-shot accuracy, %"}
    runner.report("batch_size", args, results, metrics, x=None)


def mirrored(count: int) -> tf.distribute.MirroredStrategy:
    """A strategy over logical CPU devices."""

    class Mirrored(tf.distribute.MirroredStrategy):
        # Strategies over other devices in the same process must not share their groups' keys.
        _collective_key_base = 100_000 * count

    return Mirrored([f"CPU:{i}" for i in range(count)])


if __name__ == "__main__":
    main()

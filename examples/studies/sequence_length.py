"""How many tokens of a caption to read: the paper's Figure 8.

    python examples/studies/sequence_length.py

The image tower is locked, the text tower the lower half of MiniLM, cut to 4 to 32 tokens ([CLS] and
[SEP] included). Seven in ten of the stamps' captions have at most three words, before the tag.
"""

import full
import runner
import stamps

LENGTHS = (4, 6, 8, 16, 32)
LEARNING_RATE = 1e-3


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(
        __doc__, image_size=224, rounds=1, epochs=4, batch_size=64, tags=0.5
    ).parse_args()
    if args.full:
        changes = {f"{n} tokens": {"changes": {"sequence_length": n}} for n in (*LENGTHS, 64)}
        full.run("sequence_length", args, changes)
        return
    image_tower, data = stamps.locked(args)

    def train(variant: str, seed: int) -> list[runner.Point]:
        text_tower = stamps.lower_half_of_minilm(int(variant.split()[0]))
        return stamps.tune(data, image_tower, text_tower, "LU", seed, LEARNING_RATE, args)

    variants = [f"{length} tokens" for length in LENGTHS]
    results = runner.run("sequence_length", args, variants, train)
    runner.report("sequence_length", args, results, stamps.TEST_METRICS, x=None)


if __name__ == "__main__":
    main()

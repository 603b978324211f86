"""Filters of captions, and pictures that are also in the test set: the paper's Tables 5 and 10.

    python examples/studies/filters.py

"all" trains on every stamp; "no twins" leaves out those whose features are near a test picture's
(as the paper leaves out 3.6M pictures), "train and test" those near another training picture's as
well; "ALIGN's length" keeps captions of 3 to 20 words, "3 words at most" the shortest. The image
tower is locked, the text tower averages a caption's pieces; the best of LEARNING_RATES counts.
"""

import full
import numpy as np
import runner
import stamps
import tensorflow as tf

from keras_lit.data import duplicates, filters

VARIANTS = ("all", "no twins", "no twins, train and test", "ALIGN's length", "3 words at most")
LENGTHS = {
    "ALIGN's length": filters.text_length(3, 20),
    "3 words at most": filters.text_length(1, 3),
}
LEARNING_RATES = (1e-3, 3e-3)


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(
        __doc__, image_size=224, rounds=1, epochs=60, batch_size=128, tags=0.5, similarity=0.6
    ).parse_args()
    if args.full:
        lengths = {variant: {"keep": rule.keep} for variant, rule in LENGTHS.items()}
        full.run("filters", args, {"all": {}, **lengths})
        return
    image_tower, data = stamps.locked(args)
    keep = {variant: kept(variant, data, args.similarity) for variant in VARIANTS}

    def train(variant: str, seed: int) -> list[runner.Point]:
        curve = stamps.best_rate(
            data.only(keep[variant]), image_tower, stamps.bag_of_pieces, seed, LEARNING_RATES, args
        )
        return [{**point, "pictures": float(keep[variant].sum())} for point in curve]

    results = runner.run("filters", args, VARIANTS, train)
    metrics = {"pictures": "pictures left", **stamps.TEST_METRICS}
    runner.report("filters", args, results, metrics, x=None)


def kept(variant: str, data: stamps.Stamps, similarity: float) -> np.ndarray:
    """Which training pictures a variant keeps: [pictures] bool."""
    stay = np.ones(len(data.train["text"]), bool)
    if variant.startswith("no twins"):
        near = {"min_similarity": similarity, "whiten": 1.0}
        references = data.test["features"]
        found = duplicates.match_embeddings(data.train["features"], references, **near)
        stay[found.queries] = False
        if "train" in variant:
            stay[duplicates.match_embeddings(data.train["features"], **near).queries] = False
    elif variant != "all":
        rule = LENGTHS[variant]
        stay = np.array([bool(rule.keep({"text": tf.constant(t)})) for t in data.train["text"]])
    return stay


if __name__ == "__main__":
    main()

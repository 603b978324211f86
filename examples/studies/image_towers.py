"""Image towers, their pre-training, and a head on them: the paper's Tables 3 and 6.

    python examples/studies/image_towers.py

Locked towers of one family: EfficientNet-Lite0 at 224 pixels, at fewer, from scratch, and with a
trained linear head of 128 or 512; EfficientNet-Lite2, which is larger. The text tower averages the
embeddings of a caption's pieces; each image tower gets the best of LEARNING_RATES (on validation).
"""

import functools

import full
import runner
import stamps

import keras_lit

LEARNING_RATES = (1e-3, 3e-3)
VARIANTS = {
    "Lite0, 224 px": {},
    "Lite0, 128 px": {"image_size": 128},
    "Lite0, 64 px": {"image_size": 64},
    "Lite0, from scratch": {"scratch": True},
    "Lite0, head of 128": {"image_head": 128},
    "Lite0, head of 512": {"image_head": 512},
    "Lite2, 224 px": {"make": "efficientnet_lite2"},
    "Lite2, 256 px": {"make": "efficientnet_lite2", "image_size": 256},
}


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(__doc__, rounds=1, epochs=60, batch_size=128, tags=0.5).parse_args()
    if args.full:
        presets = (args.backbone or "").split(",")
        heads = {"": False, ", head": True}
        full.run(
            "image_towers",
            args,
            {
                f"{preset}{title}": {"backbone": preset, "changes": {"image_head": head}}
                for preset in presets
                for title, head in heads.items()
            },
        )
        return

    @functools.cache
    def features(
        make: str = "efficientnet_lite0", image_size: int = 224, scratch: bool = False
    ) -> stamps.Stamps:
        tower = getattr(keras_lit.demo.pretrained, make)(image_size, resize="pad", antialias=True)
        return stamps.Stamps(args, tower.reinitialized() if scratch else tower, pixels=False)

    def train(variant: str, seed: int) -> list[runner.Point]:
        settings = dict(VARIANTS[variant])
        head = settings.pop("image_head", None)
        data = features(**settings)
        image_tower = keras_lit.ImageTower.from_features(data.train["features"].shape[1])
        return stamps.best_rate(
            data, image_tower, stamps.bag_of_pieces, seed, LEARNING_RATES, args, image_head=head
        )

    results = runner.run("image_towers", args, VARIANTS, train)
    runner.report("image_towers", args, results, stamps.TEST_METRICS, x=None)


if __name__ == "__main__":
    main()

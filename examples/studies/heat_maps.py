"""Where in a picture a sentence is: heat maps of collages, dino.txt's question on stamps.

    python examples/studies/heat_maps.py

EfficientNet-Lite0, locked and pooled by the mean, and MiniLM get heads in closed form on the
training stamps (nine tenths of them, another draw for each seed). Collages put four test stamps
into four of the 4 x 4 places of a white picture; the alpha of each stamp is its mask. The picture
is shown at several sizes: the larger, the finer the grid, at the same weights. A heat map points
well where its highest point is in its stamp's place, and better where it is on the stamp itself.
The first collages are drawn with their heat maps.
"""

import functools

import keras
import numpy as np
import runner
import stamps
import tensorflow as tf

import keras_lit
from keras_lit.evaluation import heat_maps, pointing_accuracy, sheets

SIZES = {"224 px": 224, "448 px": 448, "896 px": 896}
METRICS = {
    "place_accuracy": "highest in the stamp's place, %",
    "place_chance": "chance, %",
    "pointing_accuracy": "highest on the stamp, %",
    "pointing_chance": "chance of that, %",
    "mean_recall": "mean of six recalls, %",
}


def collage(stamps: list[np.ndarray], places: np.ndarray, size: int) -> tuple:
    """[size, size, 3] uint8 pixels of RGBA pictures in places of a 4 x 4 grid, and their masks."""
    side, pixels = size // 4, np.full([size, size, 3], 255, "uint8")
    masks = np.zeros([len(stamps), size, size], bool)
    for mask, stamp, place in zip(masks, stamps, places, strict=True):
        scaled = tf.image.resize(
            stamp, [side, side], preserve_aspect_ratio=True, antialias=True
        ).numpy()
        colours, alpha = scaled[..., :3], scaled[..., 3:] / 255
        height, width = alpha.shape[:2]
        top, left = place // 4 * side + (side - height) // 2, place % 4 * side + (side - width) // 2
        inside = slice(top, top + height), slice(left, left + width)
        pixels[inside] = (alpha * colours + (1 - alpha) * pixels[inside]).round()
        mask[inside] = alpha[..., 0] > 0.5
    return pixels, masks


def collages(rows: list[tuple], count: int, size: int, seed: int) -> list[tuple]:
    """(pixels, masks, captions, masks of the whole places) of four stamps each."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        chosen = [rows[i] for i in rng.choice(len(rows), 4, replace=False)]
        places = rng.choice(16, 4, replace=False)
        pixels, masks = collage([x for x, _ in chosen], places, size)
        whole = np.kron(np.eye(16)[places].reshape(-1, 4, 4), np.ones([size // 4] * 2)) > 0
        found.append((pixels, masks, [caption for _, caption in chosen], whole))
    return found


def picture(shown: list[tuple[np.ndarray, list[str], np.ndarray]]) -> np.ndarray:
    """Rows of a collage and its heat maps, with the sentences on standard output."""
    rows = []
    for pixels, captions, maps in shown:
        print(" | ".join(captions))
        tiles = [pixels, *(sheets.heat_picture(pixels, x) for x in maps)]
        rows.append(np.concatenate([tf.image.resize(x, [224, 224]).numpy() for x in tiles], 1))
    return np.concatenate(rows)


def main() -> None:
    """Aligns, points, reports."""
    args = runner.parser(__doc__, collages=40, shown=4).parse_args()
    builder = keras_lit.data.TuxPaintStamps(data_dir=args.data_dir)
    tower = keras_lit.demo.efficientnet_lite0(224, resize="pad", antialias=True)
    data = stamps.Stamps(args, tower, pixels=False)
    test = builder.as_dataset(split="test").take(args.limit or -1).as_numpy_iterator()
    rows = [(x["image"], x["caption"].decode()) for x in test]
    # Some stamps are pictures of almost nothing: at 56 pixels a mask would be empty.
    rows = [row for row in rows if (row[0][..., 3] > 127).mean() > 0.05]

    @functools.cache
    def aligned(seed: int) -> tuple[keras_lit.LiT, float]:
        model = keras_lit.LiT(tower, keras_lit.demo.minilm(), "LL")
        training, _ = data.parts(seed)
        some = stamps.rows_of(data.train, training)
        model.align({"image_features": some["features"], "text": some["text"]}, verbose=0)
        return model, stamps.measure(model, data.test, locked=True)["mean_recall"]

    def train(variant: str, seed: int) -> list[runner.Point]:
        model, recall = aligned(seed)
        size = SIZES[variant]
        large = keras_lit.ImageTower(tower.backbone, preprocessor=sized(tower, size))
        large.add_head(model.image_tower.embedding_dim)
        large.head.set_weights(model.image_tower.head.get_weights())
        large = keras_lit.LiT(large, model.text_tower, "LL")
        found = collages(rows, args.collages, size, seed)
        maps = [heat_maps(large, pixels, captions) for pixels, _, captions, _ in found]
        if seed == 0:
            shown = [(x, y, z) for (x, _, y, _), z in zip(found, maps, strict=True)][: args.shown]
            path = args.output / f"heat_maps_{size}.png"
            keras.utils.save_img(path, picture(shown), scale=False)
            print(f"Heat maps are in {path}.")
        every = np.concatenate(maps)
        on_stamps = pointing_accuracy(every, np.concatenate([x for _, x, _, _ in found]))
        in_places = pointing_accuracy(every, np.concatenate([x for _, _, _, x in found]))
        in_places = {name.replace("pointing", "place"): x for name, x in in_places.items()}
        points = {name: 100 * x for name, x in {**on_stamps, **in_places}.items()}
        return [{"mean_recall": recall, **points}]

    results = runner.run("heat_maps", args, SIZES, train)
    runner.report("heat_maps", args, results, METRICS, x=None)


def sized(tower: keras_lit.ImageTower, size: int) -> keras_lit.preprocessing.ImagePreprocessor:
    """A tower's preprocessing, at another size."""
    config = {**tower.preprocessor.get_config(), "image_size": (size, size), "name": None}
    return keras_lit.preprocessing.ImagePreprocessor.from_config(config)


if __name__ == "__main__":
    main()

"""Zero-shot segmentation: each pixel gets the class whose text is closest to its patch."""

import contextlib
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_lit.evaluation import sheets
from keras_lit.evaluation.patch_maps import enlarged, maps_of, of_patches, pointing_accuracy
from keras_lit.evaluation.results import Result
from keras_lit.evaluation.zero_shot import zero_shot_weights
from keras_lit.losses.global_batch import EPSILON
from keras_lit.model import LiT
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.preprocessing.image import out_of_range
from keras_lit.training import batches, pictures

_ORIENTATION = 274  # EXIF's number of it; above 4 the sides are exchanged.
IGNORED = 255  # In masks of Pascal VOC, ADE20K and Cityscapes.


def segment(
    model: LiT,
    pairs: Any,
    class_names: Sequence[str],
    templates: Sequence[str] = ("{}",),
    dataset: str = "",
    pictures: int = 4,
    verbose: int = 1,
) -> Result:
    """Zero-shot segmentation of pictures with masks.

    Masks are resized as the tower's preprocessing resizes the picture: what "crop" cuts off does
    not count. Heat maps are enlarged to the size of the tower's pictures, bilinearly. A class as
    near as the right one (to 1e-6) comes before it.

    Args:
        model: a `LiT` whose image tower has `patch_embeddings`.
        pairs: a folder, as for `read_masks`; or (image, mask), or {"image", "mask"}: images as for
            `heat_maps`, masks [height, width] int arrays of class numbers, with 255 for what does
            not count.
        class_names: names of the classes 0, 1, ...
        templates: prompts with one `{}`.
        dataset: str, its name in the report.
        pictures: int, how many to show in the report, with heat maps of up to four classes.
        verbose: 0 or 1: a progress bar.

    Returns:
        A `Result` with "mean_iou" (over the classes that occur in a mask or a prediction),
        "pixel_accuracy", and for each class in each picture "pointing_accuracy" and
        "pointing_chance".

    Raises:
        ValueError: no pictures; a mask with other numbers or sides; more than 255 classes; as
            `heat_maps`.

    Example:

    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 32, strides=32)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a dog", "a cat"], 40)
    >>> backbone = keras_lit.backbones.TextTransformer(40, 16, 8, 1, 16, 2)
    >>> model = keras_lit.LiT(tower, keras_lit.TextTower(backbone, tokenizer))
    >>> pairs = [(np.zeros([60, 80, 3], "uint8"), np.zeros([60, 80], int))]
    >>> result = keras_lit.evaluation.segment(model, pairs, ["dog", "cat"], verbose=0)
    >>> [*result.metrics]
    ['mean_iou', 'pixel_accuracy', 'pointing_accuracy', 'pointing_chance']

    Reference: dino.txt (arXiv 2412.16334), section 4.3.
    """
    if isinstance(pairs, str | os.PathLike):
        pairs = read_masks(pairs)
    if len(class_names) > IGNORED:
        raise ValueError(
            f"There should be at most {IGNORED} classes, as {IGNORED} in a mask is what does not "
            f"count. Received: {len(class_names)}."
        )
    texts = of_patches(model, zero_shot_weights(model.encode_text, class_names, templates))
    preprocessor = model.image_tower.preprocessor
    confusion = np.zeros([len(class_names)] * 2, int)
    hits: list[dict[str, float]] = []
    shown: list[sheets.HeatRow] = []
    try:
        count = len(pairs)
    except TypeError:  # It has none, as a dataset of unknown length.
        count = None
    progress = keras.utils.Progbar(count, verbose=verbose)
    for number, row in enumerate(pairs):
        image, given = (row["image"], row["mask"]) if isinstance(row, Mapping) else row
        mask = _checked(given, class_names, number)
        _check_sides(image, mask, preprocessor, number)
        truth = in_view(preprocessor, mask)
        maps = maps_of(model, image, texts)
        large, known = enlarged(maps, truth.shape), truth != IGNORED
        right = np.where(known, truth, 0)[np.newaxis]
        # Another class that is as near comes before the right one.
        np.put_along_axis(large, right, np.take_along_axis(large, right, 0) - EPSILON, 0)
        np.add.at(confusion, (truth[known], large.argmax(axis=0)[known]), 1)
        present = np.unique(truth[known])
        hits += [pointing_accuracy(maps[[i]], (truth == i)[np.newaxis]) for i in present]
        if len(shown) < pictures:
            pixels = _pixels(model, image)
            names = [(class_names[i], sheets.heat_picture(pixels, maps[i])) for i in present[:4]]
            shown.append(sheets.HeatRow(pixels, names))
        progress.add(1)
    if not hits:
        raise ValueError("There should be a picture with a mask. Received none.")
    metrics = {
        "mean_iou": mean_iou(confusion),
        "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
        **{name: float(np.mean([hit[name] for hit in hits])) for name in hits[0]},
    }
    settings = {
        "classes": len(class_names),
        "grid": "x".join(map(str, model.image_tower.grid)),
        "template": templates[0],
    }
    task: Literal["zeroshot_segmentation"] = "zeroshot_segmentation"
    return Result(dataset, task, metrics, number + 1, settings, heat_maps=shown)


def mean_iou(confusion: np.ndarray) -> float:
    """The mean over classes of intersection over union.

    Args:
        confusion: [classes, classes] int array: how many pixels of each class (rows) were
            predicted as each class (columns). Classes that occur in neither do not count.

    Returns:
        A float in 0..1.

    Raises:
        ValueError: another shape, or no pixels.

    Example:

    >>> keras_lit.evaluation.mean_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))  # 3/4, 2/3
    0.7083333333333333
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or len({*confusion.shape}) != 1 or not confusion.sum() > 0:
        raise ValueError(
            "`confusion` should hold counts of pixels [classes, classes], some above 0. Received: "
            f"shape {confusion.shape}, sum {confusion.sum()}."
        )
    intersection = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return float((intersection[union > 0] / union[union > 0]).mean())


def read_masks(folder: str | os.PathLike) -> list[tuple[str, str]]:
    """Pairs the files of a folder "images" with those of equal stem in a folder "masks".

    Args:
        folder: holds images/street.jpg and masks/street.png, and so on. A mask is a picture with
            one channel, or with a palette as in Pascal VOC, whose values are classes.

    Returns:
        [(image, mask)], names of files, sorted.

    Raises:
        FileNotFoundError: no such folders, or an image without a mask.
        ValueError: several masks for an image.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> for part in ("images", "masks"):
    ...     tf.io.gfile.makedirs(f"{folder}/{part}")
    ...     keras.utils.save_img(f"{folder}/{part}/1.png", np.zeros([8, 8, 1]), scale=False)
    >>> len(keras_lit.evaluation.read_masks(folder))
    1
    """
    images, masks = (pathlib.Path(folder) / name for name in ("images", "masks"))
    if not (images.is_dir() and masks.is_dir()):
        raise FileNotFoundError(
            f'{str(folder)!r} should hold two folders, "images" and "masks", with files of equal '
            "stems."
        )
    found = sorted(path for path in masks.iterdir() if not path.name.startswith("."))
    of_stems = {path.stem: path for path in found}
    if len(found) > len(of_stems):
        twice = [path.name for path in found if of_stems[path.stem] != path]
        raise ValueError(
            f"There should be one mask of each stem in {str(masks)!r}. There are others beside "
            f"{', '.join(twice[:5])}: keep one."
        )
    names = sorted(path for path in images.iterdir() if not path.name.startswith("."))
    if missing := [path.name for path in names if path.stem not in of_stems]:
        raise FileNotFoundError(
            f"{len(missing)} images have no mask in {str(masks)!r}: {', '.join(missing[:5])}. Add "
            "them, or move the images away."
        )
    return [(str(path), str(of_stems[path.stem])) for path in names]


def in_view(preprocessor: ImagePreprocessor, mask: np.ndarray) -> np.ndarray:
    """[height, width] -> [*image_size]: the mask as the picture is resized, the rest `IGNORED`."""
    sides = [np.array(x, float) for x in (mask.shape, preprocessor.image_size)]
    size, wanted = sides
    if preprocessor.resize == "stretch":
        scaled = wanted
    elif preprocessor.resize == "pad":
        scaled = np.clip(np.round(size * (wanted / size).min()), 1, wanted)
    else:
        factor = (wanted / size).max() / preprocessor.crop_fraction
        scaled = np.maximum(np.floor(size * factor + 1e-3), wanted)
    first = np.where(scaled > wanted, -((scaled - wanted) // 2), (wanted - scaled) // 2)
    places = [
        np.floor((np.arange(n) + 0.5 - start) * old / new).astype(int)
        for n, start, old, new in zip(preprocessor.image_size, first, size, scaled, strict=True)
    ]
    inside = [(x >= 0) & (x < n) for x, n in zip(places, mask.shape, strict=True)]
    rows, columns = (np.clip(x, 0, n - 1) for x, n in zip(places, mask.shape, strict=True))
    return np.where(np.logical_and.outer(*inside), mask[np.ix_(rows, columns)], IGNORED)


def _checked(mask: Any, class_names: Sequence[str], number: int) -> np.ndarray:
    """[height, width] int array, of a file or an array."""
    name = f"Mask {number}"
    if isinstance(mask, str | os.PathLike):
        import PIL.Image

        name = str(mask)
        with PIL.Image.open(mask) as picture:  # Of a palette the indices, not the colours.
            mask = np.array(picture)
    mask = np.asarray(mask)
    others = set(np.unique(mask).tolist()) - {*range(len(class_names)), IGNORED}
    if mask.ndim != 2 or others:
        raise ValueError(
            f"{name} should be [height, width] of 0 to {len(class_names) - 1}, the classes, or "
            f"{IGNORED}. Received: shape {mask.shape}, other numbers: {sorted(others)[:5]}."
        )
    return mask.astype(int)


def _check_sides(image: Any, mask: np.ndarray, preprocessor: ImagePreprocessor, n: int) -> None:
    """Raises ValueError where a mask has another ratio of sides than its picture, seen upright."""
    import PIL.Image

    if tf.is_tensor(image) and image.dtype == tf.string and image.shape.rank == 0:
        image = image.numpy()
    if isinstance(image, str | os.PathLike | bytes) or pictures.is_pil(image):
        try:
            file = io.BytesIO(image) if isinstance(image, bytes) else image
            is_open = pictures.is_pil(image)
            with contextlib.nullcontext(image) if is_open else PIL.Image.open(file) as picture:
                sides = picture.size[::-1]
                turned = picture.getexif().get(_ORIENTATION, 1) > 4
        except (OSError, ValueError):  # What it cannot read, TensorFlow may, or says why not.
            return
        sides = sides[::-1] if turned and preprocessor.exif_orientation else sides
    elif len(sides := tuple(getattr(image, "shape", ()))[:2]) != 2:
        return
    # As far as rounding to whole pixels goes.
    if abs(sides[0] * mask.shape[1] - sides[1] * mask.shape[0]) > max(*sides, *mask.shape):
        name = image if isinstance(image, str | os.PathLike) else f"picture {n}"
        raise ValueError(
            f"A mask should have the shape of its picture, turned upright as EXIF says, or be "
            f"enlarged or reduced as a whole. Received: {mask.shape} for {sides} of {name}."
        )


def _pixels(model: LiT, image: Any) -> np.ndarray:
    """A picture as the tower sees it, in 0..255."""
    (ready,) = batches.of_images(image, model.image_tower, 1)
    return out_of_range(ready[0].numpy(), model.image_tower.preprocessor.value_range)

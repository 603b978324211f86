"""Pairs from TensorFlow Datasets, whose import takes a second: not part of `import keras_lit`.

Importing this registers keras_lit's own datasets with it.
"""

import importlib
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lit.data.tables import IMAGE_COLUMNS, NAME_COLUMNS, TEXT_COLUMNS, column
from keras_lit.data.web_captions import CC12M, YFCC100MCLIP

__all__ = ["CC12M", "YFCC100MCLIP", "TuxPaintStamps", "builder", "is_name", "pairs_of"]

# Named and not imported by a statement: the demo's room stands above this one.
TuxPaintStamps = importlib.import_module("keras_lit.demo.tux_paint").TuxPaintStamps
"""Tux Paint's stamps, as a tfds builder: see `keras_lit.demo.tux_paint.TuxPaintStamps`."""


def builder(name: str, data_dir: Any = None) -> tfds.core.DatasetBuilder:
    """The builder of a dataset by name."""
    return tfds.builder(name, data_dir=data_dir)


def is_name(source: str) -> bool:
    """Whether there is such a dataset; its configuration may follow a "/"."""
    return source.split("/")[0] in tfds.list_builders(with_community_datasets=False)


def pairs_of(
    builder: tfds.core.DatasetBuilder,
    split: Any,
    image_key: str | None,
    text_key: str | None,
    shard: tuple[int, int] | None,
) -> tf.data.Dataset:
    """{"image": encoded, "text": [captions], "name"} of the rows of a dataset."""
    builder.download_and_prepare()
    if shard is not None:
        split = tfds.even_splits(split, shard[1])[shard[0]]
    features = _flat(builder.info.features)
    image_key = column(features, image_key, IMAGE_COLUMNS, "image_key", builder.name)
    text_key = column(features, text_key, TEXT_COLUMNS, "text_key", builder.name)
    name_key = next((key for key in NAME_COLUMNS if key in features and key != image_key), None)
    if not isinstance(features[image_key], tfds.features.Image):
        raise ValueError(f"{builder.name}: {image_key!r} is no image. Pass `image_key`.")
    dataset = builder.as_dataset(
        split=split, decoders={image_key: tfds.decode.SkipDecoding()}, shuffle_files=False
    )

    def pair(number: tf.Tensor, example: dict[str, Any]) -> dict[str, tf.Tensor]:
        name = tf.strings.as_string(_get(example, name_key) if name_key else number)
        if not name_key:
            name = f"{builder.name}/{split}/" + name
        texts = tf.reshape(_get(example, text_key), [-1])
        return {"image": example[image_key], "text": texts, "name": name}

    return dataset.enumerate().map(pair)


def _flat(features: Any, prefix: str = "") -> dict[str, Any]:
    """{"captions/text": feature, ...}; a list of features goes by the name of its content."""
    if isinstance(features, tfds.features.Sequence):
        return _flat(features.feature, prefix)
    if not isinstance(features, tfds.features.FeaturesDict):
        return {prefix: features}
    flat = {}
    for name, feature in features.items():
        flat.update(_flat(feature, f"{prefix}/{name}" if prefix else name))
    return flat


def _get(example: dict[str, Any], key: str) -> Any:
    for part in key.split("/") if key not in example else [key]:
        example = example[part]
    return example

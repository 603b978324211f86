"""What a reader of the documents has at hand, and small towers in place of those of a hub."""

import functools
import pathlib
import tarfile

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit

CAPTIONS = ["a red balloon", "a toucan", "two dogs in the snow", "the sea"] * 4


@functools.cache
def images():
    """Sixteen PNGs of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, [16, 20, 20, 3]).astype("uint8")
    return [tf.io.encode_png(image).numpy() for image in pixels]


def write_files(folder):
    """Two photos, a folder and a table of 16 captioned ones, shards, class folders, a classifier."""
    files = {"a.jpg": images()[0], "b.png": images()[1], "shards/00.tar": b""}
    rows = ["image,caption"]
    for i, (image, caption) in enumerate(zip(images(), CAPTIONS, strict=True)):
        files[f"photos/{i}.png"], files[f"photos/{i}.txt"] = image, caption.encode()
        files[f"animals/{('cat', 'polar_bear')[i % 2]}/{i}.png"] = image
        rows.append(f"{i}.png,{caption}")
    files["captions.csv"] = "\n".join(rows).encode()
    for name, content in files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with tarfile.open(pathlib.Path(folder, "shards/00.tar"), "w") as shard:
        for path in sorted(pathlib.Path(folder, "photos").iterdir()):
            shard.add(path, path.name)
    layers = [keras.Input([32, 32, 3]), keras.layers.Conv2D(4, 3, strides=2)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    keras.Sequential(layers).save(pathlib.Path(folder, "classifier.keras"))


def image_tower(**options):
    """In place of `demo.efficientnet_lite0`."""
    backbone = keras.Sequential([keras.Input([32, 32, 3]), keras.layers.Conv2D(16, 3, strides=4)])
    preprocessor = keras_lit.preprocessing.ImagePreprocessor(32, **options)
    return keras_lit.ImageTower(backbone, preprocessor=preprocessor)


def text_tower():
    """In place of `demo.universal_sentence_encoder`."""
    tokenizer = keras_lit.tokenizers.train_wordpiece(CAPTIONS, 60)
    backbone = keras_lit.backbones.TextTransformer(tokenizer.vocabulary_size(), 16, 16, 1, 32, 2)
    return keras_lit.TextTower(backbone, tokenizer)


class FewPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """In place of `demo.OpenPictures`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in ("train", "test")}

    def _generate_examples(self, name):
        pixels = [tf.io.decode_png(image).numpy() for image in images()]
        for i in range(100 if name == "train" else 16):
            caption = f"{CAPTIONS[i % 16]} of {name} number {i}"
            yield i, {"image": pixels[i % 16], "caption": caption}

"""SavedModel artifacts for TF Serving: strings and image bytes in, embeddings out."""

import os
import pathlib
import shutil
import tempfile

import keras
import tensorflow as tf

from keras_lit.model import LiT, unit_length


def save(model: LiT, directory: str | os.PathLike, version: int | None = None) -> pathlib.Path:
    """Writes `directory/<version>/`, a SavedModel that takes raw strings and image bytes.

    Its signatures are `encode_image` (`image_bytes`: string [n] -> `embedding`: float32 [n, dim])
    and `encode_text` (`text`: string [n] -> `embedding`); `serving_default` is `encode_text`. The
    artifact is written under another name and renamed, so that a server that polls the directory
    never sees half of it.

    Args:
        model: a `LiT` whose text tower has a tokenizer.
        directory: where the versions of the model live.
        version: a positive int; None takes the one after the highest.

    Returns:
        The path of the version.

    Raises:
        ValueError: the text tower has no tokenizer; the version exists or is not positive.

    Example: `keras_lit.export.save(model, "models/lit")`.
    """
    if model.text_tower.preprocessor is None:
        raise ValueError(
            "An artifact takes raw text, so the text tower needs a tokenizer: "
            "`TextTower(..., tokenizer=...)`."
        )
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if version is None:
        taken = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
        version = max(taken, default=0) + 1
    path = directory / str(int(version))
    if version <= 0 or path.exists():
        raise ValueError(
            f"`version` should be a positive number that {directory} does not hold yet. Received: "
            f"{version}. Pass None for the next free one."
        )
    # Servers look for directories with integer names only.
    working = pathlib.Path(tempfile.mkdtemp(prefix=f"tmp-{version}-", dir=directory))
    try:
        _write(model, working / "model")
        (working / "model").rename(path)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return path


def _write(model: LiT, path: pathlib.Path) -> None:
    image_tower, text_tower = model.image_tower, model.text_tower

    def encode_image(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = image_tower.preprocessor(image_bytes)
        return {"embedding": unit_length(image_tower(images))}

    def encode_text(text: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids = text_tower.preprocessor(text)
        return {"embedding": unit_length(text_tower(token_ids))}

    text_tower.preprocessor(["keras-nlp's tokenizers make their tables when first called"])
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(text_tower.preprocessor.tokenizer)
    text = tf.TensorSpec([None], tf.string, name="text")
    for name, endpoint, spec in (
        ("encode_image", encode_image, tf.TensorSpec([None], tf.string, name="image_bytes")),
        ("encode_text", encode_text, text),
        ("serving_default", encode_text, text),
    ):
        archive.add_endpoint(name, endpoint, input_signature=[spec])
    archive.write_out(str(path), verbose=False)

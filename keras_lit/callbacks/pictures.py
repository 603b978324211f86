"""Pictures for TensorBoard: contact sheets, matrices of similarities, the embedding projector."""

import os
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, evaluation
from keras_lit.evaluation import sheets


class RetrievalPictures(keras.callbacks.Callback):
    """Writes to TensorBoard what a model finds, as it trains.

    At the chosen epochs: "contact_sheet", a line for each query with its five nearest pictures
    (green: right), and the queries as text; "similarity", the matrix of the first pairs, texts
    across. At the end of training: embeddings of pictures and texts for the projector. Logs
    nothing for other callbacks.

    Args:
        log_dir: of TensorBoard.
        pairs: what `evaluation.ImagesAndTexts` takes, with images (not features).
        queries: int, how many texts, drawn at random, to show.
        matrix: int, how many pairs the similarity matrix shows.
        every_n_epochs: int.
        projector: int, how many pictures and texts to hand to the projector; 0 for none.

    Raises:
        ValueError: pairs that do not suit.

    Example:

    >>> pairs = {"image": np.zeros([2, 8, 8, 3], "uint8"), "text": ["a cat", "a dog"]}
    >>> pictures = keras_lit.callbacks.RetrievalPictures("logs", pairs)

    then `model.fit(..., callbacks=[pictures])` and `tensorboard --logdir logs`.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        pairs: Any,
        queries: int = 8,
        matrix: int = 32,
        every_n_epochs: int = 1,
        projector: int = 1000,
    ):
        super().__init__()
        checks.check_positive(queries, "queries")
        checks.check_positive(every_n_epochs, "every_n_epochs")
        self.log_dir = pathlib.Path(log_dir)
        self.pairs = evaluation.ImagesAndTexts(pairs)
        self.queries = queries
        self.matrix = matrix
        self.every_n_epochs = every_n_epochs
        self.projector = projector
        self.async_safe = True
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._writer = tf.summary.create_file_writer(str(self.log_dir / "pictures"))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if (epoch + 1) % self.every_n_epochs:
            return
        images, texts = self.pairs.embeddings(self.model)
        own = np.arange(len(images))
        rows = sheets.nearest_to_texts(self.pairs, images, texts, own, self.queries)
        first = slice(0, self.matrix)
        similarities = images[self.pairs.image_index[first]] @ texts[first].T
        with self._writer.as_default():
            if rows:
                _write_image("contact_sheet", sheets.sheet_picture(rows), epoch)
                lines = "\n".join(f"1. {row.query}" for row in rows)
                _write("text", "contact_sheet_texts", lines, epoch)
            _write_image("similarity", sheets.similarity_picture(similarities), epoch)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._writer.close()
        if not self.projector:
            return
        images, texts = self.pairs.embeddings(self.model)
        labels = [" ".join(str(text).split()) for text in self.pairs.texts[: self.projector]]
        index = self.pairs.image_index[: self.projector]
        pictures, first = np.unique(index, return_index=True)
        thumbnails = sheets.thumbnails(self.pairs.images, set(pictures.tolist()), 48)
        white = np.full([48, 48, 3], 255, "uint8")
        _write_projector(
            self.log_dir,
            np.concatenate([images[pictures], texts[: self.projector]]),
            [f"picture\t{labels[i]}" for i in first] + [f"text\t{label}" for label in labels],
            [thumbnails.get(i, white) for i in pictures.tolist()] + [white] * len(labels),
        )


def _write_image(tag: str, pixels: np.ndarray, step: int) -> None:
    height, width = pixels.shape[:2]
    _write("images", tag, [str(width), str(height), tf.io.encode_png(pixels)], step)


def _write(plugin: str, tag: str, values: Any, step: int) -> None:
    """What `tf.summary.image` and `text` write; they need TensorBoard to be installed here."""
    data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=data)
    tf.summary.write(tag, tf.convert_to_tensor(values), step, metadata)


def _write_projector(
    directory: pathlib.Path, embeddings: np.ndarray, lines: list[str], thumbnails: list[np.ndarray]
) -> None:
    """Writes [rows, dim] embeddings for the projector; a line is "kind TAB text"."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savetxt(directory / "embeddings.tsv", embeddings, fmt="%.5f", delimiter="\t")
    metadata = "\n".join(["kind\ttext", *lines, ""])
    (directory / "metadata.tsv").write_text(metadata, encoding="utf-8")
    size, side = len(thumbnails[0]), int(np.ceil(np.sqrt(len(thumbnails))))
    sprite = np.full([side * size, side * size, 3], 255, "uint8")
    for i, picture in enumerate(thumbnails):
        top, left = i // side * size, i % side * size
        sprite[top : top + size, left : left + size] = picture
    (directory / "sprite.png").write_bytes(tf.io.encode_png(sprite).numpy())
    (directory / "projector_config.pbtxt").write_text(
        'embeddings {\n  tensor_name: "embeddings"\n  tensor_path: "embeddings.tsv"\n'
        '  metadata_path: "metadata.tsv"\n  sprite {\n    image_path: "sprite.png"\n'
        f"    single_image_dim: {size}\n    single_image_dim: {size}\n  }}\n}}\n"
    )

"""The pictures of the page: indexed in the background, found, and shown small or large."""

import functools
import io
import pathlib
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
import tensorflow as tf

import keras_lit
from keras_lit.data.class_folders import pictures_below
from keras_lit.search import Index
from keras_lit.search.queries import embed

SMALL, LARGE = 400, 1600
# A score in words: by how many standard deviations a picture is nearer than the collection is.
WORDS = ((5.0, "strong match"), (4.0, "good match"), (3.0, "possible match"), (-99.0, "weak match"))
SAME = 0.98  # Of two pictures, from this cosine on.
FEW = 50  # pictures have no deviation to speak of
SAMPLE = 2000
PATIENCE = 60.0  # seconds that a search waits for the first picture


class Found(NamedTuple):
    """A picture that was found, what to call it and how good it is; None: it was not asked for."""

    id: int
    name: str
    cosine: float | None
    words: str


class Sample(NamedTuple):
    """Some of `total` pictures, evenly: [n] ids, n names and [n, dim] vectors."""

    ids: list[int]
    names: list[str]
    vectors: np.ndarray
    total: int


class Collection:
    """A folder of pictures and its index.

    Args:
        model: a `LiT`.
        folder: of the pictures.
        directory: of the index.

    Raises:
        ValueError: no folder, no pictures, or an index of another model.
    """

    def __init__(self, model: keras_lit.LiT, folder: pathlib.Path, directory: pathlib.Path):
        if not folder.is_dir():
            raise ValueError(f"--pictures should be a folder. Received: {str(folder)!r}.")
        self.model, self.folder, self.directory = model, folder, directory
        self.total = len(pictures_below(folder)[0])
        if not self.total:
            raise ValueError(f"--pictures should hold pictures. Received: {str(folder)!r}.")
        self.finished, self.error = False, ""
        self._index: Index | None = None
        self._sample: Sample | None = None
        # What may be shown: pictures that the index has named, and no other file.
        self._paths: dict[int, pathlib.Path] = {}
        self.index()

    def start(self) -> None:
        """Brings the index up to date in the background."""
        threading.Thread(target=self.update, daemon=True).start()

    def update(self) -> None:
        """Brings the index up to date; what goes wrong is kept in `error`."""
        try:
            # What encodes pictures is compiled before the first visitor has one.
            self.encode([tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy()])
            Index.build(self.model, self.folder, self.directory)
        except Exception as error:  # The page goes on with what there is, and says so.
            self.error = str(error)
            print(f"Error: {error}")
        self._sample = None
        self.finished = True

    def index(self) -> Index | None:
        """The index, as soon as there is one."""
        if self._index is None:
            try:
                self._index = Index(self.directory, self.model)
            except FileNotFoundError:
                return None
        return self._index

    def sample(self) -> Sample | None:
        """Some of what is indexed, drawn anew as that grows; None before the first is."""
        index = self.index()
        if index is None or not (count := len(index)):
            return None
        if self._sample is None or not 0.9 * count <= self._sample.total <= count:
            ids, names, vectors = index.contents()
            some = np.unique(np.linspace(0, len(ids) - 1, SAMPLE).astype(int))
            names = [names[i] for i in some]
            self._sample = Sample(ids[some].tolist(), names, vectors[some], len(ids))
            self._paths |= {
                i: self.folder / x for i, x in zip(self._sample.ids, names, strict=True)
            }
        return self._sample

    def examples(self, count: int) -> list[Found]:
        """Pictures to begin with, evenly over the collection."""
        if (sample := self.sample()) is None:
            return []
        some = np.unique(np.linspace(0, len(sample.ids) - 1, count + 2).astype(int))[1:-1]
        return [Found(sample.ids[i], shown(sample.names[i]), None, "") for i in some]

    def encode(self, queries: list[Any]) -> np.ndarray:
        """[n, dim] of sentences, files of pictures (bytes) or sums of them.

        Raises:
            ValueError: no text, a picture that does not decode, a sum of nothing.
        """
        return embed(self.model, queries, self.model.image_tower.embedding_dim)

    def search(self, vector: np.ndarray, of_picture: bool, k: int) -> list[Found]:
        """The pictures nearest to an embedding; `of_picture`: to that of a picture alone.

        Where none is indexed yet it waits for the first ones.
        """
        end = time.monotonic() + PATIENCE
        while self.sample() is None and not self.finished and time.monotonic() < end:
            time.sleep(0.2)
        sample, index = self.sample(), self.index()
        if sample is None or index is None:
            return []
        hits = index.search(vector, k)
        self._paths |= {hit.id: self.folder / hit.name for hit in hits}
        cosines = sample.vectors @ vector
        return [
            Found(hit.id, shown(hit.name), hit.score, words(hit.score, cosines, of_picture))
            for hit in hits
        ]

    def read(self, number: int) -> bytes:
        """The file of an indexed picture; an OSError if it has gone."""
        return self._path(number).read_bytes()

    def jpeg(self, number: int, size: int) -> bytes:
        """An indexed picture, uncropped, as a JPEG of at most `size` pixels a side."""
        path = self._path(number)
        return _jpeg(path, size, path.stat().st_mtime_ns)

    def _path(self, number: int) -> pathlib.Path:
        if number not in self._paths:
            raise FileNotFoundError("There is no such picture.")
        return self._paths[number]


@functools.lru_cache(maxsize=2000)
def _jpeg(path: pathlib.Path, size: int, changed: int) -> bytes:
    return as_jpeg(path.read_bytes(), size)


def as_jpeg(content: bytes, size: int) -> bytes:
    """A file of a picture upright, over white and small, without what a camera wrote into it."""
    image = PIL.Image.open(io.BytesIO(content))
    image.draft("RGB", (size, size))  # A large JPEG is decoded small.
    if image.mode.startswith("I"):  # 16 bits, of which PIL would keep the lower 8.
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    image.thumbnail((size, size))
    image = PIL.ImageOps.exif_transpose(image).convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    file = io.BytesIO()
    PIL.Image.alpha_composite(white, image).convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def words(cosine: float, cosines: np.ndarray, of_picture: bool) -> str:
    """What a cosine is worth among those of a sample; nothing where there are few."""
    if of_picture and cosine >= SAME:
        return "the same picture"
    deviation = cosines.std()
    if len(cosines) < FEW or not deviation > 0:
        return ""
    away = (cosine - cosines.mean()) / deviation
    return next(word for least, word in WORDS if away >= least)


def shown(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 become question marks."""
    return name.encode(errors="surrogateescape").decode(errors="replace")

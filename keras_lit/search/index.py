"""`Index`: the pictures of a folder or a dataset, found by sentences, pictures and sums of both."""

import dataclasses
import json
import math
import os
import pathlib
import sqlite3
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tqdm

from keras_lit import checks
from keras_lit.model import LiT
from keras_lit.search import approximate as approximate_lib
from keras_lit.search import filters, sources
from keras_lit.search import queries as queries_lib
from keras_lit.search.approximate import Lists
from keras_lit.search.database import named
from keras_lit.search.scanning import Scanner
from keras_lit.search.store import Snapshot, Store
from keras_lit.search.updating import Changes, update
from keras_lit.search.writing import writing
from keras_lit.towers import encoding, fingerprints
from keras_lit.training import pairs

DTYPES = ("float32", "float16", "int8", "binary")


@dataclasses.dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Args:
        name: str; of a folder the path below it, with slashes.
        score: float, the cosine of the query and the picture.
        id: int, which the picture keeps while it is in the index, renamed or changed.
        path: `pathlib.Path` of the file where the index is of a folder, else None.
        metadata: dict, the other fields of a dataset.

    Example:

    >>> keras_lit.search.Hit("2024/sea.jpg", 0.31, 7)
    Hit(name='2024/sea.jpg', score=0.31, id=7, path=None, metadata={})
    """

    name: str
    score: float
    id: int
    path: pathlib.Path | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Index:
    """An index of pictures on disk, opened to search in it.

    Vectors are memory-mapped, and the query is compared with all of them: the search is exact. One
    process at a time can write (`build`, `update`) while any number search; they see each batch as
    soon as it is complete. A killed process loses no complete batch.

    Args:
        directory: where `build` wrote.
        model: the `LiT` that encodes queries. Its image tower and head should be those that the
            pictures were encoded with; its text tower may have been trained further. None: queries
            are embeddings.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: the pictures were encoded with another image tower; the index is damaged.

    Example:

    >>> folder, directory = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, [3, 8, 8, 3])):
    ...     keras.utils.save_img(f"{folder}/{i}.png", pixels, scale=False)
    >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a red balloon", "the sea"], 27)
    >>> text_tower = keras_lit.TextTower.from_size("Ti", tokenizer)
    >>> model = keras_lit.LiT(keras_lit.ImageTower(backbone), text_tower)
    >>> index = keras_lit.search.Index.build(model, folder, directory, verbose=0)
    >>> len(index), len(index.search("a red balloon", k=2))
    (3, 2)
    >>> hit = index.search(pathlib.Path(folder, "1.png"), k=1)[0]
    >>> hit.name, round(hit.score, 4)
    ('1.png', 1.0)
    >>> os.rename(f"{folder}/0.png", f"{folder}/zero.png")
    >>> index.update(verbose=0)
    Changes(added=0, changed=0, renamed=1, removed=0, encoded=0, refused=0)
    """

    def __init__(self, directory: str | os.PathLike, model: LiT | None = None):
        self._store = Store(_directory(directory))
        self._model = model
        self._checked: tuple[Any, ...] | None = None
        self._searches: tuple[Any, ...] = (None,) * 4
        self._check_if_trained()

    def _check_if_trained(self) -> None:
        """Checks the model, whose weights take a while to read, once and when it has changed."""
        if self._model is None:
            return
        optimizer = getattr(self._model, "optimizer", None)
        steps = 0 if optimizer is None else int(optimizer.iterations)
        now = id(optimizer), steps, *_some_weights(self._model)
        if now != self._checked:
            self.check_model(self._model)
            self._checked = now

    @classmethod
    def build(
        cls,
        model: LiT,
        source: Any,
        directory: str | os.PathLike,
        *,
        dtype: Literal["float32", "float16", "int8", "binary"] = "float32",
        dim: int | None = None,
        approximate: bool | None = None,
        batch_size: int = 64,
        vectors: Mapping[bytes, np.ndarray] | None = None,
        verbose: Any = "auto",
    ) -> "Index":
        """Encodes pictures and writes an index of them, or continues one that was begun.

        Pictures that do not decode are left out with a warning, and listed in `refused`.

        Args:
            model: a `LiT`.
            source: a folder, whose pictures are taken at any depth; or an unbatched
                tf.data.Dataset, or any iterable, of {"image": bytes of a file, uint8 pixels or a
                PIL image, "name": string}, whose other fields are kept as metadata where JSON holds
                them: strings, finite numbers, lists of these.
            directory: where to write.
            dtype: what is compared with the query. "float16", "int8" and "binary" (the sign bits
                of rotated vectors) are stored beside the vectors and scanned in their place, in a
                half, a quarter or a 32nd of the memory; the best are then scored again by the
                vectors themselves, which stay on disk.
            dim: int, how many of the first numbers of each embedding to keep (the model's `dims`
                trains them to do without the others). None: all.
            approximate: bool, whether a query looks only at likely vectors, by faiss (extra
                `[data]`). Pictures added by `update` since the lists were made are searched
                exactly, and so is everything with `where`. None: from 500,000 pictures on, if
                faiss is installed (never for "binary", whose scan is short).
            batch_size: int, how many pictures to encode at a time; each batch is on disk before
                the next one begins.
            vectors: {SHA-256 of a picture's file: [dim] float32 of unit length}, of pictures that
                were encoded elsewhere, as `keras_lit.search.beam.Vectors` gives them.
            verbose: 0, 1 or "auto": a progress bar for more than 10 batches.

        Returns:
            An `Index`.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: no pictures, two of one name, or `directory` holds an index of another
                model, dtype or dim; a `dim` above the width of the embeddings;
                `vectors` of another width.
            RuntimeError: another process is writing to it.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> len(index)
        4
        """
        checks.check_one_of(dtype, DTYPES, "dtype")
        if approximate:
            approximate_lib.check_available()
        identity = _identity(model)
        encoding.check_dim(model.image_tower, dim)
        folder = _folder(source)
        dim = dim or model.image_tower.embedding_dim
        store = Store.create(
            _directory(directory),
            {
                "dim": dim,
                "dtype": dtype,
                "tower": identity,
                "folder": folder and str(folder.resolve()),
                "approximate": approximate,
            },
        )
        _check_same(store, identity)
        for name, wanted in (("dtype", dtype), ("dim", dim)):
            if (known := store.settings[name]) != wanted:
                raise ValueError(
                    f"{str(directory)!r} holds an index of `{name}`={known!r}. Received `{name}`: "
                    f"{wanted!r}. Build that in another directory."
                )
        index = cls(directory)
        index._model = model
        if approximate != store.settings["approximate"]:
            with writing(store) as writer:
                writer.set(approximate=approximate)
        changes = index.update(source, batch_size=batch_size, vectors=vectors, verbose=verbose)
        if changes.removed and index._store.settings["folder"] != store.settings["folder"]:
            warnings.warn(
                f"The index held pictures of {store.settings['folder']!r}; {changes.removed} that "
                f"are not in {str(source)!r} were removed from it. `update(source, "
                "remove_missing=False)` adds pictures and removes none.",
                stacklevel=2,
            )
        return index

    def update(
        self,
        source: Any = None,
        *,
        remove_missing: bool = True,
        batch_size: int = 64,
        vectors: Mapping[bytes, np.ndarray] | None = None,
        verbose: Any = "auto",
    ) -> Changes:
        """Brings the index up to date; only contents that are new to it are encoded.

        A file is read if its size or one of its times has changed, and encoded if its content has.
        A renamed file keeps its id.

        Args:
            source: as for `build`. None: the folder that the index was built from.
            remove_missing: bool, whether pictures that are not in `source` are removed.
            batch_size: int, how many pictures to encode at a time.
            vectors: those of pictures that were encoded elsewhere, as for `build`.
            verbose: 0, 1 or "auto": a progress bar for more than 10 batches.

        Returns:
            `Changes`, the numbers of pictures that were added, changed and removed.

        Raises:
            FileNotFoundError: no such folder; the index was deleted or replaced meanwhile.
            ValueError: no pictures; no `source` for an index that is not of a folder; no model.
            RuntimeError: another process is writing.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> more = [{"image": 255 - pixels[0], "name": "negative.png"}]
        >>> index.update(more, remove_missing=False, verbose=0).added
        1
        """
        checks.check_count(batch_size, "batch_size")
        if self._model is None:
            raise ValueError("Open the index with its model, `Index(directory, model)`, to update.")
        self._checked = None  # What it writes should be of the same tower, however that changed.
        self._check_if_trained()
        settings = self._store.settings
        source = settings["folder"] if source is None else source
        if source is None:
            raise ValueError(
                "The index was not built from a folder, so `update` needs a `source`: the pictures "
                "as they now are, or, with `remove_missing=False`, the new ones."
            )
        total: int | None = None
        if (folder := _folder(source)) is not None:
            found, total = sources.of_folder(folder)
        else:
            found = sources.of_pairs(source)
        if verbose == "auto":
            verbose = total is None or total > 10 * batch_size
        tower = self._model.image_tower
        with writing(self._store) as writer, tower.distribute_strategy.scope():
            if folder is not None and str(folder.resolve()) != settings["folder"]:
                writer.set(folder=str(folder.resolve()))
            bar = tqdm.tqdm(found, "index", total, unit=" pictures", disable=not verbose)
            changes = update(writer, bar, tower, batch_size, remove_missing, vectors or {})
            if _wants_lists(writer.settings, len(self)):
                writer.make_lists(bool(verbose))
        self._store.settings = self._store.read_settings()
        if changes.refused:
            name, reason = next(iter(self.refused.items()))
            warnings.warn(
                f"{changes.refused} pictures are not in the index; see its `refused`. The first: "
                f"{name!r}: {reason}",
                stacklevel=2,
            )
        return changes

    def search(
        self,
        query: Any,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """The pictures that are nearest to a query.

        Args:
            query: str, a sentence; `pathlib.Path`, bytes of a file, a PIL image or uint8 [height,
                width, channels], a picture; float [dim], an embedding; or a `Query`, a sum of
                these.
            k: int, how many to find.
            where: which pictures may be found: {field of the metadata: value, or list of values,
                one of which it should have}; "name" takes a pattern, {"name": "2024/*.jpg"}, or
                a list of them.
            exact: bool, whether to compare all vectors (for "binary" all those on disk, not only
                the nearest by their bits, which is slow); None: unless the index is approximate.

        Returns:
            A list of `Hit`s, best first; fewer than k where there are fewer pictures.

        Raises:
            ValueError: an empty sentence, a picture that does not decode, terms that cancel; the
                image tower has other weights now.
            TypeError: another kind of query.
            FileNotFoundError: the index was deleted or replaced meanwhile.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> [hit.name for hit in index.search(pixels[2], k=1)]
        ['2.png']
        >>> [hit.name for hit in index.search(pixels[2], k=1, where={"name": "3*"})]
        ['3.png']
        """
        return self.search_many([query], k, where, exact)[0]

    def search_many(
        self,
        queries: Sequence[Any],
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        exact: bool | None = None,
    ) -> list[list[Hit]]:
        """Searches for several queries at once, which is faster.

        Args:
            queries: a list of what `search` takes, or a float array [n, dim].
            k, where, exact: as for `search`.

        Returns:
            A list of `Hit`s for each query.

        Raises:
            ValueError, TypeError: as for `search`.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> [hits[0].name for hits in index.search_many([pixels[0], pixels[3]], k=1)]
        ['0.png', '3.png']
        """
        checks.check_count(k, "k")
        alone = isinstance(queries, str | bytes) or getattr(queries, "ndim", 1) == 0
        if alone or not isinstance(queries, Iterable):
            raise TypeError(f"`queries` should be a list of queries. Received: {queries!r:.80}.")
        filters.check_where(where)
        self._check_if_trained()
        embeddings = queries_lib.embed(self._model, list(queries), self.dim)
        with self._store.reading() as (database, snapshot):
            allowed = snapshot.alive
            if where:
                allowed = filters.allowed(database, snapshot, where)
            scanner, lists = self._opened(snapshot)
            lists = None if exact or where else lists
            rows, scores = scanner.search(embeddings, k, allowed, lists, bool(exact))
            there_are = min(k, allowed.sum())
            if lists is not None and ((rows >= 0).sum(axis=1) < there_are).any():
                # The likely lists have fewer than that.
                rows, scores = scanner.search(embeddings, k, allowed, None, False)
            return [
                self._hits(database, of_query.tolist(), found.tolist())
                for of_query, found in zip(rows, scores, strict=True)
            ]

    def recall(self, queries: Sequence[Any], k: int = 10) -> float:
        """The fraction of the true best k that an approximate or a binary search finds.

        Args:
            queries: as for `search_many`; choose some that resemble those of your users.
            k: int.

        Returns:
            The mean over the queries, a float in 0..1.

        Raises:
            ValueError: no queries, or no pictures.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> index.recall([pixels[0], pixels[3]], k=2)  # It is exact.
        1.0
        """
        found, true = (self.search_many(queries, k, exact=exact) for exact in (None, True))
        both = [
            len({x.id for x in a} & {x.id for x in b}) for a, b in zip(found, true, strict=True)
        ]
        if not any(true):
            raise ValueError("There should be a query, and a picture in the index. Received none.")
        return sum(both) / sum(map(len, true))

    def _opened(self, snapshot: Snapshot) -> tuple[Scanner, tuple[Lists, int] | None]:
        """What searches a snapshot; kept until the files change."""
        arrays, scanner, of_lists, lists = self._searches
        if arrays is not snapshot.arrays:
            scanner = Scanner(snapshot)
        if of_lists != snapshot.lists:
            lists, of_lists = None, snapshot.lists
            if of_lists and approximate_lib.available() and of_lists[0].exists():
                lists = Lists(of_lists[0]), of_lists[1]
        self._searches = snapshot.arrays, scanner, of_lists, lists
        return scanner, lists

    def _hits(
        self, database: sqlite3.Connection, rows: list[int], scores: list[float]
    ) -> list[Hit]:
        folder = self._store.settings["folder"]
        hits = []
        for row, score in zip(rows, scores, strict=True):
            if row < 0:
                break
            query = "SELECT id, name, metadata FROM pictures WHERE row = ?"
            number, name, metadata = database.execute(query, (row,)).fetchone()
            name = named(name)
            path = pathlib.Path(folder, name) if folder else None
            try:
                hits.append(Hit(name, score, number, path, json.loads(metadata)))
            except ValueError as error:
                raise sqlite3.DatabaseError(f"the metadata of {name!r}: {error}") from error
            if not math.isfinite(score):
                raise sqlite3.DatabaseError(f"the vector of {name!r} is not finite")
        return hits

    @property
    def dim(self) -> int:
        """The width of the vectors.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(
        ...     model, pictures, tempfile.mkdtemp(), dim=4, dtype="binary", verbose=0)
        >>> index.dim
        4
        """
        return self._store.settings["dim"]

    def __repr__(self) -> str:
        kind = f"{self._store.settings['dtype']} [{self.dim}]"
        return f"<Index of {len(self):,} pictures in {str(self._store.directory)!r}, {kind}>"

    def __len__(self) -> int:
        """How many pictures are in the index."""
        with self._store.reading() as (_, snapshot):
            return int(snapshot.alive.sum())

    def contents(self) -> tuple[np.ndarray, list[str], np.ndarray]:
        """All pictures, in the order in which ties are returned.

        Returns:
            [n] int64 ids, n names, and [n, dim] float32 vectors of unit length.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> ids, names, vectors = index.contents()
        >>> names, vectors.shape
        (['0.png', '1.png', '2.png', '3.png'], (4, 8))
        """
        with self._store.reading() as (database, snapshot):
            found = database.execute("SELECT id, name, row FROM pictures ORDER BY row").fetchall()
            vectors = snapshot.arrays["vectors"][[row for _, _, row in found]]
        ids = np.array([number for number, _, _ in found], np.int64)
        return ids, [named(name) for _, name, _ in found], vectors

    def check_model(self, model: LiT) -> None:
        """Raises ValueError unless the pictures were encoded with a model's image tower.

        Args:
            model: a `LiT`.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> index.check_model(model)
        """
        _check_same(self._store, _identity(model))

    @property
    def refused(self) -> dict[str, str]:
        """{name: why it does not decode} of the pictures that are left out.

        Example:

        >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
        >>> model = keras_lit.LiT(tower, keras_lit.TextTower.from_features(6), tuning="LL")
        >>> pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3], "uint8")
        >>> pictures = [{"image": x, "name": f"{i}.png"} for i, x in enumerate(pixels)]
        >>> index = keras_lit.search.Index.build(model, pictures, tempfile.mkdtemp(), verbose=0)
        >>> index.refused
        {}
        """
        with self._store.reading() as (database, _):
            found = database.execute("SELECT name, reason FROM refused ORDER BY name").fetchall()
        return {named(name): reason for name, reason in found}


def _wants_lists(settings: dict[str, Any], pictures: int) -> bool:
    """Whether to make the lists, or to make them again once a fifth of the rows is in none."""
    wanted = settings["approximate"]
    if wanted is None:
        wanted = pictures >= approximate_lib.AT_LEAST and approximate_lib.available()
        wanted = wanted and settings["dtype"] != "binary"
    return bool(wanted and pictures) and settings["lists"] < 0.8 * settings["rows"]


def _folder(source: Any) -> pathlib.Path | None:
    if not isinstance(source, str | os.PathLike):
        return None
    sources.check_folder(folder := pathlib.Path(source))
    return folder


def _directory(path: Any) -> pathlib.Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`directory` should be a str or a pathlib.Path. Received: {path!r:.80}.")
    return pathlib.Path(path)


def _identity(model: LiT) -> dict[str, str]:
    if not isinstance(model, LiT):
        raise TypeError(f"`model` should be a `LiT`. Received: {model!r:.80}.")
    pairs.check_has_backbone(model.image_tower)
    found = fingerprints.of_embeddings(model.image_tower)
    assert found is not None
    return found


def _some_weights(model: LiT) -> list[float]:
    """A number of some of the image tower's weights, which others that are loaded change."""
    small = [x for x in model.image_tower.weights if math.prod(x.shape) <= 10_000]
    some = small[:: 1 + len(small) // 32] + small[-2:]
    return [float(keras.ops.convert_to_numpy(x).flat[0]) for x in some]


def _check_same(store: Store, identity: dict[str, str]) -> None:
    if found := fingerprints.differences(store.settings["tower"], identity):
        raise ValueError(
            f"The pictures in {str(store.directory)!r} were encoded with another image tower. Pass "
            "that model, or build an index in another directory. Nothing was changed. Differences: "
            f"{'; '.join(found)}."
        )

"""Brings an index up to date: encodes what is new or changed, and nothing else."""

import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lit import distribution
from keras_lit.preprocessing.image import why_not
from keras_lit.search.database import stored
from keras_lit.search.sources import Source
from keras_lit.search.store import STEP, Picture
from keras_lit.search.writing import Writer
from keras_lit.towers import ImageTower
from keras_lit.towers.encoding import unit_length

# How many batches are decoded ahead while one is encoded.
_AHEAD = 2


class Changes(NamedTuple):
    """What an update did, in numbers of pictures.

    Args:
        added: int, with a new name.
        changed: int, with new content under a known name.
        renamed: int, with a new name and the content of one that is gone.
        removed: int, that no longer exist.
        encoded: int, that went through the image tower; copies of known pictures do not.
        refused: int, that do not decode.

    Example:

    >>> keras_lit.search.Changes(added=2, encoded=2)
    Changes(added=2, changed=0, renamed=0, removed=0, encoded=2, refused=0)
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    encoded: int = 0
    refused: int = 0


class _Fresh(NamedTuple):
    """A picture to encode; `kind` is "added" or "changed"."""

    picture: Picture
    content: bytes
    kind: str


def update(
    writer: Writer,
    sources: Iterable[Source],
    tower: ImageTower,
    batch_size: int,
    remove_missing: bool,
    vectors: Mapping[bytes, np.ndarray],
) -> Changes:
    """Makes the pictures of the index those of `sources`; killed, what is done stays done."""
    found = _Found(writer)
    fresh = found.without_known(found.fresh(sources), vectors, batch_size)
    for batch, images, valid in _decoded(fresh, tower.preprocessor, batch_size):
        embeddings = encode(tower, images, batch_size)
        own = unit_length(embeddings, writer.settings["dim"]).numpy()
        good = [x.picture for x, decodes in zip(batch, valid, strict=True) if decodes]
        if good:
            writer.append(good, own[valid])
        for x, decodes in zip(batch, valid, strict=True):
            if decodes:
                found.counts.update([x.kind, "encoded"])
            else:
                found.refuse(x.picture, why_not(tf.constant(x.content)).numpy().decode())
    found.settle(remove_missing)
    return Changes(**found.counts)


def encode(tower: ImageTower, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Preprocessed images to [n, width] floats, in batches that are padded to `batch_size`: a
    picture's embedding then does not depend on how many are encoded with it.
    """
    missing = [(0, batch_size - len(images)), *[(0, 0)] * (images.ndim - 1)]
    filled = tf.constant(np.pad(images, missing))
    return distribution.on_replicas(tower.inference(), filled)[: len(images)]


def _decoded(
    fresh: Iterator[_Fresh], preprocessor: Any, batch_size: int
) -> Iterator[tuple[list[_Fresh], np.ndarray, np.ndarray]]:
    """Batches, their preprocessed pixels, and which pictures decode."""

    def work(batch: list[_Fresh]) -> list[np.ndarray]:
        contents = tf.constant([x.content for x in batch])
        return [x.numpy() for x in preprocessor.with_valid(contents)]

    with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
        waiting: collections.deque[tuple[list[_Fresh], Any]] = collections.deque()
        for batch in iter(lambda: list(itertools.islice(fresh, batch_size)), []):
            waiting.append((batch, pool.submit(work, batch)))
            if len(waiting) > _AHEAD:
                first, decoded = waiting.popleft()
                yield first, *decoded.result()
        for first, decoded in waiting:
            yield first, *decoded.result()


class _Found:
    """What an update has found, and what is left to do."""

    def __init__(self, writer: Writer):
        self.counts: collections.Counter[str] = collections.Counter()
        self._writer = writer
        self._find = writer.database.execute
        self._last = self._find("SELECT max(id) FROM pictures").fetchone()[0] or 0
        self._seen: set[int] = set()  # Ids up to `_last`.
        self._refused: set[str | bytes] = set()
        self._same: list[tuple[str | None, str, int]] = []  # New stamp and metadata, id.
        self._known: list[tuple[Picture, int, str]] = []  # Whose content the index has.

    def fresh(self, sources: Iterable[Source]) -> Iterator[_Fresh]:
        """The pictures whose content is new to the index."""
        for source in sources:
            name = (stored(source.name),)
            query = "SELECT id, hash, stamp, metadata FROM pictures WHERE name = ?"
            number, digest, *before = self._find(query, name).fetchone() or (0, b"", None, "")
            now = (source.stamp, source.metadata)
            self._seen.add(number)
            if source.stamp is not None and tuple(before) == now:
                continue
            query = "SELECT 1 FROM refused WHERE name = ? AND stamp = ?"
            if self._find(query, (*name, source.stamp)).fetchone():
                self._refused.add(*name)
                self.counts["refused"] += 1
                continue
            picture = Picture(source.name, b"", *now)
            try:
                content = source.read()
            except OSError as error:  # Another time it may be; what is known of it stays.
                self.refuse(picture, f"It cannot be read: {error}.", for_good=False)
                continue
            picture = Picture(source.name, hashlib.sha256(content).digest(), *now)
            kind = "changed" if number else "added"
            query = "SELECT row FROM pictures WHERE hash = ?"
            if digest == picture.hash:
                if tuple(before) != now:
                    self._same.append((*now, number))
            elif row := self._find(query, (picture.hash,)).fetchone():
                self._known.append((picture, row[0], kind))
            else:
                yield _Fresh(picture, content, kind)

    def without_known(
        self, fresh: Iterator[_Fresh], vectors: Mapping[bytes, np.ndarray], batch_size: int
    ) -> Iterator[_Fresh]:
        """Adds those that `vectors` has, and yields the others."""
        for batch in iter(lambda: list(itertools.islice(fresh, batch_size)), []):
            known = [x for x in batch if x.picture.hash in vectors]
            if known:
                rows = [np.asarray(vectors[x.picture.hash], "float32") for x in known]
                for x, row in zip(known, rows, strict=True):
                    if row.shape != (dim := self._writer.settings["dim"],):
                        raise ValueError(
                            f"`vectors` should be of the index's width, {dim}. Received: "
                            f"{list(row.shape)}, for {x.picture.name!r}."
                        )
                    if not abs(np.linalg.norm(row) - 1) < 1e-3:
                        raise ValueError(
                            "`vectors` should be of unit length. Received: "
                            f"{np.linalg.norm(row):.3g}, for {x.picture.name!r}."
                        )
                self._writer.append([x.picture for x in known], np.stack(rows))
                self.counts.update(x.kind for x in known)
            yield from (x for x in batch if x.picture.hash not in vectors)

    def refuse(self, picture: Picture, reason: str, for_good: bool = True) -> None:
        """Records why a picture, or its new content, is not in the index."""
        name = stored(picture.name)
        self._refused.add(name)
        self.counts["refused"] += 1
        stamp = picture.stamp if for_good else None
        self._writer.change(
            ("DELETE FROM pictures WHERE name = ?", [(name,)] if for_good else []),
            ("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", [(name, stamp, reason)]),
        )

    def settle(self, remove_missing: bool) -> None:
        """Renames, copies and removes, once all names are known."""
        gone = self._gone() if remove_missing else {}
        names, copies = [], []
        for picture, row, kind in self._known:
            if ids := gone.get(picture.hash):
                values = (stored(picture.name), picture.stamp, picture.metadata, ids.pop())
                names.append(values)
                self.counts["renamed"] += 1
            else:
                copies.append((picture, row))
                self.counts[kind] += 1
        self._writer.change(
            ("UPDATE pictures SET stamp = ?, metadata = ? WHERE id = ?", self._same),
            # Their new names belonged to others, which no longer exist.
            ("DELETE FROM pictures WHERE name = ?", [x[:1] for x in names]),
            ("UPDATE pictures SET name = ?, stamp = ?, metadata = ? WHERE id = ?", names),
        )
        for i in range(0, len(copies), STEP):
            pictures, rows = zip(*copies[i : i + STEP], strict=True)
            self._writer.append(pictures, self._writer.vectors(rows))
        removed = [(number,) for ids in gone.values() for number in ids]
        self.counts["removed"] += len(removed)
        self._writer.change(
            ("DELETE FROM pictures WHERE id = ?", removed),
            ("DELETE FROM refused WHERE name = ?", self._not_refused(remove_missing)),
        )
        alive = self._find("SELECT count(*) FROM pictures").fetchone()[0]
        if self._writer.settings["rows"] > 2 * alive + STEP:
            self._writer.compact()

    def _gone(self) -> dict[bytes, list[int]]:
        """The ids of pictures that are gone, by hash, the first id last."""
        found: dict[bytes, list[int]] = {}
        query = "SELECT id, hash FROM pictures WHERE id <= ? ORDER BY id DESC"
        for number, digest in self._find(query, (self._last,)):
            if number not in self._seen:
                found.setdefault(digest, []).append(number)
        return found

    def _not_refused(self, remove_missing: bool) -> list[tuple[str | bytes]]:
        names = self._find("SELECT name FROM refused").fetchall() if remove_missing else []
        return [x for x in names if x[0] not in self._refused]

"""From datasets to embeddings, once per evaluation, and once at all where the tower is locked."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.data.captions import is_utf8
from keras_lit.data.class_folders import warn_of_numbers
from keras_lit.evaluation import prompts
from keras_lit.evaluation.rows import label_numbers
from keras_lit.model import LiT
from keras_lit.towers import ImageTower, encoding, fingerprints
from keras_lit.training import batches, pairs

Columns = dict[str, list[Any]]


class Images:
    """The images of an evaluation, with columns such as labels that are read in the same pass.

    A locked tower runs over them once, afterwards only its head does.

    Args:
        data: a tf.data.Dataset, batched or not, of dicts {"image" or "image_features", ...} or of
            tuples (image, label), such as Keras' image_dataset_from_directory; a dict of arrays (of
            images also a list of paths or of PIL images); a `keras.utils.PyDataset`; or a
            generator, whose rows stay in memory, since they may be read again. Images may be
            encoded (strings), uint8 pixels or preprocessed floats.
        columns: the names of what else to read.
        batch_size: int, how many images to encode at a time where `data` is not batched.
        verbose: 0 or 1: a progress bar.
        preprocessing: options of `ImagePreprocessor` that differ from the tower's own.
        count: int, how many images to take, from the first on; None for all.

    Raises:
        ValueError: a column is missing, or no images.

    Example:

    >>> data = {"image": np.zeros([4, 8, 8, 3], "uint8"), "label": np.array([0, 1, 1, 0])}
    >>> images = keras_lit.evaluation.Images(data)  # images.embeddings(model), images["label"]
    """

    def __init__(
        self,
        data: Any,
        columns: tuple[str, ...] = ("label",),
        batch_size: int = 32,
        verbose: int = 0,
        preprocessing: Mapping[str, Any] | None = None,
        count: int | None = None,
    ):
        self._rows = _as_rows(data, columns, batch_size, count)
        # Of `labelled_images` and Keras' readers.
        self.class_names: list[str] | None = getattr(data, "class_names", None)
        self._preprocessing = preprocessing or {}
        self._names = columns
        self._batch_size = batch_size
        self._verbose = verbose
        self._columns: dict[str, np.ndarray] = {}
        self._order: Columns = {}
        self._features = np.zeros([0, 0])
        self._made_by: list[Any] = []

    def __getitem__(self, column: str) -> np.ndarray:
        """A column: [n] array, in the order of the latest embeddings."""
        return self._columns[column]

    def rows(self) -> tf.data.Dataset:
        """The data as it is, a row at a time.

        Returns:
            An unbatched tf.data.Dataset.

        Example:

        >>> data = {"image": np.zeros([2, 8, 8, 3], "uint8"), "label": np.array([0, 1])}
        >>> [int(row["label"]) for row in keras_lit.evaluation.Images(data).rows()]
        [0, 1]
        """
        return _unbatched(self._rows)

    def features(self, model: LiT) -> np.ndarray:
        """The pooled output of the image tower, before its head: [n, feature_dim] float32.

        Args:
            model: a `LiT`.

        Returns:
            A NumPy array; the same one while the tower is locked and does not change.

        Raises:
            ValueError: data of "image_features" for a tower that trains.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> data = {"image_features": np.eye(3, 8, dtype="float32"), "label": np.arange(3)}
        >>> keras_lit.evaluation.Images(data).features(model).shape
        (3, 8)
        """
        tower, locked = model.image_tower, model.tuning[0] == "L"
        given = self._rows.element_spec.get("image_features")
        if not locked and given is not None and not tower._from_below(given):
            raise ValueError(pairs.for_locked("image"))
        made_by = [tower, fingerprints.fingerprint(tower)] if locked else []
        if not locked or made_by != self._made_by:
            with model.distribute_strategy.scope():
                self._features, self._columns = self._encode(tower)
            self._made_by = made_by
        return self._features

    def embeddings(self, model: LiT) -> np.ndarray:
        """The embeddings of the images: [n, dim] float32 of unit-length rows.

        Args:
            model: a `LiT`.

        Returns:
            A NumPy array.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> data = {"image_features": 5 * np.eye(3, 8, dtype="float32"), "label": np.arange(3)}
        >>> embeddings = keras_lit.evaluation.Images(data).embeddings(model)
        >>> np.linalg.norm(embeddings, axis=1)
        array([1., 1., 1.], dtype=float32)
        """
        if len(model.image_tower.feature_shape) > 1:  # The tokens of all might not fit into memory.
            with model.distribute_strategy.scope():
                found, self._columns = self._encode(model.image_tower, embedded=True)
            return found
        features, project = self.features(model), model.image_tower.project
        tiles = [features[i : i + 4096] for i in range(0, len(features), 4096)]
        return np.concatenate([encoding.unit_length(project(tile)).numpy() for tile in tiles])

    def _encode(
        self, tower: ImageTower, embedded: bool = False
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        pairs.check_image_spec(self._rows.element_spec, tower)
        preprocessor = tower.preprocessor
        if self._preprocessing:
            options = {**preprocessor.get_config(), **self._preprocessing}
            preprocessor = type(preprocessor).from_config(options)

        given = self._rows.element_spec.get("image_features")
        below = given is not None and tower._from_below(given)

        def ready(row: pairs.Pairs) -> pairs.Pairs:
            columns = {name: row[name] for name in self._names}
            found = pairs.ready_image(pairs.of_tower(row, tower, "image"), preprocessor)
            if below:  # The tower makes the rest of it.
                found = {"image": found["image_features"]}
            return {**columns, **found}

        rows = internals.mapped(self._rows, ready)
        if not _is_batched(self._rows.element_spec):
            rows = rows.batch(self._batch_size)

        def finished(features: Any) -> np.ndarray:
            features = features.astype("float32")
            return encoding.unit_length(tower.project(features)).numpy() if embedded else features

        function = tower.inference("features", below)
        found = [
            (finished(features), *(batch[name].numpy() for name in self._names))
            for features, batch in encoding.encode(function, rows, self._verbose)
        ]
        if not found:
            raise ValueError("The images to evaluate on should be at least one. Received none.")
        features, *values = map(np.concatenate, zip(*found, strict=True))
        columns = dict(zip(self._names, values, strict=True))
        _check_order(columns, self._order)
        return features, columns


def names_of_classes(images: Images, given: Sequence[str] | None) -> Sequence[str]:
    """The class names that are given, or else the data's own, as words."""
    if images.class_names is not None:
        warn_of_numbers(images.class_names, given)
        if given is not None and len(given) > len(images.class_names):
            warnings.warn(
                f"The data have {len(images.class_names)} classes ({images.class_names[0]!r} and "
                f"others), and `class_names` {len(given)}: the labels stand for the first of them. "
                "Pass as many, in the order of the data's, unless others are to compete.",
                stacklevel=3,
            )
    if given is not None:
        return given
    if images.class_names is None:
        raise ValueError(
            "There should be `class_names`: these data have none of their own, as those of "
            "`keras_lit.data.labelled_images(folder)` do."
        )
    return prompts.as_words(images.class_names)


def labels_of(
    images: Images, class_names: Sequence[str], classes: Sequence[int] | None = None
) -> np.ndarray:
    """The column "label" in numbers; strings are among `class_names`, which stand for `classes`."""
    labels = images["label"]
    numbers = label_numbers(labels, class_names, "labels")
    return numbers if classes is None or numbers is labels else np.asarray(classes)[numbers]


def is_row(images: Images, number: int, row: Mapping[str, Any]) -> bool:
    """Whether a row that is read once more has the columns of that row of the embeddings."""
    names = images._columns.keys() & (images._order or images._columns).keys()
    return all(_same(images[name][number], row[name]) for name in names)


def expect_order(images: Images, columns: Columns) -> None:
    """From now on embeddings that come with other values of these columns are refused."""
    images._order = columns
    if images._columns:
        _check_order(images._columns, columns)


def rows_in_order(images: Images) -> Iterator[Mapping[str, tf.Tensor]]:
    """The rows of the images, in the order that the embeddings then should have."""
    columns: Columns = {name: [] for name in images._order or images._names}
    for row in images.rows():
        for name, values in columns.items():
            values.append(row[name].numpy())
        yield row
    expect_order(images, columns)


def _same(values: Any, others: Any) -> bool:
    """Of any dtype; NaN is like NaN."""
    x, y = np.asarray(values), np.asarray(others)
    return x.shape == y.shape and bool(np.all((x == y) | ((x != x) & (y != y))))


def _check_order(found: Mapping[str, np.ndarray], wanted: Columns) -> None:
    if not all(_same(found[name], wanted[name]) for name in wanted):
        raise ValueError(
            "The data should come in the same order each time they are read. Received another one "
            "the second time. Leave `shuffle` and random filters out, or `cache()` what comes "
            "behind them; or pass `shuffle` a seed and `reshuffle_each_iteration=False`."
        )


class ImagesAndTexts:
    """The images and texts of a retrieval, each distinct image once.

    Args:
        data: as for `Images`, of {"image" or "image_features", "text"}, and maybe "text_features",
            which a locked text tower takes in place of the text. Rows with the same "name" (as
            `image_text_pairs` gives them: an image with several captions) share their image.
        image_id: the name of that column; rows where it is empty are images of their own.
        batch_size: int, how many images to encode at a time where `data` is not batched.
        verbose: 0 or 1: a progress bar.

    Raises:
        ValueError: no "text", no pairs, a text that is empty or not UTF-8, different images of one
            "name", or a dataset whose order changes.

    Example:

    >>> data = {"image": np.zeros([2, 8, 8, 3], "uint8"), "text": ["a cat", "a dog"]}
    >>> pairs = keras_lit.evaluation.ImagesAndTexts(data)
    >>> pairs.texts, pairs.image_index
    (['a cat', 'a dog'], array([0, 1]))
    """

    def __init__(self, data: Any, image_id: str = "name", batch_size: int = 32, verbose: int = 0):
        rows = _as_rows(data, ("text",), batch_size)
        columns = ("text", image_id) if image_id in rows.element_spec else ("text",)
        of_text = ("text_features", "text_fingerprint")
        wanted = [x for x in (*columns, *of_text) if x in rows.element_spec]
        encoded = "image" in rows.element_spec and rows.element_spec["image"].dtype == tf.string

        def chosen(row: pairs.Pairs) -> pairs.Pairs:
            kept = {name: row[name] for name in wanted}
            if encoded and image_id in wanted:
                kept["image"] = tf.strings.to_hash_bucket_fast(row["image"], 2**62)
            return kept

        found = rows.map(chosen)
        found = found.unbatch() if _is_batched(rows.element_spec) else found
        read = list(found.as_numpy_iterator())
        if not read:
            raise ValueError(pairs.EMPTY)
        texts = [row["text"] for row in read]
        names = [row.get(image_id, b"") for row in read]
        keys = [i if name == b"" else name for i, name in enumerate(names)]
        index: dict[Any, int] = {}
        pictures = {key: row.get("image") for key, row in zip(keys, read, strict=True)}
        mixed = [x for x, row in zip(keys, read, strict=True) if row.get("image") != pictures[x]]
        if mixed:
            raise ValueError(
                f"Rows with the same {image_id!r} share their image. Received {mixed[0]!r} with "
                f"different images. Give each image a {image_id!r} of its own, or leave that out."
            )
        strings = isinstance(texts[0], bytes)  # Otherwise token ids, which stay as they are.
        bad = [i for i, x in enumerate(texts) if strings and not _is_caption(x)]
        if bad:
            raise ValueError(
                f'"text" should be captions of at least one character in UTF-8. Received '
                f"{len(bad)} others, the first {texts[bad[0]]!r:.60} in row {bad[0]}. Leave such "
                "rows out."
            )
        self.texts: Any = [text.decode() for text in texts] if strings else np.stack(texts)
        self._features = {x: np.stack([row[x] for row in read]) for x in of_text if x in wanted}
        self.image_index = np.array([index.setdefault(key, len(index)) for key in keys])
        self._first = np.unique(self.image_index, return_index=True)[1]
        if len(index) < len(texts):
            # Rows that were not there the first time are kept, and refused by their order.
            keep = tf.constant([*np.isin(np.arange(len(texts)), self._first), True])
            rows = _unbatched(rows).enumerate()
            rows = rows.filter(lambda i, _: keep[tf.minimum(i, len(texts))])
            rows = rows.map(lambda _, row: row)
        self.images = Images(rows, columns, batch_size, verbose)
        # The texts of named images may be drawn anew each time.
        known = columns[1:] if len(columns) > 1 and all(names) else columns
        expect_order(self.images, {name: [read[i][name] for i in self._first] for name in known})

    def embeddings(self, model: LiT) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings [images, dim] and [texts, dim], of unit length.

        Args:
            model: a `LiT`.

        Returns:
            Two float32 NumPy arrays.

        Raises:
            ValueError: the pairs come in another order each time they are read.

        Example:

        >>> towers = keras_lit.ImageTower.from_features(8), keras_lit.TextTower.from_features(6)
        >>> model = keras_lit.LiT(*towers, tuning="LL")
        >>> data = {"image_features": np.eye(3, 8, dtype="float32"), "text": ["a", "b", "c"],
        ...         "text_features": np.eye(3, 6, dtype="float32")}
        >>> images, texts = keras_lit.evaluation.ImagesAndTexts(data).embeddings(model)
        >>> images.shape, texts.shape
        ((3, 8), (3, 8))
        """
        cached = "text_features" in self._features and model.tuning[1] == "L"
        texts = self._features if cached else self.texts
        return self.images.embeddings(model), model.encode_text(texts, verbose=0)

    @property
    def image_groups(self) -> np.ndarray:
        """[images] ints for `retrieval_recall`, the same for images with the same (first) text.

        Example:

        >>> data = {"image": np.zeros([3, 8, 8, 3], "uint8"), "text": ["a dog", "a cat", "a dog"]}
        >>> keras_lit.evaluation.ImagesAndTexts(data).image_groups
        array([1, 0, 1])
        """
        first = np.asarray(self.texts)[self._first]
        return np.unique(first, axis=0, return_inverse=True)[1].ravel()


def _is_caption(text: bytes) -> bool:
    found = text.decode(errors="surrogateescape")
    return bool(found.strip()) and is_utf8(found)


def _as_rows(
    data: Any, columns: tuple[str, ...], batch_size: int, count: int | None = None
) -> tf.data.Dataset:
    """A dataset of dicts {"image" or "image_features", *columns}, batched or not, checked."""
    size = batch_size if isinstance(data, dict) else None
    rows = batches.as_dataset(data, size, columns=("image", "label"))
    spec = rows.element_spec
    images = isinstance(spec, dict) and set(pairs.IMAGE_KEYS) & set(spec)
    if not images or set(columns) - set(spec):
        keys = sorted(spec) if isinstance(spec, dict) else []
        raise ValueError(
            'The data should be dicts with "image" (or "image_features") and '
            f"{', '.join(map(repr, columns))}. Received: {keys or spec}. "
            f"{checks.renaming(keys, ('image', *columns)) if keys else 'Map your dataset.'}"
        )
    rows = rows if count is None else _unbatched(rows).take(count)
    return rows.cache() if isinstance(data, Iterator) else rows


def _is_batched(spec: Any) -> bool:
    if "image_features" in spec:
        return spec["image_features"].shape.rank == 2
    image = spec["image"]
    return image.shape.rank == (1 if image.dtype == tf.string else 4)


def _unbatched(rows: tf.data.Dataset) -> tf.data.Dataset:
    return rows.unbatch() if _is_batched(rows.element_spec) else rows

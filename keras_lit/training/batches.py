"""From lists, arrays, files, generators and datasets to batches that are checked and ready."""

import collections
import concurrent.futures
import itertools
import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lit import checks, distribution, internals
from keras_lit.data.captions import is_utf8
from keras_lit.towers import ImageTower, TextTower, encoding, lengths
from keras_lit.training import pairs, pictures
from keras_lit.training.pairs import Pairs

_LOOKED_AT = 4  # Batches whose captions are counted before they are cut.
_DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_Stream = tf.data.Dataset | keras.utils.PyDataset | Iterator
_KINDS = (
    'batches of {"image", "text"} from a tf.data.Dataset or a dict of arrays, a '
    "keras.utils.PyDataset or a Python generator"
)


def for_step(
    x: Any,
    image_tower: ImageTower,
    text_tower: TextTower,
    batch_size: int | None = None,
    training: bool = False,
    shuffle: bool = False,
    continue_data: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
    text_locked: bool = False,
    whole: bool = False,
    static_shapes: bool = False,
    steps: int | None = None,
) -> Any:
    """What `fit`, `evaluate` and `predict` hand to Keras: batches of what the towers take.

    Checks once, draws the seeds of random crops, preprocesses, prefetches. Under a strategy the
    replicas share each batch (see `distribution`), but for `whole` batches, which several workers
    take in turns. `continue_data` is `ExactResume`'s; `text_locked` says that "text_features" may
    stand for the text. With `static_shapes`, which XLA and TPUs want, texts keep their padding.
    Without a number of `steps` the pairs should end.
    """
    if isinstance(x, tf.distribute.DistributedDataset):
        return x  # Its owner has preprocessed it.
    data = as_dataset(x, batch_size, shuffle)
    data = pairs.with_one_text(data, text_locked)
    spec = data.element_spec
    pairs.check_spec(spec, image_tower, text_tower)
    if data.cardinality() == 0:
        raise ValueError(pairs.EMPTY)
    if steps is None:
        check_ends(data)
    if not pairs.are_batched(spec):
        raise ValueError("The pairs should be batched, for example `pairs.batch(512)`.")
    if static_shapes and "image" in spec:
        _check_convolutions(image_tower)

    def ready(pair: Pairs) -> Pairs:
        found = pairs.ready(pair, image_tower, text_tower, training)
        if "text" in found and not static_shapes:
            found["text"] = lengths.trimmed(found["text"], text_tower)
        return found

    def prepared(rows: tf.data.Dataset) -> tf.data.Dataset:
        return internals.mapped(rows, ready).prefetch(tf.data.AUTOTUNE)

    data = distribution.in_turns(data) if whole else data
    data = data.enumerate().map(_known_columns(_says_what_is_cut(text_tower)))
    if training and "image" in spec:
        data = pairs.with_seeds(data, distribution.agreed(pairs.draw_seed()))
    if whole or distribution.replica_count() == 1:
        count = data.cardinality()
        data = data if continue_data is None else continue_data(data)
        return internals.with_cardinality(prepared(data), count)
    data, rows_of_worker = distribution.share_out(data, whole_batches=training)
    count = data.cardinality()
    data = data if continue_data is None else continue_data(data)
    distributed = tf.distribute.get_strategy().distribute_datasets_from_function(
        lambda context: prepared(rows_of_worker(data, context))
    )
    return internals.with_cardinality(distributed, count)


def check_ends(data: tf.data.Dataset) -> None:
    """Raises ValueError for a dataset that is known to be repeated for ever."""
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "The dataset never ends, so neither would this. Leave `repeat()` out (`epochs` repeats "
            "it), or pass `fit` and its like `steps_per_epoch`, `validation_steps` or `steps`."
        )


def rows_of(x: Any, batch_size: int | None = None) -> int:
    """The number of pairs of a batch of what `fit` takes, 0 where only its batches tell."""
    x = x[0] if isinstance(x, tuple) and x else x
    if isinstance(x, dict):
        return batch_size or 32
    return internals.batch_size_of(x) if isinstance(x, tf.data.Dataset) else 0


def _check_convolutions(tower: ImageTower) -> None:
    """XLA on CPUs is some 70 times as slow as TensorFlow at depthwise convolutions."""
    layers = internals.flat_layers(tower.backbone)
    slow = [layer.name for layer in layers if isinstance(layer, _DEPTHWISE)]
    if slow and distribution.on_cpus():
        raise ValueError(
            f"The image tower's depthwise convolutions, such as `{slow[0]}`, are very slow under "
            "XLA on a CPU. Leave `jit_compile=True` out, or give the model features that "
            "`keras_lit.features.precompute` wrote."
        )


def as_dataset(
    x: Any,
    batch_size: int | None = None,
    shuffle: bool = False,
    columns: tuple[str, ...] | None = None,
) -> tf.data.Dataset:
    """The one door: every form of data that Keras takes, as a tf.data.Dataset of dicts.

    A dict of arrays (batched by `batch_size`), a tf.data.Dataset, PyDataset (`workers` threads
    read it) or generator of dicts; (pairs,) and (pairs, None) of these. `shuffle` is for arrays and
    the batches of a PyDataset; `columns` names what a tuple holds, where that may be more.
    """
    if isinstance(x, tuple):
        x = _without_targets(x, columns)
    if isinstance(x, dict):
        return _of_arrays(x, batch_size or 32, shuffle)
    if isinstance(x, str | os.PathLike):
        raise ValueError(
            f"Pairs should be {_KINDS}. Received a path: read it first, by `keras_lit.data."
            f"image_text_pairs({str(x)!r})`, or folders of classes by `labelled_images`."
        )
    if not isinstance(x, _Stream):
        raise ValueError(
            f"Pairs should be {_KINDS}. Received: {type(x).__name__}. Pass lists, arrays and "
            'columns of a table as {"image": images, "text": texts}.'
        )
    if batch_size is not None:
        raise ValueError("`batch_size` goes with arrays. A dataset is batched by itself.")
    if isinstance(x, keras.utils.PyDataset):
        x = _of_py_dataset(x, shuffle, columns)
    elif isinstance(x, Iterator):
        x = _of_generator(x, columns)
    x = _pixels_of_keras(x)
    if isinstance(x.element_spec, tuple):
        kinds = (dict, tuple, tf.TensorSpec, tf.RaggedTensorSpec)  # None has a spec of its own.
        spec = tuple(part if isinstance(part, kinds) else None for part in x.element_spec)
        _without_targets(spec, columns)  # Raises here, not inside of a graph.
        return x.map(lambda *parts: _without_targets(parts, columns))
    return x


def _pixels_of_keras(x: tf.data.Dataset) -> tf.data.Dataset:
    """`keras.utils.image_dataset_from_directory` gives floats in 0..255: here they become uint8."""
    if not hasattr(x, "file_paths"):
        return x

    def as_uint8(images: tf.Tensor, *labels: tf.Tensor) -> Any:
        images = tf.cast(tf.round(images), tf.uint8)
        return (images, *labels) if labels else images

    return x.map(as_uint8, tf.data.AUTOTUNE)


def of_images(images: Any, tower: ImageTower, batch_size: int) -> encoding.Batches:
    """Batches of [batch, height, width, 3] preprocessed images; see `LiT.encode_image`.

    Features [batch, feature_dim] become {"image_features"}; of what enters the last blocks
    [batch, dim] the tower makes the rest.
    """

    def prepare(batch: tf.Tensor, names: tf.Tensor | None = None) -> Any:
        name = "image_features" if features else "image"
        row = {name: batch} if names is None else {name: batch, "name": names}
        found = pairs.ready_image(row, tower.preprocessor)
        return found[name] if continues or not features else found

    checks.check_count(batch_size, "batch_size")
    _check_eager(images, "image")
    rank = 1 + len(tower.feature_shape)
    batches = _raw_images(images, batch_size, rank, tower)
    spec = tf.nest.flatten(encoding.spec_of(batches))[0]
    continues = spec.dtype.is_floating and tower._from_below(spec)
    features = continues or (spec.dtype.is_floating and spec.shape.rank == rank)
    if features:
        pairs.check_features(spec, tower, "image")
    else:
        pairs.check_image(spec, tower)
        if spec.dtype.is_floating and spec.shape.rank == 3:
            raise ValueError(
                "Preprocessed images should be [batch, height, width, 3]: pass one as "
                f"`image[np.newaxis]`. Received: {spec.shape}."
            )
    return _mapped(batches, prepare)


def of_text(text: Any, tower: TextTower, batch_size: int, locked: bool) -> encoding.Batches:
    """Batches of [batch, sequence_length] token ids; see `LiT.encode_text`.

    Features [batch, feature_dim] become {"text_features"}.
    """

    def prepare(batch: tf.Tensor) -> Any:
        if features:
            return pairs.ready_features({"text_features": batch}, "text")
        return lengths.trimmed(pairs.ready_text(batch, tower), tower)

    names = ("text_features", "text") if locked else ("text",)
    text = _column(_checked(text, tower, "text") if locked else text, ("text",), *names)
    text = _batched(text if isinstance(text, tf.data.Dataset) else _texts(text), batch_size)
    spec = encoding.spec_of(text)
    features = spec.dtype.is_floating and spec.shape.rank == 2
    if features:
        pairs.check_features(spec, tower, "text")
    else:
        pairs.check_text(spec, tower)
    return _mapped(text, prepare)


def by_length(text: Any, tower: TextTower, batch_size: int) -> tuple[Any, Any]:
    """Strings of more than one batch, short ones first, and the place of each of them there.

    So that a batch holds little padding. Of other text, or where padding counts: as it is, all.
    """
    checks.check_count(batch_size, "batch_size")
    _check_eager(text, "text")
    everything = slice(None)
    if isinstance(text, str | bytes | dict | set | _Stream) or not isinstance(text, Iterable):
        return text, everything
    text = _texts(text)
    strings = isinstance(text, np.ndarray) and text.ndim == 1 and text.dtype.kind in "OSU"
    if not strings or len(text) <= batch_size or tower.preprocessor is None:
        return text, everything
    if not tower.ignores_padding:
        return text, everything
    counts = [
        tower.preprocessor.token_counts(text[i : i + 4096]).numpy()
        for i in range(0, len(text), 4096)
    ]
    order = np.argsort(np.concatenate(counts), kind="stable")
    return text[order], np.argsort(order)


def _texts(text: Any) -> Any:
    """A string, or strings, token ids or features in a list or array -> what holds several."""
    if isinstance(text, str | bytes) or (tf.is_tensor(text) and text.shape.rank == 0):
        text = [text]
    if isinstance(text, set) or not isinstance(text, Iterable):
        raise ValueError(
            "Text should be a string, or strings, token ids or features in a list or array, or "
            f"batches of them. Received: {type(text).__name__}."
        )
    text = text if hasattr(text, "__array__") else list(text)
    _check_some(text, "text")
    if any(isinstance(x, str | bytes) for x in text):
        bad = {type(x).__name__ for x in text if not isinstance(x, str | bytes)}
        if bad:
            raise ValueError(f"Text should be strings. Received some of {', '.join(bad)} as well.")
    return pairs.as_array(text)


def _known_columns(look_at: Callable[[np.ndarray], bool]) -> Callable[[tf.Tensor, Pairs], Pairs]:
    """Leaves other columns out; looks at the strings of the first batches.

    Fails when the first batch holds a single pair, or any batch none.
    """
    message = (
        "A contrastive loss needs at least two pairs in a batch, since the others are the "
        "negatives. Received a batch of 1: use a larger batch."
    )

    def known_columns(index: tf.Tensor, batch: Pairs) -> Pairs:
        count = pairs.batch_size(batch)
        enough = (index > 0) | (count != 1)
        text = next(batch[name] for name in pairs.TEXT_KEYS if name in batch)
        before = [
            tf.debugging.Assert(enough, [message]),
            tf.debugging.Assert(
                count > 0, ["A batch should hold pairs. Batch", index, "is empty."]
            ),
        ]
        if text.dtype == tf.string:
            look = lambda: tf.numpy_function(look_at, [text], tf.bool)  # noqa: E731
            before.append(tf.cond(index < _LOOKED_AT, look, lambda: False))
        with tf.control_dependencies(before):
            return {name: tf.identity(batch[name]) for name in pairs.KEYS if name in batch}

    return known_columns


def _says_what_is_cut(text_tower: TextTower) -> Callable[[np.ndarray], bool]:
    """A function of a batch's strings, which warns once when some are longer than the tower's."""
    said, length = False, text_tower.sequence_length
    # TensorFlow keeps the Python functions of datasets, and all that they name, for good.
    tower = weakref.ref(text_tower)

    def look_at(text: np.ndarray) -> bool:
        nonlocal said
        alive = tower()
        if alive is None:
            return said
        counts = alive.preprocessor.token_counts(text.reshape(-1)).numpy()
        cut = int((counts > length).sum())
        if cut and not said:
            warnings.warn(
                f"{cut} of {len(counts)} captions of a batch are cut at "
                f"{length} tokens, the text tower's `sequence_length`; "
                f"{counts.max()} would hold them all.",
                stacklevel=2,
            )
            said = True
        return said

    return look_at


def _without_targets(x: tuple[Any, ...], columns: tuple[str, ...] | None) -> Any:
    """(pairs,) and (pairs, None) -> pairs; with `columns`, (image, label) -> a dict of them."""
    if len(x) and all(part is None for part in x[1:]):
        return x[0]
    if columns and len(x) == len(columns):
        return dict(zip(columns, x, strict=True))
    raise ValueError(
        f"Pairs should be {_KINDS}. Received a tuple of {len(x)}; LiT takes no targets and no "
        "weights of samples beside them. Map your dataset, for example "
        '`dataset.map(lambda image, text: {"image": image, "text": text})`.'
    )


def _of_arrays(x: Pairs, batch_size: int, shuffle: bool) -> tf.data.Dataset:
    x = {name: values if name == "image" else pairs.as_array(values) for name, values in x.items()}
    counts = {name: len(values) for name, values in x.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"There should be as many images as texts. Received: {counts}.")
    images = pictures.columns(x["image"]) if "image" in x else {}
    others = {name: values for name, values in x.items() if name != "image"}
    dataset = tf.data.Dataset.from_tensor_slices({**others, **images})
    if shuffle:
        dataset = dataset.shuffle(len(dataset), seed=distribution.agreed(pairs.draw_seed()))
    if "file" in images:
        _check_there(images["file"])
        dataset = dataset.map(_with_image, tf.data.AUTOTUNE)
    return dataset.batch(batch_size)


def _with_image(row: Pairs) -> Pairs:
    """Reads the image of a row's "file", which is its "name" where it has none."""
    file = row["file"]
    others = {name: x for name, x in row.items() if name != "file"}
    return {"name": file, **others, "image": tf.io.read_file(file)}


def _of_py_dataset(
    x: keras.utils.PyDataset, shuffle: bool, columns: tuple[str, ...] | None
) -> tf.data.Dataset:
    count = x.num_batches  # None where it is endless.
    if count == 0:
        raise ValueError(pairs.EMPTY)
    order = tf.data.Dataset.counter() if count is None else tf.data.Dataset.range(count)
    if shuffle and count is not None:
        order = order.shuffle(count, seed=distribution.agreed(pairs.draw_seed()))

    def epoch() -> Iterator[Any]:
        x.on_epoch_begin()
        if count is not None and (now := x.num_batches or 0) < count:
            raise ValueError(
                f"A PyDataset should keep its number of batches. Received: {count} batches first, "
                f"{now} now. Pass `steps_per_epoch` with an endless one, or leave rows out of "
                "batches, not batches out of epochs."
            )
        ahead: collections.deque = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(max(1, x.workers)) as pool:
            for index in order.as_numpy_iterator():
                ahead.append(pool.submit(x.__getitem__, int(index)))
                if len(ahead) > x.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        x.on_epoch_end()

    dataset = _of_python(epoch, x[0], columns)
    known = tf.data.INFINITE_CARDINALITY if count is None else count
    return dataset.apply(tf.data.experimental.assert_cardinality(known))


def _of_generator(x: Iterator[Any], columns: tuple[str, ...] | None) -> tf.data.Dataset:
    first = next(x, None)
    if first is None:
        raise ValueError(pairs.EMPTY)
    epochs = iter([itertools.chain([first], x)])

    def epoch() -> Iterator[Any]:
        batches = next(epochs, None)
        if batches is None:
            raise ValueError(
                "A generator gives its batches once, and this one has been read. For several "
                "epochs pass a keras.utils.PyDataset, or `steps_per_epoch` with an endless one."
            )
        return batches

    return _of_python(epoch, first, columns)


def _of_python(
    epoch: Callable[[], Iterator[Any]], first: Any, columns: tuple[str, ...] | None
) -> tf.data.Dataset:
    """A dataset of the batches that `epoch()` gives, of the dtypes and ranks of the `first`."""

    def arrays(batch: Any) -> Pairs:
        batch = _without_targets(batch, columns) if isinstance(batch, tuple) else batch
        if columns and not isinstance(batch, dict):
            batch = {columns[0]: batch}
        if not isinstance(batch, dict):
            raise ValueError(f"Pairs should be {_KINDS}. Received batches: {type(batch).__name__}.")
        return {name: np.asarray(pairs.as_array(values)) for name, values in batch.items()}

    def spec(values: np.ndarray) -> tf.TensorSpec:
        dtype = tf.string if values.dtype.kind in "OSU" else tf.as_dtype(values.dtype)
        shape: list[int | None] = [None, *values.shape[1:]] if values.shape else []
        if dtype == tf.uint8 and len(shape) == 4:
            shape[1:3] = [None, None]  # Batches of pictures may differ in size.
        return tf.TensorSpec(shape, dtype)

    signature = {name: spec(values) for name, values in arrays(first).items()}
    return tf.data.Dataset.from_generator(lambda: map(arrays, epoch()), output_signature=signature)


def _column(x: Any, of_tuples: tuple[str, ...], *names: str) -> Any:
    """The first of these columns, of pairs in any form; what has no columns is one itself."""
    if isinstance(x, dict):
        found = [x[name] for name in names if name in x]
        if not found:
            hint = checks.renaming(x, names[-1:])
            raise ValueError(
                f"There should be a column {names[-1]!r}. Received: {sorted(x)}. {hint}"
            )
        return found[0]
    if isinstance(x, _Stream):
        x = as_dataset(x, columns=of_tuples)
        if isinstance(x.element_spec, dict):
            _column(x.element_spec, of_tuples, *names)  # Raises here, not inside of a graph.
            return x.map(lambda row: _column(row, of_tuples, *names))
    return x


def _batched(rows: Any, batch_size: int, rank: int = 2) -> encoding.Batches:
    """Of strings, pixels, features or token ids: a dataset, batched or not, or an array.

    `rank` is that of a batch of features.
    """
    if not isinstance(rows, tf.data.Dataset):
        if len(rows) <= batch_size:
            return [tf.convert_to_tensor(rows)]
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
    spec = rows.element_spec
    batched = spec.shape.rank in ((1,) if spec.dtype == tf.string else (rank, 4))
    return rows if batched else rows.batch(batch_size)


def _mapped(batches: encoding.Batches, prepare: Callable[..., Any]) -> encoding.Batches:
    """Of a list at once: a dataset would be compiled anew for each call."""
    if isinstance(batches, list):
        return [prepare(*x) if isinstance(x, tuple) else prepare(x) for x in batches]
    check_ends(batches)
    return internals.mapped(batches, prepare).prefetch(tf.data.AUTOTUNE)


def _checked(x: Any, tower: Any, side: str) -> Any:
    """Pairs in any form, whose features are this tower's where they bring a fingerprint."""
    if isinstance(x, _Stream):
        x = as_dataset(x, columns=("image", "label") if side == "image" else ("text",))
        if not isinstance(x.element_spec, dict):
            return x
        return x.map(lambda row: pairs.of_tower(row, tower, side))
    return pairs.of_tower(x, tower, side) if isinstance(x, dict) else x


def _raw_images(images: Any, batch_size: int, rank: int, tower: ImageTower) -> encoding.Batches:
    """Batches of images, or of (images, names) where names are known."""
    images = _checked(pictures.listed(images), tower, "image")
    images = _column(images, ("image", "label"), *pairs.IMAGE_KEYS[::-1])
    if isinstance(images, tf.data.Dataset):
        return _batched(images, batch_size, rank)
    found = pictures.columns(pictures.listed(images))
    _check_some(next(iter(found.values())), "images")
    if "file" not in found:
        return _batched(found["image"], batch_size)
    _check_there(found["file"])
    if len(names := found["file"]) <= batch_size:
        return [(tf.stack([tf.io.read_file(name) for name in names]), tf.constant(names))]
    files = tf.data.Dataset.from_tensor_slices(names)
    return files.map(lambda name: (tf.io.read_file(name), name)).batch(batch_size)


def _check_there(names: Iterable[bytes]) -> None:
    """Looks for the files: TensorFlow buries the names, and cannot say those that are not UTF-8."""
    for name in names:
        text = os.fsdecode(name)
        shown: Any = text if is_utf8(text) else name
        if re.match("(https?|data):", text):
            raise ValueError(
                f"Images should be bytes or names of files: web addresses are not fetched. "
                f"Received: {shown!r:.99}."
            )
        if "://" not in text and not os.path.exists(text):
            raise tf.errors.NotFoundError(None, None, f"No such file: {shown!r:.300}")


def _check_eager(values: Any, side: str) -> None:
    if isinstance(values, keras.KerasTensor) or not tf.executing_eagerly():
        raise ValueError(
            f"`encode_{side}` returns NumPy arrays, so it cannot be part of a graph "
            f"(`tf.function`, `Dataset.map`, a model). There, with `tower = model.{side}_tower`, "
            "call `tf.math.l2_normalize(tower(tower.preprocessor(x)), axis=-1)`."
        )


def _check_some(values: Any, name: str) -> None:
    if len(values) == 0:
        raise ValueError(f"`{name}` should hold at least one. Received none.")

"""Encodes a dataset's images, and text, once, in shards, and resumes where it was interrupted."""

import itertools
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Literal

import keras
import tensorflow as tf
import tqdm

from keras_lit import checks, files
from keras_lit.features import feature_rows, manifests, rooms, tfrecords
from keras_lit.towers import ImageTower, TextTower, fingerprints
from keras_lit.towers.lower import Lower
from keras_lit.training import pairs

_SHARDS = 16  # By default, where there are as many batches.


def precompute(
    image_tower: ImageTower,
    dataset: tf.data.Dataset,
    directory: str | os.PathLike,
    batch_size: int = 64,
    shards: int | None = None,
    split: str = "train",
    dtype: Literal["float16", "float32"] = "float16",
    views: int = 1,
    seed: int = 0,
    text_preprocessor: keras.layers.Layer | None = None,
    skip_bad_images: bool = False,
    shard_index: int = 0,
    num_shards: int = 1,
    verbose: bool = True,
    text_tower: TextTower | None = None,
    last_blocks: int | None = None,
    max_bytes: int | None = None,
) -> manifests.Record | None:
    """Writes the image tower's features of a dataset, and a text tower's, once and for all.

    Killed at any moment and run again with the same arguments, it goes on after the last finished
    shard, and what it leaves is, byte for byte, what an uninterrupted run writes.

    Args:
        image_tower: an `ImageTower`; its pooled output before any head is stored, or with
            `pooling`="tokens" (or `blocks`) all tokens, often a hundred times as much. In a
            strategy's scope its replicas share each batch.
        dataset: unbatched {"image", "text", ...}, in the same order whenever it is read (give a
            shuffle a seed). Other fields (an id, a name, several captions [None]) are stored too.
        directory: where to write; `tfds.builder_from_directory` opens it.
        batch_size: int, how many images to encode at a time.
        shards: int, the number of files, at most the number of batches. None: 16, or the number of
            batches if that is less.
        split: str, the name of this part; a directory can hold several, of one tower.
        dtype: "float16" or "float32", as which the features are stored.
        views: int, how many random crops and flips of an image to store; 1: the plain image.
        seed: int, of these views.
        text_preprocessor: `text_tower.preprocessor`, to store token ids beside the text.
        skip_bad_images: bool, whether to leave out images that do not decode and to list them in
            the manifest; by default they are errors.
        shard_index: int, which of `num_shards` independent jobs this is; each writes its part of
            the shards, and `keras_lit.features.merge` joins them.
        num_shards: int, the number of jobs.
        verbose: bool, whether to show progress.
        text_tower: a `TextTower`, to store its pooled output before any head for each caption too,
            with which `tuning="LL"` trains heads alone. None: the text as it is.
        last_blocks: int, to store what enters the last blocks of the image tower, flat, with which
            `image_options=keras_lit.Lock(last_blocks=)` trains these alone, at the cost of these.
            For a ViT of 16 x 16 patches at 224 pixels and width 768 in float16, 302,592 bytes a
            picture (197 tokens). None: the pooled output.
        max_bytes: int, the most that the image features may take. None: what is free on the disk.

    Returns:
        The manifest (`keras_lit.features.manifest`), or None for one of several jobs.

    Raises:
        ValueError: an image that does not decode, or for text features an empty caption, by name;
            features that are not finite; a dataset without a known end; a directory that holds
            features of something else; features of more than `max_bytes`, or than fit on the disk.
        OSError: the disk is full, or the directory cannot be written.

    Example:

    >>> import tempfile
    >>> tower = keras_lit.ImageTower(
    ...     keras.Sequential([keras.Input([32, 32, 3]), keras.layers.Conv2D(8, 3)]))
    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> directory = tempfile.mkdtemp()
    >>> keras_lit.features.precompute(tower, pairs, directory, 4, 2, verbose=False)["pairs"]
    6
    >>> next(iter(keras_lit.features.load(directory)))["image_features"].shape
    TensorShape([8])

    Reference: the LiT paper, section 5.6.
    """
    checks.check_one_of(shard_index, range(num_shards), "shard_index")
    directory = pathlib.Path(directory)
    in_order = tf.data.Options()
    in_order.deterministic = True  # Of other orders each shard could hold any pairs.
    dataset = dataset.with_options(in_order) if isinstance(dataset, tf.data.Dataset) else dataset
    options = (batch_size, shards, split, dtype, views, seed, text_preprocessor, text_tower)
    plan, finished = begin(image_tower, dataset, directory, *options, last_blocks)
    if finished is not None:
        if verbose:
            tqdm.tqdm.write(
                f"{str(directory)!r} has {plan['pairs']:,} pairs of {split!r} from before. Of the "
                "data only their number and the first pair were compared: write others elsewhere."
            )
        return finished
    count = plan["shards"]
    mine = range(count * shard_index // num_shards, count * (shard_index + 1) // num_shards)
    missing = [shard for shard in manifests.missing_shards(directory, plan) if shard in mine]
    encode = feature_rows.encoder(image_tower, batch_size, last_blocks)
    of_text = text_tower and feature_rows.text_encoder(text_tower, batch_size)
    rows = feature_rows.Rows(encode, plan, text_preprocessor, skip_bad_images, of_text)
    total = bounds(plan, mine[-1])[1] - bounds(plan, mine[0])[0] if mine else 0
    left = sum(stop - start for start, stop in (bounds(plan, shard) for shard in missing))
    rooms.check(directory, plan, left, max_bytes)
    if verbose:
        tqdm.tqdm.write(rooms.in_words(plan))
    with tqdm.tqdm(total=total, initial=total - left, unit=" pairs", disable=not verbose) as bar:
        for run in _runs(missing):  # Each is one pass over its part of the dataset.
            start, stop = bounds(plan, run[0])[0], bounds(plan, run[-1])[1]
            # One pair more than there should be shows a dataset that has grown.
            part = dataset.take(stop + (stop == plan["pairs"]))
            batches = iter(feature_rows.prepare(part, image_tower, plan, start))
            before = manifests.read_record(directory, split, run[0] - 1) if run[0] else None
            after = None if before is None else before["last_input"]
            for shard in run:
                notes: manifests.Record = {}
                found = rows.of_shard(batches, *bounds(plan, shard), after, notes)
                tfrecords.write(directory, plan, shard, _showing(found, bar), notes)
                after = notes["last_input"]
            if next(batches, None) is not None:
                raise ValueError(feature_rows.ANOTHER_NUMBER.format(plan["pairs"], "more"))
    if num_shards > 1:
        return None
    return tfrecords.finish(directory, plan)


def begin(
    image_tower: ImageTower,
    dataset: tf.data.Dataset,
    directory: pathlib.Path,
    batch_size: int = 64,
    shards: int | None = None,
    split: str = "train",
    dtype: str = "float16",
    views: int = 1,
    seed: int = 0,
    text_preprocessor: keras.layers.Layer | None = None,
    text_tower: TextTower | None = None,
    last_blocks: int | None = None,
) -> tuple[manifests.Record, manifests.Record | None]:
    """Checks the arguments and agrees on a plan; also the manifest if the split is finished."""
    checks.check_one_of(dtype, ("float16", "float32"), "dtype")
    if not re.fullmatch(r"\w[\w-]*", split):
        raise ValueError(
            "`split` names what is written: letters, digits, _ and -. Received: "
            f"{split!r}. Take a part of a source where you read it."
        )
    for name, value in {"batch_size": batch_size, "shards": shards, "views": views}.items():
        if value is not None:
            checks.check_positive(value, name)
    feature_rows.check_dataset(dataset, image_tower, views)
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise ValueError(pairs.EMPTY)
    fields = tfrecords.fields_of(dataset.element_spec)
    tokens = None
    if text_preprocessor is not None:
        if fields.get("text") != {"dtype": "string", "shape": []}:
            raise ValueError(
                "Token ids are stored for one caption a pair. Received text: "
                f"{fields.get('text')}. Leave `text_preprocessor` out, or choose a caption."
            )
        tokens = {
            "length": text_preprocessor.sequence_length,
            "preprocessor": fingerprints.of_preprocessor(text_preprocessor),
        }
    text = {}
    if text_tower is not None:
        if "text" not in fields:
            raise ValueError(f'There should be a field "text". Received: {sorted(fields)}.')
        pairs.check_text(dataset.element_spec["text"], text_tower)
        tower = fingerprints.fingerprint(text_tower)
        text = {"text": {"dim": text_tower.feature_dim, "tower": tower}}
    below = None if last_blocks is None else Lower(image_tower, last_blocks)
    preprocessor = image_tower.preprocessor
    crops = {"random_crop": preprocessor.random_crop, "random_flip": preprocessor.random_flip}
    # All that decides the bytes of a cache.
    plan = {
        **{"split": split, "dtype": dtype, "views": views, "seed": seed},
        **{"shards": shards, "batch_size": batch_size, "format": manifests.FORMAT},
        "dim": image_tower.feature_dim if below is None else below.dim,
        "pairs": _count_pairs(dataset, directory, split),
        "fields": fields,
        "tokens": tokens,
        "tower": fingerprints.of_cached(image_tower, below),
        **text,  # Earlier plans do not have it.
        **({"last_blocks": last_blocks} if below else manifests.of_tokens(image_tower)),
        "augmentation": crops if views > 1 else None,
        "first_input": int(feature_rows.hash_of(first)),
    }
    batches = _batch_count(plan)
    if shards is None:
        plan["shards"] = min(_SHARDS, batches)
    elif shards > batches:
        raise ValueError(
            f"`shards` should be at most {batches}, the number of batches of {batch_size} pairs. "
            f"Received: {shards}."
        )
    plan = json.loads(json.dumps(plan))  # As it will be read from its file, with lists for tuples.
    directory.mkdir(parents=True, exist_ok=True)
    return plan, manifests.agree_on_plan(directory, plan)


def _count_pairs(dataset: tf.data.Dataset, directory: pathlib.Path, split: str) -> int:
    """Reads the dataset once to count it where its cardinality is unknown."""
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset should end. Received an infinite one: leave `repeat` out.")
    if count != tf.data.UNKNOWN_CARDINALITY:
        return count
    begun = manifests.known_plan(directory, split)
    if begun is not None:
        # A shuffle with a seed gives each reading of a run another order: all runs read as often.
        next(iter(dataset.take(1)), None)
        return begun["pairs"]
    logging.info("Counting the pairs, since `dataset.cardinality()` is unknown.")
    return int(dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))


def bounds(plan: manifests.Record, shard: int) -> tuple[int, int]:
    """The pairs of a shard, [start, stop): whole batches, so that no batch spans two shards."""
    edges = (_batch_count(plan) * i // plan["shards"] for i in (shard, shard + 1))
    start, stop = (min(edge * plan["batch_size"], plan["pairs"]) for edge in edges)
    return start, stop


def shard_of(plan: manifests.Record, number: int) -> int:
    """The shard of a pair, by `bounds`."""
    return ((number // plan["batch_size"] + 1) * plan["shards"] - 1) // _batch_count(plan)


def _batch_count(plan: manifests.Record) -> int:
    return -(-plan["pairs"] // plan["batch_size"])


def _showing(rows: Iterator[tfrecords.Row], bar: tqdm.tqdm) -> Iterator[tfrecords.Row]:
    for row in rows:
        yield row
        bar.update()


def _runs(numbers: list[int]) -> list[list[int]]:
    """Splits sorted numbers where they are not consecutive."""
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [[number for _, number in group] for _, group in groups]


def merge(
    directory: str | os.PathLike, split: str = "train", parts: Sequence[str | os.PathLike] = ()
) -> manifests.Record:
    """Verifies and joins the shards of all jobs of `precompute` (`shard_index`, `num_shards`).

    Args:
        directory: where the jobs wrote, or where to join them.
        split: str.
        parts: other directories that jobs wrote to, whose shards are copied here first.

    Returns:
        The manifest, byte for byte that of a single job.

    Raises:
        FileNotFoundError: no job has written here.
        ValueError: shards are missing, have changed since they were written, or are of different
            plans: another tower, dataset or choice of arguments.
        OSError: the disk is full, or the directory cannot be written.

    Example:

    >>> images = np.zeros([6, 40, 40, 3], "uint8")
    >>> pairs = tf.data.Dataset.from_tensor_slices({"image": images, "text": ["a dog"] * 6})
    >>> tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)]))
    >>> directory = tempfile.mkdtemp()
    >>> for job in range(2):  # On two machines, say.
    ...     keras_lit.features.precompute(
    ...         tower, pairs, directory, 3, 2, shard_index=job, num_shards=2, verbose=False)
    >>> keras_lit.features.merge(directory)["pairs"]
    6
    """
    directory = pathlib.Path(directory)
    for part in map(pathlib.Path, parts):
        _copy(part, directory, split)
    plan = manifests.known_plan(directory, split)
    if plan is None:
        raise FileNotFoundError(f"No job has written split {split!r} to {str(directory)!r}.")
    if (finished := manifests.agree_on_plan(directory, plan)) is not None:
        return finished
    if missing := manifests.missing_shards(directory, plan):
        raise ValueError(
            f"{len(missing)} of {plan['shards']} shards in {str(directory)!r} are missing: "
            f"{', '.join(map(str, missing))}. Run the jobs that write them, or pass their "
            "directories as `parts`."
        )
    changed = [
        record["file"]
        for record in manifests.read_records(directory, plan)
        if files.checksum(directory / record["file"]) != record["sha256"]
    ]
    if changed:
        raise ValueError(
            f"These shards have changed since they were written: {', '.join(changed)}. Delete "
            "them, and run their jobs again."
        )
    return tfrecords.finish(directory, plan)


def _copy(part: pathlib.Path, directory: pathlib.Path, split: str) -> None:
    """The files first and their records after them, so that a record stands for a whole file."""
    plan = manifests.known_plan(part, split)
    if plan is None:
        raise FileNotFoundError(f"No job has written split {split!r} to {str(part)!r}.")
    directory.mkdir(parents=True, exist_ok=True)
    if manifests.agree_on_plan(directory, plan) is not None:
        return
    for source in sorted(manifests.working_directory(part, split).glob("shard-*.json")):
        unfinished = manifests.working_directory(directory, split)
        file = manifests.shard_file(split, int(source.stem.split("-")[1]), plan["shards"])
        copies = {part / file: directory / file, source: unfinished / source.name}
        try:
            for old, new in copies.items():
                with files.whole(new, unfinished) as working:
                    shutil.copyfile(old, working)
        except OSError as error:
            raise manifests.write_error(directory / file, error) from error

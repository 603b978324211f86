"""Image-text pairs from a folder, a table, shards or a TensorFlow Datasets name."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.data import parquet
from keras_lit.data.captions import draw
from keras_lit.data.layouts import Layout, Row, check_layout, check_unused
from keras_lit.data.named_files import (
    check_no_pictures,
    check_there,
    is_path,
    named_by,
    parquet_files,
    warn_of_missing,
)
from keras_lit.data.shards import IS_SHARD, note_bad, read_shards, shard_files
from keras_lit.data.tables import (
    by_image,
    checked_rows,
    file_records,
    read_files,
    those_that_decode,
)
from keras_lit.preprocessing.image import decodes

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Pair = dict[str, tf.Tensor]


def image_text_pairs(
    source: str | os.PathLike | list[str] | tfds.core.DatasetBuilder,
    split: str = "train",
    image_key: str | None = None,
    text_key: str | None = None,
    captions: Literal["all", "first", "random"] = "all",
    shuffle_buffer: int = 0,
    seed: int | None = None,
    skipped: set[str] | None = None,
    data_dir: str | os.PathLike | None = None,
    test_fraction: float = 0.0,
    shard: tuple[int, int] | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    columns: tuple[str, ...] | None = None,
    image_dir: str | os.PathLike | None = None,
    group_key: str | None = None,
) -> tf.data.Dataset:
    """Reads pairs for `LiT.fit`.

    Args:
        source: one of
            - a folder: the pictures at any depth that lie beside a .txt of the same name with one
              caption a line; or with one .csv, .tsv or .jsonl file in it, see next;
            - a .csv, .tsv or .jsonl file with a column for the image (a path, relative to the file)
              and one for the text (in .jsonl also a list of texts); COCO's captions and Karpathy's
              splits (.json), Flickr8k's .token and captions.txt;
            - .parquet (with the package pyarrow), a file, a folder, a glob or a list: Hugging
              Face's with the images inside, img2dataset's whose images lie beside (as files or in
              a .tar), or a table;
            - shards: .tar (webdataset, img2dataset) or .tfrecord files, as a path, a folder, a
              glob, with braces ("{000..009}.tar") or a list of these; see `keras_lit.data.shards`;
            - the name of a TensorFlow dataset (downloaded and prepared if need be), or its builder.
        split: of a TensorFlow dataset, of Karpathy's, of a table's column "split", or in the names
            of Parquet files ("train-00000-of-00002"); of other files "train" or "test", see
            `test_fraction`.
        image_key: the column or feature that holds the image. None: the first of "image",
            "image_path", "path", "file_name", "filename", "file" that exists.
        text_key: the same for the text ("captions/text" for nested features). None: the first of
            "text", "caption", "captions", "captions/text", "title", "description". Of a folder of
            pictures "txt" or "caption", where both lie beside a picture.
        captions: "all" makes a pair of each caption of an image, "first" takes the first, "random"
            draws one in each epoch. Rows of the same image are one image in folders and tables; in
            shards, Parquet files with the images inside and TensorFlow datasets, which are read as
            a stream, each record is an image of its own, with the captions that it holds.
        shuffle_buffer: int, how many pairs to draw from at random, in a new order each epoch; 0
            for none. Files are shuffled before they are read, so that a buffer as large as the
            dataset costs little.
        seed: int, of the shuffling.
        skipped: None: an image that is missing or does not decode is an error, and so is a caption
            that is missing, empty or not UTF-8; a .txt without an image brings a warning. A set:
            all such are left out and named in it, an image that does not decode by its name, others
            as "where: what is wrong". Of folders and tables each image is decoded once before the
            first pair is read, so that the number of pairs is known; of shards and TensorFlow
            datasets once more whenever it is read.
        data_dir: where TensorFlow Datasets keeps the data of a name.
        test_fraction: float in 0..1, the part of a folder's, a table's or shards' images that is
            "test". A hash of the image's path relative to the folder (of its key and its shard's
            name; of its bytes, if they are in a Parquet file) decides, so that an image keeps its
            split, with all of its captions, when others are added. At 0 all are "train".
        shard: (index, count), to read one part of `count` equal ones, the same in each epoch, as
            one of that many jobs or workers: `LiT.fit` sees that it is a part. Shards are dealt out
            as whole files.
        separator: str, between the columns of a table; None: a tab in .tsv, a comma in others.
        encoding: str, of a table or of the .txt files; None: UTF-8.
        columns: the names of a table's columns, where its first line is no header.
        image_dir: the folder that the paths in a table begin at; None: the table's own.
        group_key: the column, feature, or field of a shard's .json, that says which pairs are
            positives of each other: a product's number, a label. None: no "group".

    Returns:
        A tf.data.Dataset of {"image": scalar string (an encoded image), "text": scalar string,
        "name": scalar string (the file or key, for messages)}, with `group_key` also "group":
        scalar string (of a TensorFlow dataset as it is).

    Raises:
        ValueError: no pairs, no such column or split, an empty caption or one that is no string;
            an argument that does not apply to this source.
        FileNotFoundError: a source or an image is missing.
        ImportError: pyarrow is missing.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> keras.utils.save_img(f"{folder}/toucan.png", np.zeros([40, 30, 3]))
    >>> with open(f"{folder}/toucan.txt", "w") as file:
    ...     print("a toucan on a branch", file=file)
    >>> pairs = keras_lit.data.image_text_pairs(folder)
    >>> next(iter(pairs))["text"].numpy()
    b'a toucan on a branch'
    """
    checks.check_one_of(captions, ("all", "first", "random"), "captions")
    index, count = shard or (0, 1)
    if not 0 <= index < count:
        raise ValueError(f"`shard` should be (index, count), index below count. Received: {shard}.")
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"`test_fraction` should be in 0..1. Received: {test_fraction}.")
    where: Any = source
    layout = Layout(image_key, text_key, separator, encoding, columns, image_dir, group_key)
    check_layout(layout)
    made = hasattr(source, "as_dataset")
    before = {*skipped} if skipped else set()
    shards = [] if made else named_by(where, shard_files)
    tables = [] if made or shards else named_by(where, parquet_files)
    if data_dir is not None and (made or shards or tables or is_path(where)):
        raise ValueError(
            "`data_dir` says where TensorFlow Datasets keeps a dataset that is given by its name: "
            f"leave it out for {str(source)!r}. Received: {str(data_dir)!r}."
        )
    records: Iterable[Row] | None = None
    named = shards or tables
    there = check_there(named, skipped)
    read, divided = functools.partial(read_shards, image_key=image_key, text_key=text_key), ""
    if shards:
        check_unused(layout, ("separator", "encoding", "columns", "image_dir"), where, "shards")
        check_no_pictures(where)
    elif tables:
        check_unused(layout, ("separator", "encoding", "columns"), where, "Parquet files")
        for x in sorted({*tables} - {*there}):
            note_bad(f"{x}: there is no such file", skipped)
        named = tables = there
        tables, divided = parquet.of_split(tables, split, test_fraction)
        named = named if divided == "column" else tables
        if parquet.holds_images(tables[0], layout):
            check_unused(layout, ("image_dir",), where, "Parquet files with the images inside")
            shards = tables
            of_column = split if divided == "column" else None
            reader = functools.partial(parquet.records, layout, of_column, skipped)
            read = functools.partial(read_shards, reader=reader)
        else:
            of_names = split if divided == "names" else None
            records = parquet.rows(tables, layout, of_names, skipped)
    elif not made and is_path(where):
        records = file_records(pathlib.Path(where), layout, skipped)

    warn_of_missing(where, named)
    if shards:
        if len(shards) < count:
            raise ValueError(
                f"{count} workers need at least as many shards. Received: {len(shards)} files."
            )
        options: Any = {"skipped": skipped, "shuffle": bool(shuffle_buffer), "seed": seed}
        pairs = read(shards[index::count], **options, group_key=group_key)
        pairs = pairs if divided else _split_of_shards(pairs, split, test_fraction, bool(tables))
        pairs = _choose(pairs, captions, seed)
    elif records is not None:
        root = pathlib.Path(tables[0] if tables else where)
        rows = checked_rows(list(records), root, split, test_fraction, skipped)
        images = by_image(rows, captions)[index::count]
        if skipped is not None:
            images = those_that_decode(images, skipped)
        options = {"grouped": bool(group_key), "skipped": (skipped or set()) - before}
        pairs = read_files(images, root, split, captions, shuffle_buffer, seed, **options)
        shuffle_buffer = 0  # That is done, with the names.
    else:
        from keras_lit.data import builders

        builder = where if made else builders.builder(str(where), data_dir)
        names = ("separator", "encoding", "columns", "image_dir")
        check_unused(layout, names, where, "a TensorFlow dataset")
        if test_fraction:
            raise ValueError(
                "`test_fraction` is for folders and tables. Choose the part of a TensorFlow "
                'dataset with `split`, for example split="train[80%:]". Received: '
                f"{test_fraction}."
            )
        pairs = builders.pairs_of(builder, split, image_key, text_key, shard, group_key)
        pairs = _check_captions(_choose(pairs, captions, seed), skipped)
    if skipped is not None and records is None:
        pairs = _only_good(pairs, lambda pair: decodes(pair["image"]), skipped)
    if shuffle_buffer:
        pairs = pairs.shuffle(shuffle_buffer, seed=seed)
    if count == 1:
        return pairs
    options = tf.data.Options()  # Tells `fit` and tf.distribute that no other worker reads these.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return pairs.with_options(options)


def _split_of_shards(
    pairs: tf.data.Dataset, split: str, test_fraction: float, by_content: bool
) -> tf.data.Dataset:
    checks.check_one_of(split, ("train", "test"), "split")
    if not test_fraction:
        if split == "test":
            raise ValueError("For a test split of shards, pass `test_fraction`.")
        return pairs

    def keep(pair: Pair) -> tf.Tensor:
        # The key and the shard's own name, wherever the shard lies.
        key = tf.strings.regex_replace(pair["name"], r"^.*/([^/]*" + IS_SHARD + "/)", r"\1")
        key = pair["image"] if by_content else key
        number = tf.strings.to_hash_bucket_fast(key, 2**30)
        is_test = tf.cast(number, tf.float64) / 2**30 < test_fraction
        return (is_test == (split == "test")) | (tf.size(pair["text"]) == 0)  # An error.

    return pairs.filter(keep)


def _choose(pairs: tf.data.Dataset, captions: str, seed: int | None) -> tf.data.Dataset:
    """Of pairs with a [n] "text" those with one each, in a known number if it can be."""

    def checked(pair: Pair) -> Pair:
        tf.debugging.Assert(tf.size(pair["text"]) > 0, [pair["name"]])  # See `read_shards`.
        return pair

    def each(pair: Pair) -> tf.data.Dataset:
        texts = tf.data.Dataset.from_tensor_slices(checked(pair)["text"])
        return texts.map(lambda text: {**pair, "text": text})

    if captions == "random":
        return draw(pairs.map(checked), seed=seed)
    if captions == "first" or pairs.element_spec["text"].shape == [1]:
        return pairs.map(lambda pair: {**checked(pair), "text": pair["text"][0]})
    return pairs.flat_map(each)


def _check_captions(pairs: tf.data.Dataset, skipped: set[str] | None) -> tf.data.Dataset:
    """Checks the captions of a TensorFlow dataset as those of files and shards are checked."""

    def is_caption(pair: Pair) -> tf.Tensor:
        text = pair["text"]
        same = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace") == text
        return (text != "") & same

    def checked(pair: Pair) -> Pair:
        message = "A caption is empty or not UTF-8. Pass `skipped=set()` to leave such pairs out:"
        tf.debugging.Assert(is_caption(pair), [message, pair["name"], pair["text"]])
        return pair

    pairs = pairs.map(lambda pair: {**pair, "text": tf.strings.strip(pair["text"])})
    return pairs.map(checked) if skipped is None else _only_good(pairs, is_caption, skipped)


def _only_good(
    pairs: tf.data.Dataset, is_good: Callable[[Pair], tf.Tensor], skipped: set[str]
) -> tf.data.Dataset:
    """Leaves out the other pairs and adds their names to `skipped`."""

    def note(name: bytes) -> bool:
        skipped.add(name.decode("utf-8", "replace"))
        return False

    def keep(pair: Pair, good: tf.Tensor) -> tf.Tensor:
        return tf.cond(good, lambda: True, lambda: tf.numpy_function(note, [pair["name"]], tf.bool))

    tried = internals.mapped(pairs, lambda pair: (pair, is_good(pair)))
    return tried.filter(keep).map(lambda pair, _: pair)

"""The three texts of a Flickr photo (title, description, tags) as the paper's Appendix E has it."""

from typing import Any

import tensorflow as tf

from keras_lit.data.captions import draw, with_numbers

__all__ = ["one_text", "three_texts", "usable_title"]

SEPARATORS = (" ", "\n", ", ", "; ", ". ", " | ", " - ")
Example = dict[str, Any]


def usable_title(title: str) -> bool:
    """Whether a title may describe its photo: the paper's rule, which is case-sensitive.

    Dropped are titles that are empty, begin with "DSC", "IMG" or "Picture", are the word "image",
    or consist of digits for more than a half.

    Args:
        title: str.

    Returns:
        bool.

    Example:

    >>> [usable_title(title) for title in ("IMG_0520", "image", "2008-07-26", "Route 66")]
    [False, False, False, True]
    """
    if not title or title.startswith(("DSC", "IMG", "Picture")) or title == "image":
        return False
    return 2 * sum(letter.isdigit() for letter in title) <= len(title)


def three_texts(examples: tf.data.Dataset, seed: int | None = None) -> tf.data.Dataset:
    """Title, description and tags of each photo, to train on jointly.

    The tags are shuffled and joined by a space, a newline or punctuation, one draw for each text,
    other ones in each epoch. `LiT.fit` sums a contrastive loss over the three texts.

    Args:
        examples: unbatched tf.data.Dataset of {"image", "title", "description": scalar string,
            "tags": [n] string, ...}, as `YFCC100MCLIP` has.
        seed: int, of the draws.

    Returns:
        The examples with "texts", [3] string, in place of the three; "" for one that is missing.

    Example:

    >>> photo = {"title": "Mila", "description": "", "tags": ["cat"]}
    >>> [p["texts"].numpy().tolist() for p in three_texts(tf.data.Dataset.from_tensors(photo))]
    [[b'Mila', b'', b'cat']]
    """

    def join(example: Example, seeds: tf.Tensor) -> Example:
        tags = tf.random.experimental.stateless_shuffle(example["tags"], seeds[:2])
        drawn = tf.random.stateless_uniform([], seeds[1:], 0, len(SEPARATORS), tf.int32)
        separator = tf.gather(tf.constant(SEPARATORS), drawn)
        tags = tf.where(tf.range(tf.size(tags)) > 0, separator + tags, tags)
        texts = [example["title"], example["description"], tf.strings.reduce_join(tags)]
        rest = {k: x for k, x in example.items() if k not in ("title", "description", "tags")}
        return {**rest, "texts": tf.stack(texts)}

    return with_numbers(examples, 3, seed).map(join)


def one_text(examples: tf.data.Dataset, seed: int | None = None) -> tf.data.Dataset:
    """One of the photo's texts, drawn anew in each epoch, for the loss of one text.

    Args:
        examples: as for `three_texts`.
        seed: int, of the draws.

    Returns:
        The examples with "text", a scalar string, in place of the three. Photos without any text
        are left out.

    Example:

    >>> photo = {"title": "Mila", "description": "", "tags": ["cat"]}
    >>> photos = tf.data.Dataset.from_tensors(photo).repeat(20)
    >>> sorted({pair["text"].numpy() for pair in one_text(photos, seed=0)})
    [b'Mila', b'cat']
    """

    def given(pair: Example) -> Example:
        texts = pair.pop("texts")
        return {**pair, "text": tf.boolean_mask(texts, texts != "")}

    photos = three_texts(examples, seed).map(given)
    return draw(photos.filter(lambda pair: tf.size(pair["text"]) > 0), seed=seed)

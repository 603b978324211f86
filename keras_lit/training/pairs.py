"""What a pair is, and from raw pairs to what the towers take: checks, preprocessing in tf.data."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.data import captions
from keras_lit.losses.distillation import TEACHER
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.preprocessing.image import check_channels, check_has_rank, value_bounds
from keras_lit.towers import ImageTower, TextTower, Tower, fingerprints
from keras_lit.towers.features_only import FeaturesOnly

IMAGE_KEYS = ("image", "image_features")
TEXT_KEYS = ("text", "texts", "text_features")
CAPTION = "text_of_features"  # Their strings, then hashes of them: equal ones are positives.
_OTHERS = ("group", "name", "fingerprint", "text_fingerprint", CAPTION)
KEYS = (*IMAGE_KEYS, *TEXT_KEYS, *TEACHER, *_OTHERS)
INPUTS = (*IMAGE_KEYS, "text", "text_features")  # What a model is called with, of a step's.
FOR_LOCKED = (
    '"{0}_features" are for a locked {0} tower (`tuning` {1}), since a tower that trains '
    'changes its features. Pass "{0}" instead.'
)
NO_CAPTION = "Captions should not be empty. Filter such pairs out."
NO_GROUP = (
    "`group` should not be empty: strangers would be positives of each other. Give each pair "
    "that has none one of its own, for example its name."
)
_SHOULD_BE = (
    'Pairs should be dicts {"image": ..., "text": ...} (or "image_features" for "image", '
    '"text_features" for "text"). '
)
EMPTY = "The dataset of pairs is empty. Check its source, filters and `take`."
Pairs = dict[str, Any]


def as_array(values: Any) -> Any:
    """Keeps bytes whole: NumPy's own string arrays cut trailing zero bytes off.

    Raises ValueError for rows of different lengths.
    """
    if isinstance(values, tf.RaggedTensor) or _is_uneven(values):
        raise ValueError(
            "A column should hold one caption or one array of token ids a pair. Received rows of "
            "different lengths. Choose a caption for each, or repeat the image for each of its "
            'captions, as `image_text_pairs(..., captions="all")` does.'
        )
    if isinstance(values, list | tuple) and values and isinstance(values[0], str | bytes):
        return np.array(values, dtype=object)
    if not tf.is_tensor(values) and hasattr(values, "__array__"):  # Columns of tables.
        return np.asarray(values)
    return values


def _is_uneven(values: Any) -> bool:
    if not isinstance(values, list | tuple):
        return False
    return len({len(row) for row in values if isinstance(row, list | tuple)}) > 1


def for_locked(side: str) -> str:
    """The message for features of a tower that trains."""
    return FOR_LOCKED.format(side, '"L."' if side == "image" else '".L"')


def one_text(pair: Pairs, locked: bool) -> Pairs:
    """A pair without the one of "text" and "text_features" that is not needed.

    Features stand for the text of a locked tower; one that trains reads the text. Strings remain,
    as `CAPTION`: of equal ones the features, of batches that were padded otherwise, may differ.
    """
    if not {"text", "text_features"} <= set(pair):
        return pair
    others = {"text"} if locked else {"text_features", "text_fingerprint"}
    found = {name: x for name, x in pair.items() if name not in others}
    if locked and getattr(pair["text"], "dtype", None) in (tf.string, np.dtype(object)):
        found[CAPTION] = pair["text"]
    return found


def with_one_text(pairs: tf.data.Dataset, locked: bool) -> tf.data.Dataset:
    """`one_text` of each."""
    spec = pairs.element_spec
    if isinstance(spec, dict) and {"text", "text_features"} <= set(spec):
        return pairs.map(lambda pair: one_text(pair, locked))
    return pairs


def preprocess(
    x: Any, image_tower: ImageTower, text_tower: TextTower, training: bool, text_locked: bool
) -> Any:
    """Raw pairs to what the towers take: a dataset, batched or not, or one batch as a dict.

    Random crops and flips are drawn anew each epoch, and are the same again for the same seed
    (`keras.utils.set_random_seed`), however many threads work on them.
    """
    if not isinstance(x, tf.data.Dataset):
        given = one_text(x, text_locked)
        x = {name: tf.convert_to_tensor(as_array(values)) for name, values in given.items()}
        check_spec(x, image_tower, text_tower)
        return ready(x, image_tower, text_tower, training)
    x = with_one_text(x, text_locked)
    check_spec(x.element_spec, image_tower, text_tower)
    if x.cardinality() == 0:
        raise ValueError(EMPTY)
    return internals.mapped(
        with_seeds(x, draw_seed()), lambda pair: ready(pair, image_tower, text_tower, training)
    ).prefetch(tf.data.AUTOTUNE)


def with_seeds(pairs: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """Adds a "seed" to each pair, new in each epoch, for the image tower's crops and flips."""

    def add(pair: Pairs, seed: tf.Tensor) -> Pairs:
        if are_batched(pair):
            seed = tf.random.experimental.stateless_split(seed, batch_size(pair))
        return {**pair, "seed": seed}

    return captions.with_numbers(pairs, 2, seed).map(add)


def ready(
    pair: Pairs, image_tower: ImageTower, text_tower: TextTower, training: bool = False
) -> Pairs:
    """Pairs, raw or not, checked -> the same, ready for the towers.

    They hold "image" or "image_features", and "text" or "text_features".

    What is raw (strings, uint8 pixels) is preprocessed, what is not passes through. A "seed"
    decides random crops and flips, a string "name" names a bad row in errors, "fingerprint" and
    "text_fingerprint" (from `features.load`) say which tower the features are of; other keys are
    left out. "texts" (a batch's strings [batch, n]) become "text" [batch, n, sequence_length]. The
    "mask" is False for rows that only fill a batch up [batch], and for texts that were "" [batch,
    n]. A "group", whose pairs are positives of each other, becomes an int64 (of strings a hash). A
    teacher's embeddings stay.
    """
    mask = pair.get("mask")
    pair = of_tower(of_tower(pair, image_tower, "image"), text_tower, "text")
    if "text_features" in pair:
        text = ready_features(pair, "text")
    elif "texts" in pair:
        several, given = _several(pair["texts"], text_tower)
        text = {"text": checked_token_ids(several, text_tower)}
        mask = given if mask is None else given & mask[:, tf.newaxis]
    else:
        text = pair["text"]
        text = _not_empty(text) if text.dtype == tf.string else text
        text = {"text": ready_text(text, text_tower)}
    found = {**ready_image(pair, image_tower.preprocessor, training), **text}
    if "group" in pair:
        found["group"] = _group_ids(pair["group"])
    if CAPTION in pair:
        found[CAPTION] = hashes(pair[CAPTION])
    for name in TEACHER:
        if name in pair:
            found[name] = finite(tf.cast(pair[name], tf.float32), name)
    return found if mask is None else {**found, "mask": mask}


def ready_text(text: tf.Tensor, text_tower: TextTower) -> tf.Tensor:
    """Strings or token ids -> token ids, checked."""
    if text.dtype == tf.string:
        text = text_tower.preprocessor(text)
    return checked_token_ids(tf.cast(text, tf.int32), text_tower)


def ready_features(pair: Pairs, side: str) -> Pairs:
    """{"image_features"} or {"text_features"}, checked."""
    name = f"{side}_features"
    return {name: finite(tf.cast(pair[name], tf.float32), name)}


def ready_image(pair: Pairs, preprocessor: ImagePreprocessor, training: bool = False) -> Pairs:
    """The image's part of `ready`: {"image"} or {"image_features"}."""
    if "image_features" in pair:
        return ready_features(pair, "image")
    image = pair["image"]
    if image.dtype.is_floating:
        return {"image": _plausible(finite(image, "image"), preprocessor)}
    names = _names(pair)
    return {"image": preprocessor(image, training=training, seed=pair.get("seed"), names=names)}


def check_spec(spec: Any, image_tower: ImageTower, text_tower: TextTower) -> None:
    """Raises ValueError unless dtypes and shapes of the pairs suit the towers."""
    if not isinstance(spec, dict):
        raise ValueError(
            f"{_SHOULD_BE}Received: {spec}. Map your dataset, for example "
            '`dataset.map(lambda image, text: {"image": image, "text": text})`.'
        )
    if not all(set(keys) & set(spec) for keys in (TEXT_KEYS, IMAGE_KEYS)):
        if "label" in spec:
            remedy = "Folders of classes are read as pairs by `keras_lit.data.class_pairs`."
        else:
            remedy = checks.renaming(sorted(spec), ("image", "text"))
        raise ValueError(f"{_SHOULD_BE}Received: {sorted(spec)}. {remedy}")
    if "text_features" in spec:
        check_features(spec["text_features"], text_tower, "text")
    elif "texts" in spec:
        check_texts(spec, text_tower)
    else:
        check_text(spec["text"], text_tower)
    if "group" in spec:
        _check_group(spec)
    if {*TEACHER} & set(spec):
        _check_teacher(spec)
    check_image_spec(spec, image_tower)


def check_image_spec(spec: Any, image_tower: ImageTower) -> None:
    """Raises ValueError unless "image_features" or "image" suits the tower."""
    if "image_features" in spec:
        check_features(spec["image_features"], image_tower, "image")
    else:
        check_image(spec["image"], image_tower)


def check_features(spec: Any, tower: Tower, side: str) -> None:
    """Raises ValueError unless features are floats as wide as the tower's."""
    dtype, name = tf.as_dtype(spec.dtype), f"{side}_features"
    checks.check_has_rank(spec, name, f"[{tower._cached_shape[-1]}]")
    if not dtype.is_floating:
        raise ValueError(f"`{name}` should be floats. Received: {dtype.name}.")
    if not _has_rows(spec, tower.feature_shape):
        _check_shape(spec, tower._cached_shape, name)


def check_image(spec: Any, image_tower: ImageTower) -> None:
    """Raises ValueError unless images are encoded, uint8 pixels or preprocessed."""
    check_has_backbone(image_tower)
    dtype = tf.as_dtype(spec.dtype)
    check_has_rank(spec)
    if dtype.is_floating:
        _check_shape(spec, (*image_tower.preprocessor.image_size, 3), "image")
    elif dtype not in (tf.string, tf.uint8):
        raise ValueError(
            "Images should be encoded (strings), uint8 pixels in 0..255, or preprocessed floats. "
            f"Received: {dtype.name} of shape {spec.shape}."
        )
    elif dtype == tf.uint8 and spec.shape.rank in (3, 4):
        check_channels(spec.shape)


def check_has_backbone(tower: Tower) -> None:
    """Raises ValueError for a tower `from_features`."""
    if isinstance(tower.backbone, FeaturesOnly):
        raise ValueError(tower.backbone.refusal)


def finite(values: tf.Tensor, name: str) -> tf.Tensor:
    """Passes values on, and fails when one of them is NaN or infinite."""
    message = f"`{name}` should be finite. Received NaN or infinite values."
    return tf.debugging.check_numerics(values, message)


def _plausible(images: tf.Tensor, preprocessor: ImagePreprocessor) -> tf.Tensor:
    """Passes preprocessed images on, and fails when they are pixels in 0..255 or 0..1 instead."""
    low, high = value_bounds(preprocessor)
    least, most = (tf.cast(f(images), tf.float32) for f in (tf.reduce_min, tf.reduce_max))
    message = (
        f"Float images should be preprocessed, with values from {low:.4g} to {high:.4g}. Pass "
        "pixels as uint8 in 0..255: `tf.cast(images, tf.uint8)`, or of floats in 0..1 "
        "`tf.image.convert_image_dtype(images, tf.uint8, saturate=True)`. Received from and to:"
    )
    # Ten times: what other programs preprocess may go somewhat beyond.
    fits = tf.maximum(-least, most) <= 10 * max(abs(low), abs(high))
    if low < 0:  # Pictures of any contrast have pixels below the middle; 0.15: bicubic overshoots.
        fits &= (least < 0.15 * low) | (most - least < 0.5) | (most > 1.15)
    else:
        fits &= least >= -0.25 * high
        if high > 1:
            fits &= (most > 1) | (most <= 0)
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, least, most])]):
        return tf.identity(images)


def checked_token_ids(token_ids: tf.Tensor, text_tower: TextTower) -> tf.Tensor:
    """Passes token ids on; fails at ids outside of the vocabulary and at rows of padding alone."""
    words = tf.reduce_any(token_ids != text_tower.pad_token_id, axis=-1)
    message = f"A text should have a token besides padding ({text_tower.pad_token_id}). Empty rows:"
    empty = tf.where(tf.logical_not(tf.reshape(words, [-1])))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(words), [message, empty])]):
        token_ids = tf.identity(token_ids)
    vocabulary_size = text_tower.vocabulary_size
    if vocabulary_size is None:
        return token_ids
    inside = tf.reduce_all((token_ids >= 0) & (token_ids < vocabulary_size))
    message = (
        f"Token ids should be in [0, {vocabulary_size}), the text tower's vocabulary. Use the "
        "tokenizer that belongs to it. Received ids from and to:"
    )
    ends = [tf.reduce_min(token_ids), tf.reduce_max(token_ids)]
    with tf.control_dependencies([tf.debugging.Assert(inside, [message, *ends])]):
        return tf.identity(token_ids)


def check_text(spec: Any, text_tower: TextTower) -> None:
    """Raises ValueError unless text is strings for a tower with a tokenizer, or token ids."""
    check_has_backbone(text_tower)
    dtype = tf.as_dtype(spec.dtype)
    shape = "[]" if dtype == tf.string else f"[{text_tower.sequence_length}]"
    checks.check_has_rank(spec, "text", shape)
    if dtype == tf.string:
        if text_tower.preprocessor is None:
            raise ValueError(
                "The text tower has no tokenizer, so it takes token ids. Received strings: give "
                "`TextTower` a `tokenizer`."
            )
        if spec.shape.rank not in (0, 1):
            raise ValueError(
                f"Text should hold one caption a pair. Received shape: {spec.shape}. Choose one, "
                'or `unbatch` them, or read with `image_text_pairs(..., captions="all")`.'
            )
    elif dtype.is_integer:
        _check_shape(spec, (text_tower.sequence_length,), "text")
    else:
        raise ValueError(
            "Text should be strings, or integer token ids [batch, "
            f"{text_tower.sequence_length}]. Received: {dtype.name} of shape {spec.shape}."
        )


def check_texts(spec: Any, text_tower: TextTower) -> None:
    """Raises ValueError unless "texts" are a batch's strings, as many for each image."""
    check_has_backbone(text_tower)
    texts = spec["texts"]
    if "text" in spec or text_tower.preprocessor is None:
        raise ValueError(
            '"texts" stand for "text", and are strings, for a text tower with a tokenizer. '
            f"Received: {sorted(spec)}, tokenizer {text_tower.preprocessor}."
        )
    if tf.as_dtype(texts.dtype) != tf.string or texts.shape.rank != 2 or not texts.shape[1]:
        raise ValueError(
            '`texts` should be strings [batch, n], n fixed, "" for one that is missing: batch the '
            f"pairs. Received: {tf.as_dtype(texts.dtype).name} of shape {texts.shape}."
        )


def caption_ids(token_ids: tf.Tensor, length: int | None = None, padding: int = 0) -> tf.Tensor:
    """[..., sequence_length] int -> [...] int64 hashes: captions that are equal to the text tower.

    The sum of the tokens, each times a random odd number of its place, modulo 2**64. Captions of
    batches that are trimmed differently have the same hash, with the whole `length` and the id of
    the `padding`.
    """
    width = tf.shape(token_ids)[-1]
    places = tf.random.stateless_uniform(
        [width if length is None else length], [1, 2], None, None, tf.int64, alg="philox"
    )[:width]
    token_ids = tf.cast(token_ids, tf.int64) - padding  # So that padding alone adds nothing.
    return tf.reduce_sum(token_ids * (2 * places + 1), axis=-1)


def _group_ids(group: tf.Tensor) -> tf.Tensor:
    if group.dtype == tf.string:
        return hashes(_not_empty(group, NO_GROUP))
    return tf.cast(group, tf.int64)


def hashes(strings: Any) -> tf.Tensor:
    """Strings -> int64, of the same shape."""
    return tf.strings.to_hash_bucket_fast(tf.convert_to_tensor(strings, tf.string), 2**63 - 1)


def _check_group(spec: Any) -> None:
    dtype, rank = tf.as_dtype(spec["group"].dtype), 1 if are_batched(spec) else 0
    if spec["group"].shape.rank != rank or not (dtype == tf.string or dtype.is_integer):
        raise ValueError(
            '`group` should be one string or integer a pair: those of equal "group" are positives '
            f"of each other. Received: {dtype.name} of shape {spec['group'].shape}."
        )


def _check_teacher(spec: Any) -> None:
    given = {name: spec[name] for name in TEACHER if name in spec}
    shapes, rank = [x.shape for x in given.values()], 2 if are_batched(spec) else 1
    floats = all(tf.as_dtype(x.dtype).is_floating for x in given.values())
    same = len(given) == 2 and {x.rank for x in shapes} == {rank} and shapes[0][-1] == shapes[1][-1]
    if "texts" in spec or not (same and floats):
        found = {name: f"{tf.as_dtype(x.dtype).name} {x.shape}" for name, x in given.items()}
        raise ValueError(
            f'A teacher\'s embeddings should be "{TEACHER[0]}" and "{TEACHER[1]}", floats [batch, '
            f'dim] of equal width, of one "text" a pair. Received: {found}'
            f"{', for texts' if 'texts' in spec else ''}. `keras_lit.features.with_teacher` adds "
            "them."
        )


def are_batched(spec: Any) -> bool:
    """Whether pairs (tensors or their spec) are a batch."""
    if "text_features" in spec:
        return spec["text_features"].shape.rank == 2
    return "texts" in spec or is_batched(spec["text"])


def batch_size(batch: Pairs) -> tf.Tensor:
    """The number of pairs in a batch."""
    return tf.shape(next(batch[name] for name in TEXT_KEYS if name in batch))[0]


def is_batched(text: Any) -> bool:
    """Whether text (a tensor or its spec) is that of a batch."""
    return text.shape.rank == (1 if tf.as_dtype(text.dtype) == tf.string else 2)


def _check_shape(spec: Any, row: tuple[int, ...], name: str) -> None:
    if not _has_rows(spec, row):
        raise ValueError(
            f"`{name}` should have shape [batch, {str(row)[1:-1].rstrip(',')}]. "
            f"Received: {spec.shape}."
        )


def _has_rows(spec: Any, row: tuple[int, ...]) -> bool:
    """Whether this is one row, or a batch of them."""
    same = spec.shape.rank is not None and spec.shape[-len(row) :].is_compatible_with(row)
    return same and spec.shape.rank <= len(row) + 1


def _not_empty(text: tf.Tensor, message: str = NO_CAPTION) -> tf.Tensor:
    empty = tf.strings.length(tf.strings.strip(text)) == 0
    rows = tf.where(empty if text.shape.rank else [empty])
    told = [f"{message} Empty rows:", rows]
    with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(empty), told)]):
        return tf.identity(text)


def _several(texts: tf.Tensor, text_tower: TextTower) -> tuple[tf.Tensor, tf.Tensor]:
    """[batch, n] strings -> [batch, n, sequence_length] token ids, [batch, n] bool: not empty."""
    given = tf.strings.length(tf.strings.strip(texts)) > 0
    # Replace a missing text by another caption of the same image; the mask excludes it.
    index = tf.argmax(tf.cast(given, tf.int32), axis=1)
    filled = tf.where(given, texts, tf.gather(texts, index, batch_dims=1)[:, tf.newaxis])
    token_ids = text_tower.preprocessor(_not_empty(tf.reshape(filled, [-1])))
    return tf.reshape(token_ids, [-1, texts.shape[1], token_ids.shape[-1]]), given


def of_tower(pair: Pairs, tower: Tower, side: str) -> Pairs:
    """Passes pairs on, and fails where a fingerprint says that features are of another tower."""
    name, whose = f"{side}_features", "fingerprint" if side == "image" else "text_fingerprint"
    if not {name, whose} <= {*pair}:
        return pair
    features = pair[name]
    with tf.init_scope():
        below = tower._below if tower._from_below(features) else None
        expected = fingerprints.of_cached(tower, below)
    if expected is None:
        return pair
    plan = '["tower"]' if side == "image" else '["text"]["tower"]'
    message = (
        f"These features are of another {side} tower: its architecture, weights, preprocessing or "
        "compute dtype differ from this model's. Precompute them with this model's tower. "
        f'`keras_lit.features.manifest(directory)["plan"]{plan}` and '
        f"`keras_lit.fingerprints.fingerprint(model.{side}_tower)` show the differences."
    )
    same = tf.reduce_all(pair[whose] == fingerprints.identity(expected))
    with tf.control_dependencies([tf.debugging.Assert(same, [message])]):
        return pair if tf.executing_eagerly() else {**pair, name: tf.identity(features)}


def _names(pair: Pairs) -> tf.Tensor | None:
    names = pair.get("name")
    if names is None or names.dtype != tf.string:
        return None
    return tf.reshape(names, [-1])


def draw_seed() -> int:
    """A seed that follows `keras.utils.set_random_seed`."""
    return int(np.random.randint(2**31))

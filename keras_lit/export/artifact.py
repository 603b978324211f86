"""`save`: a LiT becomes a version in a directory that TF Serving serves."""

import itertools
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.evaluation.calibration import Calibration
from keras_lit.evaluation.zero_shot import check_prompts
from keras_lit.export.edge import calibration_pixels, write_version
from keras_lit.export.edge_towers import SUFFIXES
from keras_lit.export.model_card import model_card
from keras_lit.export.publishing import publish
from keras_lit.export.signatures import FILLS, Signature, make_signatures
from keras_lit.model import LiT
from keras_lit.search import Index
from keras_lit.towers import settings
from keras_lit.towers.encoding import check_dim
from keras_lit.training import pairs

# Rows of the warm-up requests of each signature.
ROWS = (1, 8)
# Numbers of the fields in tensorflow_serving/apis/{prediction_log,predict,model}.proto.
_LOG_PREDICT, _PREDICT_REQUEST = 6, 1
_REQUEST_MODEL, _REQUEST_INPUTS, _MODEL_SIGNATURE = 1, 2, 3
_KEY, _VALUE = 1, 2


def save(
    model: LiT,
    directory: str | os.PathLike,
    version: int | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    *,
    format: Literal["saved_model", "onnx", "litert"] = "saved_model",
    towers: Literal["both", "image", "text"] = "both",
    weights: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
    calibration: Any = None,
    on_corrupt: Literal["fail", "nan", "zero"] = "fail",
    top_k: int = 5,
    index: Index | None = None,
    dim: int | None = None,
    card: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes `directory/<version>/`, a SavedModel that takes raw strings and image bytes.

    Or, with `format="onnx"` or `"litert"`, a file for each tower that takes arrays, with all that a
    program without TensorFlow needs to make these: see below.

    | signature | inputs | outputs |
    |---|---|---|
    | `encode_image` | `image_bytes` string [n] | `embedding` float32 [n, dim], unit length |
    | `encode_pixels` | `pixels` uint8 [n, height, width, 1 to 4] | `embedding` |
    | `encode_text` | `text` string [n] | `embedding` |
    | `similarity` | `image_bytes` [n], `text` string [n, m], [1, m] or [m] | `similarity` [n, m], \
cosines |
    | `classify_labels` | `image_bytes` [n], `labels` string [n, m], [1, m] or [m] | `scores` \
[n, m] |
    | `classify` | `image_bytes` [n] | `scores` [n, classes], `classes` (their names, for each \
row), `top_indices` int32 and `top_classes` string [n, top_k], best first; of a model with a \
`calibration` also `probability` float32 [n, top_k] of these and `accepted` bool [n] (of several \
labels a row [n, top_k]) |
    | `search` | `text` string [n] | `ids` int64, `names` string and `scores` float32 [n, top_k]: \
the pictures of an index, best first |
    | `search_image` | `image_bytes` [n] | the same |

    `serving_default` is `encode_text`, or `encode_image` where there is no text tower. `classify`
    needs `class_names`, whose prompts are encoded once, now. Scores are probabilities: a softmax
    over the row of the cosines times the temperature, or with the sigmoid loss each label's own.
    What `model.calibration` makes of the cosines is the `probability` that one can trust.

    `text` and `labels` have a row for each image, or one for all. A plain list is one for all too,
    refused where it is as long as `image_bytes`: a server that batches requests would join it with
    the lists of other clients. No rows are answered by none, [0, ...]. Empty labels fill up a row
    that has fewer than others: their score is 0.

    The artifact is written under another name and renamed, so that a server that polls never sees
    half of it. It also holds a model card, and warm-up requests for TF Serving.

    The other formats have no strings and no image decoder, so their towers take arrays of any
    number of rows, and `lit.json` beside them says how to make these; `examples/edge/reference.py`
    does it by NumPy, Pillow and sentencepiece. `classes.npy` holds the embeddings of `class_names`.

    | file | takes | gives |
    |---|---|---|
    | `image_tower.onnx` or `.tflite` | `pixels` uint8 [n, height, width, 3] | `embedding` \
float32 [n, dim], unit length |
    | `text_tower.onnx` or `.tflite` | `token_ids` int32 [n, sequence_length], in ONNX \
fewer where `any_length` of `lit.json` is true | `embedding` |

    Args:
        model: a `LiT` whose text tower has a tokenizer.
        directory: where the versions of the model live.
        version: a positive int; None takes the one after the highest.
        class_names: the classes of `classify`, in the order of its scores.
        templates: prompts with one `{}` for a class name or label, for `classify` and
            `classify_labels`; their embeddings are averaged. None: the name alone.
        format: "saved_model", "onnx" (onnxruntime, in the browser too) or "litert" (phones; before,
            TensorFlow Lite). The last two need `pip install 'keras_lit[edge]'`; each file is tried
            on two rows, and compared.
        towers: "both", or "image" or "text" for an artifact of that tower alone (an index builder
            needs one, a query service the other). With `class_names` the image tower can classify.
        weights: how they are stored: "float32"; "int8", a quarter of the space; in a SavedModel
            also "float16" or "bfloat16", half of it. A SavedModel casts them when it reads them
            and is no faster; ONNX and LiteRT compute in int8. `compare` says what that costs.
            (Towers of mixed precision compute in float32 there.)
        calibration: for "int8" of ONNX and LiteRT with an image tower, pictures like those to
            come, in any form that `encode_image` takes, or pairs: the first 256 say how far
            activations reach.
        on_corrupt: what a request gets whose image does not decode: "fail", an error that names
            the row; "nan", NaN in that row (no class: index -1, name ""), and an output `valid`
            (bool [n]) wherever `image_bytes` are taken; "zero", the same with 0 in place of NaN,
            which JSON does not have (a client over REST reads it with a strict parser).
        top_k: int, how many classes `classify` lists, and pictures `search`.
        index: a `keras_lit.search.Index` of this model's, of at most 1 GB of vectors, for `search`
            and `search_image`: its pictures as they now are.
        dim: int, to keep the first numbers of each embedding only, for a model whose `dims` were
            trained so; that of the `index`, if there is one. None: all.
        card: what the model card (`README.md`) says beside what the model knows of itself:
            section -> text or mapping, above all "data", "metrics" and "limits".

    Returns:
        The path of the version.

    Raises:
        ImportError: a package that the format needs is missing.
        ValueError: the text tower has no tokenizer; the index is another model's; the model's
            calibration is for other classes; the version exists or is not positive; a template
            without a slot; an unknown option, or one that the format does not have; a tower that
            computes what the format cannot.

    Example:

    >>> import tempfile
    >>> image_tower = keras_lit.ImageTower(
    ...     keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(8, 3)]))
    >>> tokenizer = keras_lit.tokenizers.train_wordpiece(["a red balloon", "the sea"], 60)
    >>> backbone = keras_lit.backbones.TextTransformer(tokenizer.vocabulary_size(), 8, 8, 1, 16, 2)
    >>> model = keras_lit.LiT(image_tower, keras_lit.TextTower(backbone, tokenizer, 8))
    >>> path = keras_lit.export.save(model, tempfile.mkdtemp(), class_names=["balloon", "sea"])
    >>> path.name, sorted(tf.saved_model.load(str(path)).signatures)[:3]
    ('1', ['classify', 'classify_labels', 'encode_image'])
    """
    checks.check_one_of(format, ("saved_model", *SUFFIXES), "format")
    checks.check_one_of(towers, ("both", "image", "text"), "towers")
    checks.check_one_of(on_corrupt, ("fail", *FILLS), "on_corrupt")
    checks.check_count(top_k, "top_k")
    if not isinstance(card, Mapping | None):
        raise TypeError(
            f'`card` should be a dict such as {{"data": "our shop"}}. Received: {card!r:.80}.'
        )
    templates = ("{}",) if templates is None else templates
    check_prompts(["a label"] if class_names is None else class_names, templates)
    templates = tuple(templates)
    check_dim(model.text_tower, dim)
    if format != "saved_model":
        if class_names is not None and model.calibration:
            warnings.warn(
                "The model's calibration is not written: clients of ONNX and LiteRT files compute "
                f"no probabilities of it. Give them its numbers: {model.calibration}.",
                stacklevel=2,
            )
        _check_edge(model, towers, weights, on_corrupt, class_names, index)
        needs_pictures = weights == "int8" and towers != "text"
        if needs_pictures != (calibration is not None):
            raise ValueError(
                '`calibration`, pictures, is for `weights="int8"` of an image tower, which needs '
                f"it. Received: {weights!r}, and {'no' if calibration is None else 'a'} "
                "`calibration`."
            )
        pictures = calibration_pixels(model, calibration) if needs_pictures else None
        options = (format, towers, class_names, templates, card or {}, dim, weights, pictures)
        return publish(directory, version, lambda path: write_version(path, model, *options))
    _check_can_encode(model, towers, class_names)
    if index is not None:
        index.check_model(model)
        if index.dim != (dim or model.image_tower.embedding_dim):
            raise ValueError(
                f"The `index` holds {index.dim} numbers of each embedding. Received `dim`: {dim}. "
                f"Pass `dim={index.dim}`."
            )
    if calibration is not None:
        raise ValueError(
            '`calibration`, pictures, is for `weights="int8"` of ONNX and LiteRT. To serve '
            "probabilities set `model.calibration = calibration.to_dict()`."
        )
    calibrated = None if class_names is None else _calibration(model, class_names, templates)
    if calibrated is not None and dim is not None:
        raise ValueError(
            "The model's calibration is one of whole embeddings: leave `dim` out, or set "
            "`model.calibration = None`."
        )
    of_towers = map(internals.flat_layers, (model.image_tower, model.text_tower))
    with settings.merged([*itertools.chain(*of_towers)]):  # Nothing of LoRA to do at each request.
        signatures = make_signatures(
            model,
            towers,
            weights,
            on_corrupt,
            class_names,
            templates,
            top_k,
            index,
            calibrated,
            dim,
        )

        def write(path: pathlib.Path) -> None:
            # Variables that the signatures use are written anyway; tracked ones a second time.
            archive = internals.export_archive()
            if towers != "image":  # Keras' own search goes through the vocabulary for seconds.
                tokenizer = tf.train.TrackableView(model.text_tower.preprocessor.tokenizer)
                for part in tokenizer.descendants():
                    if isinstance(part, tf.saved_model.experimental.TrackableResource):
                        archive.track(part)
            for name, signature in signatures.items():
                archive.add_endpoint(name, signature.function, list(signature.inputs))
            archive.write_out(str(path), verbose=False)
            _write_warm_up(path, signatures, model.image_tower.preprocessor.image_size)
            of_classes = class_names, templates, card or {}, calibrated, dim
            text = model_card(model, signatures, weights, *of_classes)
            (path / "README.md").write_text(text)

        return publish(directory, version, write)


def _check_edge(
    model: LiT,
    towers: str,
    weights: str,
    on_corrupt: str,
    class_names: Sequence[str] | None,
    index: Index | None,
) -> None:
    """Of a format whose towers take arrays."""
    checks.check_one_of(weights, ("float32", "int8"), "weights")
    for name, received, only in (
        ("on_corrupt", on_corrupt, "fail"),
        ("index", index, None),
    ):
        if received != only:
            raise ValueError(
                f"`{name}` is for SavedModels; towers for ONNX and LiteRT take arrays. "
                f"Received: {received!r}. Leave it out."
            )
    if class_names is not None:
        _check_can_encode(model, towers, class_names)
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if towers in ("both", name):
            pairs.check_has_backbone(tower)


def _check_can_encode(model: LiT, towers: str, class_names: Sequence[str] | None) -> None:
    if towers == "text" and class_names is not None:
        raise ValueError(
            "`class_names` make a classifier of images, so `towers` should be 'both' or 'image'. "
            "Received: 'text'."
        )
    if towers == "image" and class_names is None:
        return
    pairs.check_has_backbone(model.text_tower)
    if model.text_tower.preprocessor is None:
        raise ValueError(
            "An artifact takes raw text, so the text tower needs a tokenizer: "
            '`TextTower(..., tokenizer=...)`. (`towers="image"` needs none.)'
        )
    with tf.init_scope():
        model.text_tower.preprocessor(["keras-nlp's tokenizers make their tables when called"])


def _calibration(
    model: LiT, class_names: Sequence[str], templates: Sequence[str]
) -> Calibration | None:
    """The model's, which should be for these classes and prompts."""
    if not model.calibration:
        return None
    found = Calibration.from_dict(model.calibration)
    if found.class_names and found.class_names != tuple(class_names):
        raise ValueError(
            "The classes should be those that the model's calibration was fitted for, "
            f"{list(found.class_names)}. Received `class_names`: {list(class_names)}. Fit one for "
            "these, or set `model.calibration = None`."
        )
    if found.templates and found.templates != tuple(templates):
        raise ValueError(
            "The prompts should be those that the model's calibration was fitted for, "
            f"{list(found.templates)}. Received `templates`: {list(templates)}. Pass those, fit "
            "one for these, or set `model.calibration = None`."
        )
    return found


def _write_warm_up(
    directory: pathlib.Path, signatures: Mapping[str, Signature], image_size: tuple[int, int]
) -> None:
    """Writes requests of each size for each signature, whose first one is slow.

    TF Serving replays this TFRecord of `PredictionLog` messages before it puts a version into
    service. They are written by their wire format (length-delimited fields, nothing else) so that
    saving needs no `tensorflow-serving-api`; the tests read them with it.
    """
    folder = directory / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for name, signature in signatures.items():
            for rows in ROWS:
                samples = {s.name: _sample(s, rows, image_size) for s in signature.inputs}
                writer.write(_prediction_log(name, samples))


def _sample(spec: tf.TensorSpec, rows: int, image_size: tuple[int, int]) -> np.ndarray:
    """Noise for images, PNG and JPEG in turns; words for text, two for each image."""
    pixels = np.random.default_rng(0).integers(0, 256, [rows, *image_size, 3]).astype("uint8")
    if spec.name == "pixels":
        return pixels
    if spec.name == "image_bytes":
        encoders = (tf.io.encode_jpeg, tf.io.encode_png)
        return np.array([encoders[i % 2](pixels[i]).numpy() for i in range(rows)], object)
    texts = [f"a photo of {i} red balloons over the sea" for i in range(rows)]
    if spec.shape.rank == 1:
        return np.array(texts, object)
    return np.array([[text, "a toucan"] for text in texts], object)


def _prediction_log(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    request = _field(_REQUEST_MODEL, _field(_MODEL_SIGNATURE, signature.encode()))
    for name, values in inputs.items():
        tensor = tf.make_tensor_proto(values).SerializeToString()
        entry = _field(_KEY, name.encode()) + _field(_VALUE, tensor)
        request += _field(_REQUEST_INPUTS, entry)
    return _field(_LOG_PREDICT, _field(_PREDICT_REQUEST, request))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: tag, length as a varint, payload."""
    varint, length = b"", len(payload)
    while length >= 128:
        varint, length = varint + bytes([length % 128 + 128]), length // 128
    return bytes([number * 8 + 2]) + varint + bytes([length]) + payload

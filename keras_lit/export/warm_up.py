"""Requests that TF Serving replays before it puts a version into service.

The first request of a signature is slow (memory is allocated, graphs are optimised), and so would
be the first after each new version. TF Serving reads a TFRecord of `PredictionLog` messages from
`assets.extra/`. They are written by their wire format here (length-delimited fields, nothing else),
so that saving needs no `tensorflow-serving-api`; the tests read them with it.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_lit.export.signatures import Signature

FILE = "tf_serving_warmup_requests"
# Rows of the requests of each signature.
ROWS = (1, 8)
# Numbers of the fields in tensorflow_serving/apis/{prediction_log,predict,model}.proto.
_LOG_PREDICT, _PREDICT_REQUEST = 6, 1
_REQUEST_MODEL, _REQUEST_INPUTS, _MODEL_SIGNATURE = 1, 2, 3
_KEY, _VALUE = 1, 2


def write(
    directory: pathlib.Path, signatures: Mapping[str, Signature], image_size: tuple[int, int]
) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`: requests of each size for each signature.

    Args:
        directory: the artifact.
        signatures: by name.
        image_size: height and width of the sample images.

    Example:

    >>> import tempfile
    >>> spec = tf.TensorSpec([None], tf.string, name="text")
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> write(directory, {"encode_text": Signature(lambda text: {}, (spec,))}, (8, 8))
    >>> len(list(tf.data.TFRecordDataset(str(directory / "assets.extra" / FILE))))
    2
    """
    folder = directory / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for name, signature in signatures.items():
            for rows in ROWS:
                samples = {s.name: _sample(s.name, rows, image_size) for s in signature.inputs}
                writer.write(_prediction_log(name, samples))


def _sample(name: str, rows: int, image_size: tuple[int, int]) -> np.ndarray:
    """Noise for images, PNG and JPEG in turns; words for text."""
    pixels = np.random.default_rng(0).integers(0, 256, [rows, *image_size, 3]).astype("uint8")
    if name == "pixels":
        return pixels
    if name == "image_bytes":
        encoders = (tf.io.encode_jpeg, tf.io.encode_png)
        return np.array([encoders[i % 2](pixels[i]).numpy() for i in range(rows)], object)
    return np.array([f"a photo of {i} red balloons over the sea" for i in range(rows)], object)


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

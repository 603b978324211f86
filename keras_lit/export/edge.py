"""A version for phones, browsers and small containers: towers, a vocabulary, settings as JSON."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit import __version__, files
from keras_lit.evaluation.zero_shot import zero_shot_weights
from keras_lit.export import edge_towers
from keras_lit.export.edge_towers import SUFFIXES, EdgeFormat
from keras_lit.export.model_card import model_card
from keras_lit.export.quantizing import PICTURES
from keras_lit.export.signatures import Signature
from keras_lit.model import LiT
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor, tokenizers
from keras_lit.preprocessing.decoding import MAX_PIXELS
from keras_lit.preprocessing.image import out_of_range
from keras_lit.towers import TextTower, Tower
from keras_lit.training import batches

SETTINGS = "lit.json"
# Those of keras-nlp's tokenizers that do no more than their kind does.
_SENTENCEPIECE = "SentencePieceTokenizer T5Tokenizer SigLIPTokenizer GemmaTokenizer AlbertTokenizer"
_WORDPIECE = "WordPieceTokenizer BertTokenizer DistilBertTokenizer ElectraTokenizer"

_USAGE = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(embeddings,) = session.run(["embedding"], {{"{input}": ...}})""",
    "litert": """from ai_edge_litert.interpreter import Interpreter

run = Interpreter("{file}").get_signature_runner()
embeddings = run({input}=...)["embedding"]""",
}


def write_version(
    path: pathlib.Path,
    model: LiT,
    format: EdgeFormat,
    towers: str,
    class_names: Sequence[str] | None,
    templates: Sequence[str],
    card: Mapping[str, Any],
    dim: int | None,
    weights: str,
    pictures: np.ndarray | None,
) -> None:
    """Fills the folder of a version.

    | file | content |
    |---|---|
    | `image_tower.onnx` or `.tflite` | `pixels` uint8 [n, height, width, 3] -> `embedding` |
    | `text_tower.onnx` or `.tflite` | `token_ids` int32 [n, tokens] -> `embedding` |
    | `vocabulary.txt` or `vocabulary.model` | WordPiece, one a line, or SentencePiece |
    | `classes.npy` | [classes, dim] float32, the embeddings of `class_names` |
    | `lit.json` | how to make pixels and token ids, the temperature, SHA-256 of all files |
    | `README.md` | the model card |
    """
    path.mkdir()
    settings: dict[str, Any] = {
        "format": format,
        "weights": weights,
        "keras_lit": __version__,
        "embedding_dim": dim or model.text_tower.embedding_dim,
        "loss": model.loss_name,
        "temperature": float(model.temperature),
        **({} if model.loss_name == "softmax" else {"bias": float(model.bias)}),
    }
    signatures = {}
    both: dict[str, Tower] = {"image": model.image_tower, "text": model.text_tower}
    for side, tower in both.items():
        if towers not in ("both", side):
            continue
        spec = edge_towers.input_spec(tower, format)
        file = f"{side}_tower{SUFFIXES[format]}"
        rows = pictures if side == "image" else None
        edge_towers.write(tower, path / file, format, dim, weights == "int8", rows)
        shape = [size or tower.sequence_length for size in spec.shape[1:]]
        inputs = {"input": spec.name, "dtype": spec.dtype, "shape": shape}
        if isinstance(tower, TextTower):
            inputs["any_length"] = None in spec.shape[1:]  # Up to `shape`, without padding.
            inputs["pad_token_id"] = tower.pad_token_id
            settings[side] = {"file": file, **inputs, **_of_text(tower, path)}
        else:
            settings[side] = {"file": file, **inputs, **_of_images(tower.preprocessor)}
        given = tf.TensorSpec(spec.shape, spec.dtype, spec.name)
        signatures[f"encode_{side}"] = Signature(lambda: {}, (given,))
    if class_names is not None:
        encode = functools.partial(model.encode_text, dim=dim)
        np.save(path / "classes.npy", zero_shot_weights(encode, class_names, templates))
        settings["classes"] = {"file": "classes.npy", "names": list(class_names)}
    shown = next(x for x in ("image", "text") if x in settings)
    usage = _USAGE[format].format(file=settings[shown]["file"], input=settings[shown]["input"])
    of_classes = class_names, templates, card, None, dim, usage
    text = model_card(model, signatures, weights, *of_classes)
    (path / "README.md").write_text(text)
    settings["sha256"] = {file.name: files.checksum(file) for file in sorted(path.iterdir())}
    files.write_json(path / SETTINGS, settings)


def calibration_pixels(model: LiT, calibration: Any) -> np.ndarray:
    """The first pictures of pairs, or pictures in any form, as the image tower's file takes."""
    preprocessor, found, count = model.image_tower.preprocessor, [], 0
    for batch in batches.of_images(calibration, model.image_tower, 32):
        if isinstance(batch, dict):
            raise ValueError(
                "`calibration` should hold pictures. Received features, of which no pixels are "
                "known."
            )
        found.append(out_of_range(batch.numpy(), preprocessor.value_range))
        count += len(found[-1])
        if count >= PICTURES:
            break
    return np.concatenate(found)[:PICTURES]


def _of_images(preprocessor: ImagePreprocessor) -> dict[str, Any]:
    """How a picture becomes pixels; the tower scales them itself."""
    names = "resize crop_fraction background interpolation antialias exif_orientation"
    return {name: getattr(preprocessor, name) for name in names.split()} | {
        "max_pixels": MAX_PIXELS
    }


def _of_text(tower: TextTower, path: pathlib.Path) -> dict[str, Any]:
    """How a sentence becomes token ids, with the file of the vocabulary.

    The tokenizer is None where a tower has none, or one that is more than a vocabulary.
    """
    preprocessor: TextPreprocessor | None = tower.preprocessor
    found: dict[str, Any] = {"vocabulary_size": tower.vocabulary_size, "tokenizer": None}
    if preprocessor is None:
        return found
    tokenizer = preprocessor.tokenizer
    names = "sequence_length lowercase start_token_id end_token_id pad_token_id"
    found |= {name: getattr(preprocessor, name) for name in names.split()}
    if type(tokenizer).__name__ in _SENTENCEPIECE.split():
        options = {"kind": "sentencepiece", "file": "vocabulary.model"}
        more = "add_bos add_eos"
    elif type(tokenizer).__name__ in _WORDPIECE.split() and tokenizer.split:
        options = {"kind": "wordpiece", "file": "vocabulary.txt"}
        more = "lowercase strip_accents split_on_cjk suffix_indicator oov_token"
    else:
        return found
    tokenizers.save(tokenizer, path / options["file"])
    options |= {name: getattr(tokenizer, name) for name in more.split()}
    return {**found, "tokenizer": options}

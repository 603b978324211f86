"""Callbacks for `fit`: evaluation, pictures for TensorBoard, exact resume."""

from keras_lit.callbacks.evaluation import (
    FewShotEvaluation,
    RetrievalEvaluation,
    ZeroShotEvaluation,
)
from keras_lit.callbacks.exact_resume import ExactResume
from keras_lit.callbacks.pictures import RetrievalPictures

__all__ = [
    "ExactResume",
    "FewShotEvaluation",
    "RetrievalEvaluation",
    "RetrievalPictures",
    "ZeroShotEvaluation",
]
__dir__ = __all__.copy

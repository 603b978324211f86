"""Callbacks for `fit`: evaluation, pictures for TensorBoard, exact resume."""

from keras_lit.callbacks.evaluation import (
    FewShotEvaluation,
    RetrievalEvaluation,
    ZeroShotEvaluation,
)
from keras_lit.callbacks.exact_resume import ExactResume
from keras_lit.callbacks.pictures import RetrievalPictures, write_projector

__all__ = [
    "ExactResume",
    "FewShotEvaluation",
    "RetrievalEvaluation",
    "RetrievalPictures",
    "ZeroShotEvaluation",
    "write_projector",
]

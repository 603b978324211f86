"""Callbacks for `fit`: evaluation, pictures for TensorBoard, exact resume."""

from keras_lit.callbacks.evaluation import (
    FewShotEvaluation,
    RetrievalEvaluation,
    ZeroShotEvaluation,
)
from keras_lit.callbacks.exact_resume import ExactResume

__all__ = ["ExactResume", "FewShotEvaluation", "RetrievalEvaluation", "ZeroShotEvaluation"]

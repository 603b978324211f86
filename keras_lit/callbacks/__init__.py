"""Callbacks for `fit`: evaluation, pictures for TensorBoard."""

from keras_lit.callbacks.evaluation import (
    FewShotEvaluation,
    RetrievalEvaluation,
    ZeroShotEvaluation,
)

__all__ = ["FewShotEvaluation", "RetrievalEvaluation", "ZeroShotEvaluation"]

"""Evaluation as in the paper: pure functions over embeddings."""

from keras_lit.evaluation.retrieval import retrieval_recall
from keras_lit.evaluation.zero_shot import zero_shot_accuracy, zero_shot_weights

__all__ = ["retrieval_recall", "zero_shot_accuracy", "zero_shot_weights"]

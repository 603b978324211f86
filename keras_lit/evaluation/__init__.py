"""Evaluation as in the paper: pure functions over embeddings."""

from keras_lit.evaluation import calibration, datasets, prompts, sheets
from keras_lit.evaluation.between import Between, along
from keras_lit.evaluation.encoded import Images, ImagesAndTexts
from keras_lit.evaluation.few_shot import few_shot_accuracy, linear_probe_accuracy
from keras_lit.evaluation.folders import dataset_of_folder
from keras_lit.evaluation.patch_maps import heat_maps, pointing_accuracy
from keras_lit.evaluation.reporting import report
from keras_lit.evaluation.results import Result
from keras_lit.evaluation.retrieval import recall_by_language, retrieval_recall
from keras_lit.evaluation.segmentation import mean_iou, read_masks, segment
from keras_lit.evaluation.tasks import classify, retrieve, seen_in_training, select
from keras_lit.evaluation.zero_shot import (
    multi_label_accuracy,
    zero_shot_accuracy,
    zero_shot_confusions,
    zero_shot_weights,
)

__all__ = [
    "Between",
    "Images",
    "ImagesAndTexts",
    "Result",
    "along",
    "calibration",
    "classify",
    "dataset_of_folder",
    "datasets",
    "few_shot_accuracy",
    "heat_maps",
    "linear_probe_accuracy",
    "mean_iou",
    "multi_label_accuracy",
    "pointing_accuracy",
    "prompts",
    "read_masks",
    "recall_by_language",
    "report",
    "retrieval_recall",
    "retrieve",
    "seen_in_training",
    "segment",
    "select",
    "sheets",
    "zero_shot_accuracy",
    "zero_shot_confusions",
    "zero_shot_weights",
]
__dir__ = __all__.copy

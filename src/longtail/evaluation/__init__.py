"""How good a model is: predictions, metrics, scores."""

from longtail.evaluation.metrics import (
    calibration_error,
    confusion_matrix,
    macro_accuracy,
    mean_interval,
    micro_accuracy,
    per_class_accuracy,
    wilson_interval,
)
from longtail.evaluation.mixtures import Answers, compare_mixtures
from longtail.evaluation.predict import (
    answer_split,
    predict_split,
    read_predictions,
    write_predictions,
)
from longtail.evaluation.scores import headlines, score, summarise

__all__ = [
    "Answers",
    "answer_split",
    "calibration_error",
    "compare_mixtures",
    "confusion_matrix",
    "headlines",
    "macro_accuracy",
    "mean_interval",
    "micro_accuracy",
    "per_class_accuracy",
    "predict_split",
    "read_predictions",
    "score",
    "summarise",
    "wilson_interval",
    "write_predictions",
]

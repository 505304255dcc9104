"""How good predictions are: metrics, scores and their intervals; no model and no image is read.

How a model predicts is in `prediction`.
"""

from longtail.evaluation.metrics import (
    calibration_error,
    confusion_matrix,
    macro_accuracy,
    mean_interval,
    micro_accuracy,
    per_class_accuracy,
    wilson_interval,
)
from longtail.evaluation.scores import (
    accuracies,
    headlines,
    image_counts,
    judged,
    score,
    summarise,
    worst_class,
)

__all__ = [
    "accuracies",
    "calibration_error",
    "confusion_matrix",
    "headlines",
    "image_counts",
    "judged",
    "macro_accuracy",
    "mean_interval",
    "micro_accuracy",
    "per_class_accuracy",
    "score",
    "summarise",
    "wilson_interval",
    "worst_class",
]

"""When not to trust a prediction, computed from arrays; not where the arrays come from.

Confidence thresholds with a guarantee, prediction sets, distances between features, coarser classes, and
which images to label next.
"""

from longtail.uncertainty.acquisition import expected_gain, rank_for_labelling
from longtail.uncertainty.ancestors import Hierarchy
from longtail.uncertainty.conformal import (
    ClassThresholds,
    aps_scores,
    class_thresholds,
    conformal_quantile,
    lac_scores,
    prediction_sets,
)
from longtail.uncertainty.distance import NearestFeatures, p_values, spread, unit
from longtail.uncertainty.rejection import (
    Threshold,
    accuracy_by_coverage,
    highest_precision,
    lower_bound,
    reject_threshold,
)

__all__ = [
    "ClassThresholds",
    "Hierarchy",
    "NearestFeatures",
    "Threshold",
    "accuracy_by_coverage",
    "aps_scores",
    "class_thresholds",
    "conformal_quantile",
    "expected_gain",
    "highest_precision",
    "lac_scores",
    "lower_bound",
    "p_values",
    "prediction_sets",
    "rank_for_labelling",
    "reject_threshold",
    "spread",
    "unit",
]

"""Corrections of a trained model: functions of weights, features and logits; no files and no runs.

`tool` applies them to runs, checkpoints and tables of logits, and says what they change. Losses, which
correct during training, are in `losses`.
"""

from longtail.adjust.nearest_class_mean import NearestClassMean, nearest_class_mean
from longtail.adjust.prior_shift import (
    deployment_shift,
    distribution,
    estimate_prior,
    in_use,
    logit_adjust,
    shift_prior,
)
from longtail.adjust.retrain import (
    Retraining,
    learn_scales,
    retrain_classifier,
    scaled_learning_rate,
)
from longtail.adjust.tau_normalisation import TAUS, TauCurve, tau_curve, tau_normalize
from longtail.adjust.temperature import fit_temperature

__all__ = [
    "TAUS",
    "NearestClassMean",
    "Retraining",
    "TauCurve",
    "deployment_shift",
    "distribution",
    "estimate_prior",
    "fit_temperature",
    "in_use",
    "learn_scales",
    "logit_adjust",
    "nearest_class_mean",
    "retrain_classifier",
    "scaled_learning_rate",
    "shift_prior",
    "tau_curve",
    "tau_normalize",
]

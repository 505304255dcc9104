"""Repair a trained model after the fact: functions of weights, features and logits."""

from longtail.adjust.mixture import (
    group_weights,
    instance_weights,
    learn_group_weights,
    learn_instance_weights,
    mix,
    simplex_grid,
    unbiased,
)
from longtail.adjust.nearest_class_mean import NearestClassMean, nearest_class_mean
from longtail.adjust.prior_shift import (
    assumed_prior,
    deployment_shift,
    estimate_prior,
    logit_adjust,
    shift_prior,
)
from longtail.adjust.retrain import (
    Retraining,
    learn_scales,
    retrain_classifier,
    scaled_learning_rate,
)
from longtail.adjust.stacking import Stacking, fit_stacking
from longtail.adjust.tau_normalisation import TAUS, TauCurve, tau_curve, tau_normalize
from longtail.adjust.temperature import fit_temperature

__all__ = [
    "TAUS",
    "NearestClassMean",
    "Retraining",
    "Stacking",
    "TauCurve",
    "assumed_prior",
    "deployment_shift",
    "estimate_prior",
    "fit_stacking",
    "fit_temperature",
    "group_weights",
    "instance_weights",
    "learn_group_weights",
    "learn_instance_weights",
    "learn_scales",
    "logit_adjust",
    "mix",
    "nearest_class_mean",
    "retrain_classifier",
    "scaled_learning_rate",
    "shift_prior",
    "simplex_grid",
    "tau_curve",
    "tau_normalize",
    "unbiased",
]

"""Repair a trained model after the fact: pure functions of weights, features and logits."""

from longtail.adjust.nearest_class_mean import NearestClassMean, nearest_class_mean
from longtail.adjust.prior_shift import estimate_prior, logit_adjust, shift_prior
from longtail.adjust.tau_normalisation import tau_normalize
from longtail.adjust.temperature import fit_temperature

__all__ = [
    "NearestClassMean",
    "estimate_prior",
    "fit_temperature",
    "logit_adjust",
    "nearest_class_mean",
    "shift_prior",
    "tau_normalize",
]

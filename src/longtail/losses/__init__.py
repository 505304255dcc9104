"""Losses: pure functions of tensors, and thin modules. Usable in anybody's loop."""

from longtail.losses.adjusted_softmax import LabelLoss, Reduction, adjusted_cross_entropy
from longtail.losses.class_weights import WeightScheme, class_weights
from longtail.losses.cross_entropy import CrossEntropy, cross_entropy
from longtail.losses.focal import Focal, SigmoidFocal, focal, rare_positive_bias, sigmoid_focal
from longtail.losses.ldam import LDAM, ldam, ldam_margins
from longtail.losses.logit_adjusted import LogitAdjusted, balanced_softmax, logit_adjusted

__all__ = [
    "LDAM",
    "CrossEntropy",
    "Focal",
    "LabelLoss",
    "LogitAdjusted",
    "Reduction",
    "SigmoidFocal",
    "WeightScheme",
    "adjusted_cross_entropy",
    "balanced_softmax",
    "class_weights",
    "cross_entropy",
    "focal",
    "ldam",
    "ldam_margins",
    "logit_adjusted",
    "rare_positive_bias",
    "sigmoid_focal",
]

"""Losses: pure functions of tensors, and thin modules. Usable in anybody's loop."""

from longtail.losses.adjusted_softmax import LabelLoss, Reduction, adjusted_cross_entropy
from longtail.losses.class_weights import WeightScheme, class_weights
from longtail.losses.compensation import (
    Reading,
    compensated_cross_entropy,
    preference,
    reversed_prior,
)
from longtail.losses.contrast import Contrast, contrast
from longtail.losses.cross_entropy import CrossEntropy, cross_entropy
from longtail.losses.diversity import diversity, diversity_temperature
from longtail.losses.equalization import SoftmaxEqualization, softmax_equalization
from longtail.losses.focal import Focal, SigmoidFocal, focal, rare_positive_bias, sigmoid_focal
from longtail.losses.gaussian_clouded import GaussianClouded, cloud_sizes, gaussian_clouded
from longtail.losses.inverse_softmax import InverseSoftmax, inverse_bias
from longtail.losses.label_aware_smoothing import LabelAwareSmoothing, smoothing_by_class
from longtail.losses.lade import LADE, lade_regulariser
from longtail.losses.ldam import LDAM, ldam, ldam_margins
from longtail.losses.logit_adjusted import LogitAdjusted, balanced_softmax, logit_adjusted
from longtail.losses.mutual import hard_categories, masked_logits, mutual_divergence
from longtail.losses.paco import PaCoTerms, paco
from longtail.losses.softmax_binary import SoftmaxBinary, softmax_binary
from longtail.losses.supcon import supervised_contrastive

__all__ = [
    "LADE",
    "LDAM",
    "Contrast",
    "CrossEntropy",
    "Focal",
    "GaussianClouded",
    "InverseSoftmax",
    "LabelAwareSmoothing",
    "LabelLoss",
    "LogitAdjusted",
    "PaCoTerms",
    "Reading",
    "Reduction",
    "SigmoidFocal",
    "SoftmaxBinary",
    "SoftmaxEqualization",
    "WeightScheme",
    "adjusted_cross_entropy",
    "balanced_softmax",
    "class_weights",
    "cloud_sizes",
    "compensated_cross_entropy",
    "contrast",
    "cross_entropy",
    "diversity",
    "diversity_temperature",
    "focal",
    "gaussian_clouded",
    "hard_categories",
    "inverse_bias",
    "lade_regulariser",
    "ldam",
    "ldam_margins",
    "logit_adjusted",
    "masked_logits",
    "mutual_divergence",
    "paco",
    "preference",
    "rare_positive_bias",
    "reversed_prior",
    "sigmoid_focal",
    "smoothing_by_class",
    "softmax_binary",
    "softmax_equalization",
    "supervised_contrastive",
]

"""Losses: pure functions of tensors, and thin modules, usable in anybody's loop; no networks, no options."""

from longtail.losses.contrastive.balanced import balanced_contrastive
from longtail.losses.contrastive.contrast_set import Contrast, contrast
from longtail.losses.contrastive.lifted_structured import lifted_structured
from longtail.losses.contrastive.paco import PaCoTerms, paco
from longtail.losses.contrastive.range_loss import range_loss
from longtail.losses.contrastive.supcon import supervised_contrastive
from longtail.losses.contrastive.targeted import targeted_contrastive
from longtail.losses.contrastive.von_mises_fisher import (
    concentration,
    expected_similarity,
    log_bessel,
)
from longtail.losses.for_experts.distillation import distillation
from longtail.losses.for_experts.diversity import diversity, diversity_temperature
from longtail.losses.for_experts.knowledge_excavation import knowledge_excavation
from longtail.losses.for_experts.mutual_distillation import (
    hard_categories,
    masked_logits,
    mutual_divergence,
)
from longtail.losses.margin_and_prior.compensation import (
    Reading,
    compensated_cross_entropy,
    preference,
    reversed_prior,
)
from longtail.losses.margin_and_prior.gaussian_clouded import (
    GaussianClouded,
    cloud_sizes,
    gaussian_clouded,
)
from longtail.losses.margin_and_prior.inverse_softmax import InverseSoftmax, inverse_bias
from longtail.losses.margin_and_prior.label_aware_smoothing import (
    LabelAwareSmoothing,
    smoothing_by_class,
)
from longtail.losses.margin_and_prior.lade import LADE, lade_regulariser
from longtail.losses.margin_and_prior.ldam import LDAM, ldam, ldam_margins
from longtail.losses.margin_and_prior.logit_adjusted import (
    LogitAdjusted,
    balanced_softmax,
    logit_adjusted,
)
from longtail.losses.margin_and_prior.vector_scaling import (
    VectorScaling,
    class_temperatures,
    vector_scaling,
)
from longtail.losses.reweighting.class_weights import WeightScheme, class_weights
from longtail.losses.reweighting.equalization import SoftmaxEqualization, softmax_equalization
from longtail.losses.reweighting.focal import (
    Focal,
    SigmoidFocal,
    focal,
    rare_positive_bias,
    sigmoid_focal,
)
from longtail.losses.softmax.adjusted_softmax import LabelLoss, Reduction, adjusted_cross_entropy
from longtail.losses.softmax.cross_entropy import CrossEntropy, cross_entropy
from longtail.losses.softmax.softmax_binary import SoftmaxBinary, softmax_binary

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
    "VectorScaling",
    "WeightScheme",
    "adjusted_cross_entropy",
    "balanced_contrastive",
    "balanced_softmax",
    "class_temperatures",
    "class_weights",
    "cloud_sizes",
    "compensated_cross_entropy",
    "concentration",
    "contrast",
    "cross_entropy",
    "distillation",
    "diversity",
    "diversity_temperature",
    "expected_similarity",
    "focal",
    "gaussian_clouded",
    "hard_categories",
    "inverse_bias",
    "knowledge_excavation",
    "lade_regulariser",
    "ldam",
    "ldam_margins",
    "lifted_structured",
    "log_bessel",
    "logit_adjusted",
    "masked_logits",
    "mutual_divergence",
    "paco",
    "preference",
    "range_loss",
    "rare_positive_bias",
    "reversed_prior",
    "sigmoid_focal",
    "smoothing_by_class",
    "softmax_binary",
    "softmax_equalization",
    "supervised_contrastive",
    "targeted_contrastive",
    "vector_scaling",
]

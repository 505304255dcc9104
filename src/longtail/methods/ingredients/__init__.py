"""What several methods are made of: options of losses, heads, samplers, mixing and more; not a method."""

from longtail.methods.ingredients.assumed_prior import assumed
from longtail.methods.ingredients.class_weights import ClassWeightOptions
from longtail.methods.ingredients.feature_losses import FeatureLossOptions
from longtail.methods.ingredients.head_start import (
    HeadStartOptions,
    ProbeOptions,
    start_head,
    start_stage,
)
from longtail.methods.ingredients.heads import HeadOptions, refuse_without_cosines
from longtail.methods.ingredients.losses import (
    BalancedSoftmaxOptions,
    CrossEntropyOptions,
    InverseSoftmaxOptions,
    LateLossOptions,
    LogitAdjustedOptions,
    LossOptions,
    SigmoidFocalOptions,
    losses_that_correct,
)
from longtail.methods.ingredients.mixing import (
    MixingOptions,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.ingredients.mixup_cutmix import Mixed, drawn_box, with_box
from longtail.methods.ingredients.sampling import SamplingOptions
from longtail.methods.ingredients.sharpness import SharpnessOptions
from longtail.methods.ingredients.views import ViewName

__all__ = [
    "BalancedSoftmaxOptions",
    "ClassWeightOptions",
    "CrossEntropyOptions",
    "FeatureLossOptions",
    "HeadOptions",
    "HeadStartOptions",
    "InverseSoftmaxOptions",
    "LateLossOptions",
    "LogitAdjustedOptions",
    "LossOptions",
    "Mixed",
    "MixingOptions",
    "ProbeOptions",
    "SamplingOptions",
    "SharpnessOptions",
    "SigmoidFocalOptions",
    "ViewName",
    "assumed",
    "drawn_box",
    "losses_that_correct",
    "mixed_batch",
    "mixing_corrections",
    "mixing_streams",
    "refuse_without_cosines",
    "start_head",
    "start_stage",
    "with_box",
]

"""Networks: backbones, experts and heads, without knowledge of training."""

from longtail.models.backbones import Backbone, build_backbone
from longtail.models.experts import Experts, build_experts
from longtail.models.heads import CosineHead, LinearHead

__all__ = [
    "Backbone",
    "CosineHead",
    "Experts",
    "LinearHead",
    "build_backbone",
    "build_experts",
]

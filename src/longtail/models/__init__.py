"""Networks: backbones and heads, without knowledge of training."""

from longtail.models.backbones import Backbone, build_backbone
from longtail.models.heads import CosineHead, LinearHead

__all__ = ["Backbone", "CosineHead", "LinearHead", "build_backbone"]

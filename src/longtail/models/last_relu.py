"""Features without the last ReLU of a residual network, so that they have directions of both signs."""

from __future__ import annotations

from typing import Any

from torch import nn

from longtail.models.backbones import Backbone
from longtail.models.resnet_cifar import BasicBlock


def without_last_relu(backbone: Backbone) -> Backbone:
    """Leave out the ReLU behind the last block of a residual network, in place; others stay as they are.

    Source: Gidaris and Komodakis, CVPR 2018, section 3.1.
    """
    network: Any = backbone.network
    groups = [part for name, part in network.named_children() if name.startswith("layer")]
    if not groups:
        return backbone
    last: Any = groups[-1][-1]
    if isinstance(last, BasicBlock):
        last.rectified = False
    else:  # timm's blocks of two or three convolutions
        last.set_submodule("act3" if hasattr(last, "act3") else "act2", nn.Identity())
    return backbone

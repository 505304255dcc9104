"""Experts that fuse the last map with one of another depth (SHIKE; Jin et al., CVPR 2023).

A residual network of G groups is shared but for its last group, of which every expert has its own. Expert e
(from 0) multiplies its last map, place by place, with the map of group 1 + (e mod (G - 1)), which strided
convolutions bring to the same size: each halves the sides and doubles the channels.

    CIFAR ResNet, three experts      layer1 (two convolutions), layer2 (one), layer1 (two)
    ResNet-50, three experts         layer1 (three), layer2 (two), layer3 (one)

As released, every strided convolution but the second of its chain ends with a ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longtail.models.backbones import Backbone
from longtail.models.residual_groups import residual_groups


class DepthFusion(nn.Module):
    """The shared groups, and for each expert a last group and the way from another depth.

    Args:
        backbones: One for each expert, of the same kind; the first one's lower groups are shared.

    Attributes:
        num_features: Width D of each expert's features.

    Raises:
        ConfigError: If the network is no residual network of groups, or enlarges its images.
    """

    def __init__(self, backbones: Sequence[Backbone]) -> None:
        super().__init__()
        parts = [residual_groups(backbone, "SHIKE fuses groups") for backbone in backbones]
        self.stem, groups = parts[0]
        self.groups = nn.ModuleList(groups[:-1])
        self.last = nn.ModuleList(own[-1] for _, own in parts)
        self.num_features = backbones[0].num_features
        self.depths = [e % len(self.groups) for e in range(len(backbones))]
        self.aligned = nn.ModuleList(
            _chain(self.num_features, len(self.groups) - depth) for depth in self.depths
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to the features of every expert, [B, E, D]."""
        maps = [self.stem(images)]
        for group in self.groups:
            maps.append(group(maps[-1]))
        fused = [
            last(maps[-1]) * aligned(maps[1 + depth])
            for last, aligned, depth in zip(self.last, self.aligned, self.depths, strict=True)
        ]
        return torch.stack([m.mean(dim=(2, 3)) for m in fused], dim=1)


def _chain(width: int, length: int) -> nn.Sequential:
    """Build the strided convolutions that end with `width` channels."""
    layers: list[nn.Module] = []
    for place in range(length):
        channels = width >> (length - place)
        convolution = nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(2 * channels)]
        if place != 1:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)

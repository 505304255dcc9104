"""Self-attention on the last feature map, modulated place by place (OLTR; Liu et al., CVPR 2019).

    maps + s * A(maps)      A: non-local attention, its last convolution zero in the beginning
                            s: softmax over the places of a linear layer on the whole map

The linear layer knows one size of map, 7 x 7, that of images of 224 pixels in an ImageNet ResNet. Other maps
are brought to it, and s to theirs (bilinear).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 7


class ModulatedAttention(nn.Module):
    """As the head of this file says; in the beginning it changes nothing.

    Args:
        channels: D of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.places = nn.Linear(channels * SIDE * SIDE, SIDE * SIDE)
        for layer in (self.query, self.key, self.value):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, D, h, w] to [B, D, h, w]."""
        size = maps.shape[2:]
        query, key, value = (
            layer(maps).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # [B, h w, D / 2]
        attended = (query @ key.transpose(1, 2)).softmax(dim=2) @ value
        mask = self.out(attended.transpose(1, 2).unflatten(2, size))  # [B, D, h, w]
        known = _of_size(maps, (SIDE, SIDE))
        spatial = self.places(known.flatten(1)).softmax(dim=1)  # [B, 49]
        attention: Tensor = _of_size(spatial.unflatten(1, (1, SIDE, SIDE)), (size[0], size[1]))
        added: Tensor = attention * mask
        return maps + added


def _of_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)

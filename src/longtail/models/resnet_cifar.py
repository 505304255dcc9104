"""ResNets for CIFAR-sized images (He et al., CVPR 2016, section 4.2), as the long-tail codes use.

3x3 stem, three groups of n basic blocks with 16, 32 and 64 channels (times a width), depth 6n + 2.
Shortcuts of option A: where the width doubles, every second pixel is taken and the missing channels
are zeros, half of them on each side. No bias in convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut.

    Attributes:
        rectified: Whether a ReLU follows the sum of both.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride, self.missing = stride, channels_out - channels_in
        self.rectified = True

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.missing:
            half = self.missing // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, half, self.missing - half))
        return F.relu(out + x) if self.rectified else out + x


class CifarResNet(nn.Module):
    """Backbone of depth 6 `blocks` + 2; its features are the average of the last map, after ReLU.

    Args:
        blocks: Basic blocks in each of the three groups.
        width: Multiplies the channels.
        channels: Of the three groups.
    """

    def __init__(
        self, blocks: int, width: int = 1, channels: tuple[int, ...] = (16, 32, 64)
    ) -> None:
        super().__init__()
        channels = tuple(width * c for c in channels)
        self.conv1 = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = _group(channels[0], channels[0], blocks, stride=1)
        self.layer2 = _group(channels[0], channels[1], blocks, stride=2)
        self.layer3 = _group(channels[1], channels[2], blocks, stride=2)
        self.num_features = channels[2]
        # as timm describes its networks
        self.feature_info = [{"num_chs": channels[2], "reduction": 4, "module": "layer3"}]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # fan in, as the released codes

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, 64 * width], all at least 0."""
        return torch.mean(self.forward_features(x), dim=(2, 3))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to the last feature map [B, 64 * width, H / 4, W / 4]."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return maps


def _group(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    rest = (BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)

"""Several experts on one trunk, as in RIDE (Wang et al., ICLR 2021, arXiv 2010.01809).

All experts share the stem and the first groups of layers; each has the last groups for itself, narrower
than in the plain network, so that two or three experts cost little more than one network. The cuts:

    resnet20 .. resnet56     shared stem, layer1 (16);             own layer2 (24), layer3 (48)
    resnet10 .. resnext152   shared stem, layer1, layer2;          own layer3 (192), layer4 (384)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.backbones import IMAGENET_RESNETS, residual_network
from longtail.models.resnet_cifar import DEPTHS, CifarResNet

CIFAR_CHANNELS = (16, 24, 48)
IMAGENET_CHANNELS = (64, 128, 192, 384)


class Experts(nn.Module):
    """A shared trunk and E tails.

    Attributes:
        num_features: Width D of each expert's features.
    """

    def __init__(self, trunk: nn.Module, tails: list[nn.Module], num_features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.tails = nn.ModuleList(tails)
        self.num_features = num_features

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised pictures [B, 3, H, W] to E feature maps [B, D, h, w]."""
        shared = self.trunk(images)
        return [tail(shared) for tail in self.tails]


def build_experts(name: str, count: int, *, width: int = 1) -> Experts:
    """Build a network of experts.

    Args:
        name: A CIFAR ResNet or one of the field's ImageNet ResNets; not pretrained.
        count: Number of experts E.
        width: Channel multiplier of the CIFAR ResNets.

    Raises:
        ConfigError: If the network is none that is divided here.
    """
    if name in DEPTHS:
        channels = tuple(width * c for c in CIFAR_CHANNELS)
        small = [CifarResNet(DEPTHS[name], channels=channels) for _ in range(count)]
        first = small[0]
        trunk = nn.Sequential(first.conv1, first.bn1, nn.ReLU(), first.layer1)
        return Experts(trunk, [nn.Sequential(n.layer2, n.layer3) for n in small], channels[-1])
    if name in IMAGENET_RESNETS and width == 1:
        large = [residual_network(name, IMAGENET_CHANNELS) for _ in range(count)]
        root: Any = large[0]
        trunk = nn.Sequential(
            root.conv1, root.bn1, root.act1, root.maxpool, root.layer1, root.layer2
        )
        parts = [dict(network.named_children()) for network in large]
        tails: list[nn.Module] = [nn.Sequential(p["layer3"], p["layer4"]) for p in parts]
        return Experts(trunk, tails, int(root.num_features))
    raise ConfigError(
        f"There are no experts of {name}"
        + (f" at width {width}" if width != 1 else "")
        + f"; choose a backbone among {', '.join([*DEPTHS, *IMAGENET_RESNETS])}."
    )

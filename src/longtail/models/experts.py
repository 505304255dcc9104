"""Several experts on one trunk, as in RIDE (Wang et al., ICLR 2021, arXiv 2010.01809).

All experts share the stem and the first groups of layers; each has the last groups for itself, narrower
than in the plain network, so that two or three experts cost little more than one network. The cuts:

    resnet20 .. resnet56     shared stem, layer1 (16);             own layer2 (24), layer3 (48)
    resnet10 .. resnext152   shared stem, layer1, layer2;          own layer3 (192), layer4 (384)

At full width (BalPoE; SADE on CIFAR-10-LT and Places-LT) the own groups are those of the plain network, so
published weights fit, and every expert begins with a copy of them. BBN shares everything but the last
residual block.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.backbones import build_backbone, residual_network
from longtail.models.published import IMAGENET_RESNETS, own_name
from longtail.models.resnet_cifar import DEPTHS, CifarResNet

CIFAR_CHANNELS = (16, 24, 48)
IMAGENET_CHANNELS = (64, 128, 192, 384)
Own = Literal["groups", "block"]  # what each expert has for itself, see the head of this file


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

    def forward(self, images: Tensor, *, led: bool = False) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to E feature maps [B, D, h, w].

        Args:
            images: [B, 3, H, W].
            led: Whether the first expert alone sends a gradient to the trunk (ACE).
        """
        shared = self.trunk(images)
        apart = shared.detach() if led else shared
        return [tail(apart if e else shared) for e, tail in enumerate(self.tails)]


def build_experts(
    name: str,
    count: int,
    *,
    width: int = 1,
    narrow: bool = True,
    own: Own = "groups",
    pretrained: bool = False,
    weights: Path | None = None,
) -> Experts:
    """Build a network of experts.

    Args:
        name: A CIFAR ResNet or one of the field's ImageNet ResNets, with or without the tag of its weights.
        count: Number of experts E.
        width: Channel multiplier of the CIFAR ResNets.
        narrow: Whether the tails are narrower than the plain network's.
        own: What each expert has for itself: the last groups of layers, or the last residual block.
        pretrained: Whether every expert begins with timm's published weights; at full width only.
        weights: File to take the weights from, likewise.

    Raises:
        ConfigError: If the network is none that is divided here, or weights are asked for that do not fit.
        DataError: If the file of weights cannot be read.
    """
    own_network = own_name(name)
    if name not in DEPTHS and (own_network not in IMAGENET_RESNETS or width != 1):
        raise ConfigError(
            f"There are no experts of {name}"
            + (f" at width {width}" if width != 1 else "")
            + f"; choose a backbone among {', '.join([*DEPTHS, *IMAGENET_RESNETS])}."
        )
    trained = pretrained or weights is not None
    if trained and narrow:
        raise ConfigError(
            "The experts are narrower than any published network: start from random weights "
            "(model.pretrained=false, no model.weights), or use method=experts with "
            "method.narrow=false."
        )
    if trained:
        whole = build_backbone(name, pretrained=pretrained, width=width, weights=weights)
        networks: list[Any] = [copy.deepcopy(whole.network) for _ in range(count)]
    else:
        networks = [_network(own_network, width, narrow=narrow) for _ in range(count)]
    first = networks[0]
    if name in DEPTHS:
        stem = [first.conv1, first.bn1, nn.ReLU(), first.layer1]
        groups = [(n.layer2, n.layer3) for n in networks]
    else:
        stem = [first.conv1, first.bn1, first.act1, first.maxpool, first.layer1, first.layer2]
        groups = [(n.layer3, n.layer4) for n in networks]
    if own == "block":
        before_last, last = groups[0]
        stem += [before_last, *last[:-1]]
        tails: list[nn.Module] = [last[-1] for _, last in groups]
    else:
        tails = [nn.Sequential(*pair) for pair in groups]
    return Experts(nn.Sequential(*stem), tails, int(first.num_features))


def _network(name: str, width: int, *, narrow: bool) -> nn.Module:
    """Build one network with fresh weights, of which an expert gets the last groups."""
    if name in DEPTHS:
        channels = CIFAR_CHANNELS if narrow else (16, 32, 64)
        return CifarResNet(DEPTHS[name], width, channels)
    return residual_network(name, IMAGENET_CHANNELS) if narrow else residual_network(name)

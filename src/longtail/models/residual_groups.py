"""A residual network in its parts: stem, groups of layers, features of the last map."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.backbones import Backbone


def residual_groups(backbone: Backbone, what: str) -> tuple[nn.Sequential, list[nn.Module]]:
    """Return the stem and the groups of layers of a residual network.

    Args:
        backbone: A CIFAR ResNet, or one of the field's ImageNet ResNets.
        what: What the method does with them, for the message: `SHIKE fuses groups`.

    Raises:
        ConfigError: If it is no residual network of groups, or enlarges its images.
    """
    network: Any = backbone.network
    names = [name for name, _ in network.named_children() if name.startswith("layer")]
    if len(names) < 2 or backbone.enlarge_to is not None:
        raise ConfigError(
            f"{what} of a residual network that takes images as they are: choose model.backbone among "
            "resnet32, resnet50 and their like, without model.enlarge_to."
        )
    activation = getattr(network, "act1", nn.ReLU())
    pooling = getattr(network, "maxpool", nn.Identity())
    stem = nn.Sequential(network.conv1, network.bn1, activation, pooling)
    return stem, [network.get_submodule(name) for name in names]


def channels_of(group: nn.Module) -> int:
    """Return the number of channels of the maps that a group of layers, or several in a row, end with."""
    widths = [m.num_features for m in group.modules() if isinstance(m, nn.BatchNorm2d)]
    return int(widths[-1])


class SideExits(nn.Module):
    """A residual network that can be left after every group of layers.

    Args:
        backbone: See `residual_groups`.
        what: Likewise.

    Attributes:
        widths: Of the features at each exit, D_1 to D_E; the last is the network's own.
    """

    def __init__(self, backbone: Backbone, what: str) -> None:
        super().__init__()
        self.stem, groups = residual_groups(backbone, what)
        self.groups = nn.ModuleList(groups)
        self.widths = tuple(channels_of(group) for group in groups)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to the mean of each group's maps, E times [B, D_e]."""
        maps, pooled = self.stem(images), []
        for group in self.groups:
            maps = group(maps)
            pooled.append(maps.mean(dim=(2, 3)))
        return pooled


class DividedBackbone(nn.Module):
    """A residual network, cut at the input of its last group of layers.

    Args:
        backbone: See `residual_groups`.
        what: Likewise.

    Attributes:
        num_features: Width D of the features.
    """

    def __init__(self, backbone: Backbone, what: str) -> None:
        super().__init__()
        stem, groups = residual_groups(backbone, what)
        self.below = nn.Sequential(stem, *groups[:-1])
        self.last = groups[-1]
        self.num_features = backbone.num_features

    def forward(self, images: Tensor, part: Literal["all", "below", "last"] = "all") -> Tensor:
        """Map normalised images [B, 3, H, W] to features [B, D].

        Args:
            images: Or, for `last`, maps at the cut, [B, D', h', w'].
            part: `below` ends with these maps, `last` begins with them.
        """
        maps = images if part == "last" else self.below(images)
        if part != "below":
            maps = self.last(maps).mean(dim=(2, 3))
        found: Tensor = maps
        return found

"""One door to every backbone: CIFAR ResNets, the field's ImageNet ResNets, any timm model."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.low_rank import add_low_rank
from longtail.models.resnet_cifar import DEPTHS, CifarResNet
from longtail.models.weights import load_network

if TYPE_CHECKING:
    from timm.models.resnet import ResNet

Triple = tuple[float, float, float]
SMALL_RESNET50 = "resnet50-small"  # 3x3 stem without pooling, for 32 pixels (SupCon, PaCo)


@dataclass(frozen=True)
class _Residual:
    block: Literal["BasicBlock", "Bottleneck"]
    layers: tuple[int, int, int, int]
    cardinality: int = 1
    base_width: int = 64
    timm_name: str | None = None  # the same network with published weights


# stride on the 3x3 convolution ("v1.5"); ResNeXt 32 x 4d
IMAGENET_RESNETS = {
    "resnet10": _Residual("BasicBlock", (1, 1, 1, 1)),
    "resnet50": _Residual("Bottleneck", (3, 4, 6, 3), timm_name="resnet50"),
    "resnet101": _Residual("Bottleneck", (3, 4, 23, 3), timm_name="resnet101"),
    "resnet152": _Residual("Bottleneck", (3, 8, 36, 3), timm_name="resnet152"),
    "resnext50": _Residual("Bottleneck", (3, 4, 6, 3), 32, 4, "resnext50_32x4d"),
    "resnext101": _Residual("Bottleneck", (3, 4, 23, 3), 32, 4, "resnext101_32x4d"),
    "resnext152": _Residual("Bottleneck", (3, 8, 36, 3), 32, 4),
}
OWN_NAMES = (*DEPTHS, *IMAGENET_RESNETS, SMALL_RESNET50)  # they take pictures of any size


class Backbone(nn.Module):
    """A network from pictures to features.

    Attributes:
        num_features: Width D of the features.
        enlarge_to: Side in pixels to which pictures are enlarged before the network; None for none.
    """

    def __init__(self, network: nn.Module, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.num_features = num_features
        self.enlarge_to: int | None = None

    @property
    def last_block(self) -> str:
        """Name of the last group of layers, `network.layer3` of a CIFAR ResNet.

        Raises:
            ConfigError: If the network does not say how it is divided.
        """
        parts: Any = getattr(self.network, "feature_info", None)
        if not parts:
            raise ConfigError(
                f"{type(self.network).__name__} does not name its blocks, so its last block cannot "
                "be trained alone; train the classifier or everything."
            )
        return f"network.{parts[-1]['module']}"

    def forward(self, images: Tensor, *, pooled: bool = True) -> Tensor:
        """Map normalised pictures [B, 3, H, W] to features [B, D], or see `feature_map`."""
        network: Any = self.network
        if self.enlarge_to is not None:
            side = (self.enlarge_to, self.enlarge_to)
            images = F.interpolate(images, side, mode="bilinear", align_corners=False)
        if pooled:
            features: Tensor = network(images)
            return features
        maps: Tensor = network.forward_features(images)
        if maps.ndim == 4 and maps.shape[1] == self.num_features:
            return maps
        features = network.forward_head(maps, pre_logits=True)
        return features[:, :, None, None]

    def feature_map(self, images: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, H, W] to the last feature map, [B, D, h, w].

        Networks without such a map (transformers, or where pooling is followed by another layer)
        give their features as a map of one place, [B, D, 1, 1].
        """
        maps: Tensor = self(images, pooled=False)  # as a call, which may be compiled
        return maps


def build_backbone(
    name: str,
    *,
    pretrained: bool = False,
    width: int = 1,
    weights: Path | None = None,
    image_size: int | None = None,
    enlarge_to: int | None = None,
    low_rank: int | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: `resnet20/32/44/56` for small pictures (option-A shortcuts), `resnet10/50/101/152`
            and `resnext50/101/152` as in the long-tail papers, `resnet50-small` for 32 pixels, or any
            timm name.
        pretrained: Whether to load timm's published weights.
        width: Channel multiplier; CIFAR ResNets only.
        weights: File to take the weights from, see `longtail.models.weights.load_network`.
        image_size: Side of the pictures in pixels. Networks that are built for one size (most
            transformers) are changed to it, after they got their weights. Needed where low_rank is given.
        enlarge_to: Side to which pictures are enlarged (bilinear) before the network sees them.
        low_rank: Rank of additions that are trained in place of the weights, see
            `longtail.models.low_rank.add_low_rank`.

    Raises:
        ConfigError: If there is no such backbone (the nearest names are shown), the weights do not
            exist, cannot be fetched or are of another network, or width, size or rank do not apply.
        DataError: If the file of weights cannot be read.
    """
    backbone = _by_name(name, pretrained, width)
    if weights is not None:
        load_network(backbone.network, weights)
    backbone.enlarge_to = enlarge_to
    if image_size is not None and name not in OWN_NAMES:
        _fit_size(backbone, name, enlarge_to or image_size)
    if low_rank is not None:
        if image_size is None:
            raise ConfigError("low_rank needs image_size, the side of the pictures.")
        add_low_rank(backbone, low_rank, torch.zeros(1, 3, image_size, image_size))
    return backbone


def _by_name(name: str, pretrained: bool, width: int) -> Backbone:
    if name in DEPTHS:
        if pretrained:
            raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
        network = CifarResNet(DEPTHS[name], width)
        return Backbone(network, network.num_features)
    if width != 1:
        raise ConfigError(f"model.width applies to {', '.join(DEPTHS)}, not to {name}.")
    if name in IMAGENET_RESNETS and not pretrained:
        resnet = residual_network(name)
        return Backbone(resnet, resnet.num_features)
    if name == SMALL_RESNET50 and not pretrained:
        small: Any = residual_network("resnet50")
        small.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(small.conv1.weight, mode="fan_out", nonlinearity="relu")
        small.maxpool = nn.Identity()
        return Backbone(small, small.num_features)
    return _timm_backbone(_timm_name(name), pretrained=pretrained)


def residual_network(
    name: str, channels: tuple[int, int, int, int] = (64, 128, 256, 512)
) -> ResNet:
    """Build one of the field's ImageNet ResNets with fresh weights and other widths of its groups."""
    from timm.models import resnet  # takes seconds to import

    design = IMAGENET_RESNETS[name]
    return resnet.ResNet(
        getattr(resnet, design.block),
        design.layers,
        num_classes=0,
        cardinality=design.cardinality,
        base_width=design.base_width,
        channels=channels,
        zero_init_last=False,
    )


def published_normalisation(name: str) -> tuple[Triple, Triple] | None:
    """Return mean and standard deviation that the published weights of a backbone expect, in [0, 1].

    None where timm does not know them without asking the hub.
    """
    if name in DEPTHS:
        return None
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(_timm_name(name))
    if known is None or known.mean is None or known.std is None:
        return None
    mean, std = (tuple(float(v) for v in values) for values in (known.mean, known.std))
    return (mean, std) if len(mean) == len(std) == 3 else None


def known_names() -> tuple[str, ...]:
    """Return our names; every timm name works as well."""
    return OWN_NAMES


def _timm_name(name: str) -> str:
    if name in IMAGENET_RESNETS:
        timm_name = IMAGENET_RESNETS[name].timm_name
        if timm_name is None:
            raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
        return timm_name
    import timm  # takes seconds

    if not timm.is_model(name.split(".")[0].removeprefix("hf_hub:")) and not name.startswith("hf"):
        near = difflib.get_close_matches(name, [*known_names(), *timm.list_models()], n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(
            f"There is no backbone {name!r}.{hint} Known here: {', '.join(known_names())}; besides "
            "these, every timm model."
        )
    return name


def _timm_backbone(name: str, *, pretrained: bool) -> Backbone:
    import timm  # takes seconds

    try:
        network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        # timm and the hub raise their own kinds of errors for missing tags, files and networks
        where = (
            "Its weights could not be loaded; without a connection name a file with model.weights=FILE "
            "or put them into the Hugging Face cache first; or set model.pretrained=false."
            if pretrained
            else "timm could not build it."
        )
        raise ConfigError(
            f"Backbone {name!r}: {where} ({type(error).__name__}: {error})"
        ) from error
    # some networks widen their features after pooling, where the classifier would read them
    width = getattr(network, "head_hidden_size", None) or network.num_features
    return Backbone(network, int(width))


def _fit_size(backbone: Backbone, name: str, image_size: int) -> None:
    """Change a network that is built for pictures of one size to another size."""
    network: Any = backbone.network
    settings: Any = network.default_cfg
    side = settings["input_size"][-1]
    if image_size == side or not settings.get("fixed_input_size"):
        return
    try:
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(image_size, image_size))
        with torch.inference_mode():
            # a patch or window that does not divide the size is found out by using it
            backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:
        # timm refuses by assertions and by errors of its layers
        raise ConfigError(
            f"Backbone {name!r} does not take pictures of {image_size} pixels ({error}). Set "
            f"data.image_size={side}, for which it was made."
        ) from error
    backbone.train()

"""One door to every backbone: CIFAR ResNets, the field's ImageNet ResNets, any timm model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.adapter_files import load_adapter
from longtail.models.embedded import load_embedded
from longtail.models.hub import unreachable
from longtail.models.light import Kind, lighten
from longtail.models.low_rank import add_low_rank
from longtail.models.published import (
    IMAGENET_RESNETS,
    OWN_NAMES,
    SMALL_RESNET50,
    own_name,
    timm_name,
    weights_name,
)
from longtail.models.resnet_cifar import DEPTHS, CifarResNet
from longtail.models.weights import load_network

if TYPE_CHECKING:
    from timm.models.resnet import ResNet

ENLARGED = 160  # pixels that small images are enlarged to for a pretrained convolutional network
LARGEST_SIDE = 224  # for a transformer whose own is larger, as DINOv2's 518
Triple = tuple[float, float, float]


class Backbone(nn.Module):
    """A network from images to features.

    Attributes:
        num_features: Width D of the features.
        enlarge_to: Side in pixels to which images are enlarged before the network; None for none.
    """

    def __init__(self, network: nn.Module, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.num_features = num_features
        self.enlarge_to: int | None = None
        self._pre_logits = num_features != getattr(network, "num_classes", 0)

    @property
    def last_block(self) -> str:
        """Name of the last group of layers, `network.layer3` of a CIFAR ResNet.

        Raises:
            ConfigError: If the network does not say how it is divided.
        """
        parts: Any = getattr(self.network, "feature_info", None)
        if not parts:
            raise ConfigError(
                f"{type(self.network).__name__} does not name its blocks, so its last block cannot be "
                "trained separately; train the classifier or the whole network."
            )
        return f"network.{parts[-1]['module']}"

    @property
    def last_bottleneck(self) -> str:
        """Name of the last block of the last group of layers, `network.layer4.2` of a ResNet-152.

        Raises:
            ConfigError: As `last_block`.
        """
        *_, last = (name for name, _ in self.get_submodule(self.last_block).named_children())
        return f"{self.last_block}.{last}"

    def forward(self, images: Tensor, *, pooled: bool = True) -> Tensor:
        """Map normalised images [B, 3, H, W] to features [B, D], or see `feature_map`."""
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
        features = network.forward_head(maps, pre_logits=self._pre_logits)
        return features[:, :, None, None]

    def feature_map(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to the last feature map, [B, D, h, w].

        Networks without such a map (transformers, or where pooling is followed by another layer)
        give their features as a map of one place, [B, D, 1, 1].
        """
        maps: Tensor = self(images, pooled=False)  # as a call, which may be compiled
        return maps


def enlarged_side(model: nn.Module) -> int:
    """Return the side in pixels to which a model enlarges images; 0 if it takes them as they are."""
    return max(
        (part.enlarge_to or 0 for part in model.modules() if isinstance(part, Backbone)), default=0
    )


def build_backbone(
    name: str,
    *,
    pretrained: bool = False,
    width: int = 1,
    weights: Path | Literal["embedded"] | None = None,
    image_size: int | None = None,
    enlarge_to: int | None = None,
    low_rank: int | None = None,
    adapter: Kind | None = None,
    adapter_size: int | None = None,
    projection: bool = False,
    adapter_weights: Path | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: `resnet20/32/44/56` for small images (option-A shortcuts), `resnet10/50/101/152/200`
            and `resnext50/101/152` as in the long-tail papers, `resnet50-small` for 32 pixels, or any
            timm name. With `.tag` it names published weights, see
            `longtail.models.published.weights_name`.
        pretrained: Whether to load timm's published weights.
        width: Channel multiplier; CIFAR ResNets only.
        weights: File to take the weights from, see `longtail.models.weights.load_network`; or `embedded`, see
            `longtail.models.embedded`.
        image_size: Side of the images in pixels. Networks that are built for one size (most
            transformers) are changed to it, after they got their weights. Needed where low_rank is given.
        enlarge_to: Side to which images are enlarged (bilinear) before the network sees them.
        low_rank: Rank of additions that are trained in place of the weights, see
            `longtail.models.low_rank.add_low_rank`.
        adapter: Another kind of light fine-tuning, see `longtail.models.light`; needs image_size as well.
        adapter_size: Width or number of what is added.
        adapter_weights: What low_rank or adapter begins with, see `longtail.models.adapter_files`.
        projection: Whether timm's own last layer stays, as CLIP's into the space that it shares with texts.

    Raises:
        ConfigError: If there is no such backbone (the nearest names are shown), the weights do not
            exist, cannot be fetched or are of another network, or width, size or rank do not apply.
        DataError: If the file of weights cannot be read.
    """
    backbone = _by_name(name, pretrained, width, projection)
    if weights == "embedded":
        load_embedded(backbone.network)
    elif weights is not None:
        load_network(backbone.network, weights)
    backbone.enlarge_to = enlarge_to
    if image_size is not None and own_name(name) not in OWN_NAMES:
        _fit_size(backbone, name, enlarge_to or image_size)
    if low_rank is not None or adapter is not None:
        if image_size is None:
            raise ConfigError("low_rank and adapter need image_size, the side of the images.")
        images = torch.zeros(1, 3, image_size, image_size)
        if low_rank is not None:
            add_low_rank(backbone, low_rank, images)
        if adapter is not None:
            lighten(backbone, adapter, images, adapter_size)
        if adapter_weights is not None:
            load_adapter(backbone, adapter_weights)
    return backbone


def _by_name(name: str, pretrained: bool, width: int, projection: bool) -> Backbone:
    if projection and "clip" not in name:
        raise ConfigError(
            "model.projection is for networks of CLIP, whose last layer leads to the space of texts, not "
            f"for {name}."
        )
    if name in DEPTHS:
        if pretrained:
            raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
        network = CifarResNet(DEPTHS[name], width)
        return Backbone(network, network.num_features)
    if width != 1:
        raise ConfigError(f"model.width applies to {', '.join(DEPTHS)}, not to {name}.")
    if not pretrained and own_name(name) in IMAGENET_RESNETS:
        resnet = residual_network(own_name(name))
        return Backbone(resnet, resnet.num_features)
    if name == SMALL_RESNET50 and not pretrained:
        small: Any = residual_network("resnet50")
        small.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(small.conv1.weight, mode="fan_out", nonlinearity="relu")
        small.maxpool = nn.Identity()
        return Backbone(small, small.num_features)
    full = weights_name(name) if pretrained else timm_name(name)
    return _timm_backbone(full, pretrained=pretrained, projection=projection)


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
    if name in DEPTHS or (name in IMAGENET_RESNETS and IMAGENET_RESNETS[name].weights is None):
        return None
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(weights_name(name))
    if known is None or known.mean is None or known.std is None:
        return None
    mean, std = (tuple(float(v) for v in values) for values in (known.mean, known.std))
    return (mean, std) if len(mean) == len(std) == 3 else None


def preferred_side(name: str) -> int:
    """Return the side in pixels to which small images are enlarged for a pretrained backbone.

    That of its design where it takes no other (transformers); else 160, which gave more than 128 on
    held-out images (benchmarks/accuracy/own_images_head.py).
    """
    if own_name(name) in OWN_NAMES:
        return ENLARGED
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(timm_name(name))
    if known is None or not known.fixed_input_size:
        return ENLARGED
    return min(int(known.input_size[-1]), LARGEST_SIDE)


def known_names() -> tuple[str, ...]:
    """Return our names; every timm name works as well."""
    return OWN_NAMES


def _timm_backbone(name: str, *, pretrained: bool, projection: bool = False) -> Backbone:
    import timm  # takes seconds

    if pretrained and unreachable(name):
        raise ConfigError(
            f"Backbone {name!r}: its weights are not in the Hugging Face cache, and the hub does not respond "
            "or is off (HF_HUB_OFFLINE); without a connection name a file with model.weights=FILE, use "
            "weights=embedded, or set model.pretrained=false."
        )
    # without a number of classes timm leaves the last layer as it was published
    last: dict[str, Any] = {} if projection else {"num_classes": 0}
    try:
        network: Any = timm.create_model(name, pretrained=pretrained, **last)
    except Exception as error:
        # timm and the hub raise their own kinds of errors for missing tags, files and networks
        where = (
            (
                "Its weights could not be loaded. Without a connection, name a file with "
                "model.weights=FILE, or put the weights into the Hugging Face cache first; or set "
                "model.pretrained=false."
            )
            if pretrained
            else "timm could not build it."
        )
        raise ConfigError(
            f"Backbone {name!r}: {where} ({type(error).__name__}: {error})"
        ) from error
    if projection:
        return Backbone(network, int(network.num_classes))
    # some networks widen their features after pooling, where the classifier would read them
    width = getattr(network, "head_hidden_size", None) or network.num_features
    return Backbone(network, int(width))


def _fit_size(backbone: Backbone, name: str, image_size: int) -> None:
    """Change a network that is built for images of one size to another size."""
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
            f"Backbone {name!r} does not accept images of {image_size} pixels ({error}). Set "
            f"data.image_size={side}, the size that it was made for."
        ) from error
    backbone.train()

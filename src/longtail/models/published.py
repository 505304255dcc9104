"""Which published weights the name of a backbone means, and which network of the field it is.

A name of timm without a tag means another file from one version of timm to the next, and for some networks
one that saw hundreds of millions of other images. Here a bare name means weights that saw ImageNet-1k alone,
wherever there are any; the full tag is written into the run's configuration.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from longtail.core.errors import ConfigError
from longtail.models.resnet_cifar import DEPTHS

SMALL_RESNET50 = "resnet50-small"  # 3x3 stem without pooling, for 32 pixels (SupCon, PaCo)
IMAGENET_1K = re.compile(r"(^|_)in1k(_\d+)?$")
MORE_BEFORE = ("_ft_", "jft")  # fine-tuned on ImageNet-1k after something larger


@dataclass(frozen=True)
class Residual:
    """One of the field's ImageNet ResNets.

    Attributes:
        block: Of timm.
        layers: Blocks of each group.
        cardinality: Groups of a 3x3 convolution.
        base_width: Channels of each, at 64.
        timm_name: The same network in timm.
        weights: Full tag of the published weights that its bare name means: torchvision's, where there
            are any, as Decoupling, PaCo and ResLT start from on Places-LT.
    """

    block: Literal["BasicBlock", "Bottleneck"]
    layers: tuple[int, int, int, int]
    cardinality: int = 1
    base_width: int = 64
    timm_name: str | None = None
    weights: str | None = None


def _published(layers: tuple[int, int, int, int], name: str, tag: str, x: bool = False) -> Residual:
    groups = (32, 4) if x else (1, 64)
    return Residual("Bottleneck", layers, *groups, name, f"{name}.{tag}")


# stride on the 3x3 convolution ("v1.5"); ResNeXt 32 x 4d, of whose 101 layers torchvision has no weights
IMAGENET_RESNETS = {
    "resnet10": Residual("BasicBlock", (1, 1, 1, 1)),
    "resnet50": _published((3, 4, 6, 3), "resnet50", "tv_in1k"),
    "resnet101": _published((3, 4, 23, 3), "resnet101", "tv_in1k"),
    "resnet152": _published((3, 8, 36, 3), "resnet152", "tv_in1k"),
    "resnet200": Residual("Bottleneck", (3, 24, 36, 3)),  # as PaCo's; none was published for it
    "resnext50": _published((3, 4, 6, 3), "resnext50_32x4d", "tv_in1k", x=True),
    "resnext101": _published((3, 4, 23, 3), "resnext101_32x4d", "gluon_in1k", x=True),
    "resnext152": Residual("Bottleneck", (3, 8, 36, 3), 32, 4),
}
OWN_NAMES = (*DEPTHS, *IMAGENET_RESNETS, SMALL_RESNET50)  # they take images of any size
OF_TIMM = {design.timm_name: name for name, design in IMAGENET_RESNETS.items() if design.timm_name}


def own_name(name: str) -> str:
    """Return our name of a network, whatever weights it names: `resnext50` of `resnext50_32x4d.tv_in1k`.

    A network that is none of ours keeps its name.
    """
    return OF_TIMM.get(name.partition(".")[0], name)


def weights_name(name: str) -> str:
    """Return the full name, with its tag, of the published weights that a backbone's name means.

    Args:
        name: One of ours or of timm. With a tag it means what it says. Without, torchvision's weights for
            our ResNets, and for others the first of timm's that saw ImageNet-1k alone; timm's default where
            none did.

    Raises:
        ConfigError: If there is no such network (the nearest names are shown), or nothing was published.
    """
    if name in DEPTHS or name == SMALL_RESNET50:
        raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
    base, dot, _ = name.partition(".")
    if not dot and (own := own_name(base)) in IMAGENET_RESNETS:
        tagged = IMAGENET_RESNETS[own].weights
        if tagged is None:
            raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
        return tagged
    name = timm_name(name)
    if dot or name.startswith("hf"):
        return name
    import timm  # takes seconds

    default = timm.get_pretrained_cfg(name)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if default is None or not default.tag:
        return name  # of a version or kind without tags
    chosen = next((tag for tag in (default.tag, *tags) if saw_imagenet_alone(tag)), default.tag)
    return f"{name}.{chosen}"


def saw_imagenet_alone(tag: str) -> bool:
    """Say whether a tag of timm names weights that were trained on ImageNet-1k and nothing else."""
    return bool(IMAGENET_1K.search(tag)) and not any(word in tag for word in MORE_BEFORE)


def weights_licence(name: str) -> str:
    """Return the licence that timm states for the published weights of a full name; empty if none."""
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(name)
    return str(getattr(known, "license", None) or "")


def timm_name(name: str) -> str:
    """Return the name of a network in timm, its tag kept.

    Raises:
        ConfigError: If timm has none; the nearest names are shown.
    """
    if name in IMAGENET_RESNETS:
        known = IMAGENET_RESNETS[name].timm_name
        if known is None:
            raise ConfigError(f"{name} has no published weights; set model.pretrained=false.")
        return known
    import timm  # takes seconds

    if not timm.is_model(name.split(".")[0].removeprefix("hf_hub:")) and not name.startswith("hf"):
        known_names = dict.fromkeys((*OWN_NAMES, *timm.list_models()))  # some are in both
        near = difflib.get_close_matches(name, known_names, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(
            f"There is no backbone {name!r}.{hint} Built in: {', '.join(OWN_NAMES)}; every timm model "
            "works as well."
        )
    return name

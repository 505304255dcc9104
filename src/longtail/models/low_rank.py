"""LoRA: low-rank additions to a trained network (Hu et al., ICLR 2022, arXiv 2106.09685).

    y = W x + b + B A x,    A: [r, D_in], drawn at random;  B: [D_out, r], zero at first

Only A and B are trained, so that a few images cannot spoil what the network knows. All else is a buffer: no
optimiser, weight decay or momentum can reach it, and the network begins exactly as it was.

The paper adds to the query and value of attention; here, as has become usual (QLoRA, Dettmers et al.,
NeurIPS 2023), to every linear layer, and to 1x1 convolutions. Its factor alpha / r is 1: alpha = r is the
paper's own choice for the first rank that is tried.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.core.words import counted
from longtail.models.light import KIND, has_plain_form, inside_scales, keep_weights


class LowRank(nn.Module):
    """An addition B A that is trained beside a layer whose weights stay.

    Args:
        layer: Linear, or a 1x1 convolution of one group.
        rank: r.
        kept: Name of the buffer that holds its weights.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, kept: str = "weight") -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape[:2]
        self.register_buffer(kept, layer.weight.detach())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.down = nn.Parameter(layer.weight.new_empty(rank, inputs))  # A
        self.up = nn.Parameter(layer.weight.new_empty(outputs, rank))  # B
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A as a linear layer is drawn, and set B to zero; W and b stay."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def joined(self) -> Tensor:
        """Return W + B A in the shape of W: the weight of the plain layer with the same outputs."""
        raise NotImplementedError


class LowRankLinear(LowRank):
    """A linear layer with an addition; weights keep their names."""

    weight: Tensor

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer, rank)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, features: Tensor) -> Tensor:
        """Map features [..., D_in] to [..., D_out]."""
        addition = F.linear(F.linear(features, self.down), self.up)
        return F.linear(features, self.weight, self.bias) + addition

    @torch.no_grad()
    def joined(self) -> Tensor:
        """Return W + B A, [D_out, D_in]."""
        return self.weight + self.up @ self.down


class LowRankConvolution(LowRank):
    """A 1x1 convolution of one group with an addition: a linear layer of each pixel."""

    weight: Tensor

    def __init__(self, layer: nn.Conv2d, rank: int) -> None:
        super().__init__(layer, rank)
        self.stride, self.padding = layer.stride, layer.padding

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, D_in, h, w] to [B, D_out, h, w]."""
        weight = self.weight + (self.up @ self.down)[:, :, None, None]
        return F.conv2d(maps, weight, self.bias, self.stride, self.padding)

    @torch.no_grad()
    def joined(self) -> Tensor:
        """Return W + B A, [D_out, D_in, 1, 1]."""
        return self.weight + (self.up @ self.down)[:, :, None, None]


class ReadLowRankLinear(LowRank):
    """As `LowRankLinear`, for a network that does not call the layer but reads its weight (BEiT, EVA).

    The layer's own weight is kept as `kept`; `weight` is the sum W + B A.
    """

    kept: Tensor

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer, rank, kept="kept")
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Tensor:
        """W + B A, [D_out, D_in], as the network reads it."""
        return self.kept + self.up @ self.down

    def forward(self, features: Tensor) -> Tensor:
        """Map features [..., D_in] to [..., D_out]."""
        return F.linear(features, self.weight, self.bias)

    @torch.no_grad()
    def joined(self) -> Tensor:
        """Return W + B A, [D_out, D_in]."""
        return self.weight


def add_low_rank(network: nn.Module, rank: int, images: Tensor) -> None:
    """Give the linear layers of a trained network additions, and keep everything else as it is, in place.

    So do 1x1 convolutions, which are linear layers of each pixel. Layers get no addition that have a side of
    `rank` or less, or that the network does not use; `describe_low_rank` says how many did.

    Args:
        network: With linear layers or 1x1 convolutions of one group.
        rank: r.
        images: [B, 3, H, W] that the network takes, to see which layers it calls and which it reads.

    Raises:
        ConfigError: If no layer gets an addition.
    """
    called, read = _used_layers(network, images)
    layers = {**called, **read}
    if not layers:
        raise ConfigError(
            "The network uses no linear layer or 1x1 convolution that low-rank additions could be made to; "
            "leave model.low_rank out."
        )
    large = {name: layer for name, layer in layers.items() if rank < _smaller_side(layer)}
    if not large:
        largest = max(_smaller_side(layer) for layer in layers.values())
        raise ConfigError(
            f"model.low_rank must be below {largest}, the smaller side of the largest linear layer of "
            f"the network, but got {rank}."
        )
    keep_weights(network)
    for name, layer in large.items():
        parent, _, last = name.rpartition(".")
        added: nn.Module
        if isinstance(layer, nn.Conv2d):
            added = LowRankConvolution(layer, rank)
        else:
            added = ReadLowRankLinear(layer, rank) if name in read else LowRankLinear(layer, rank)
        setattr(network.get_submodule(parent), last, added)


def describe_low_rank(network: nn.Module) -> str:
    """Say what was added, `additions of rank 8 to 48 linear layers (294,912 weights)`; empty if nothing."""
    added = [module for module in network.modules() if isinstance(module, LowRank)]
    if not added:
        return ""
    trained = sum(module.down.numel() + module.up.numel() for module in added)
    convolutions = sum(isinstance(module, LowRankConvolution) for module in added)
    parts = []
    if linear := len(added) - convolutions:
        parts.append(counted(linear, "linear layer", "linear layers"))
    if convolutions:
        parts.append(counted(convolutions, "1x1 convolution", "1x1 convolutions"))
    return f"additions of rank {len(added[0].down)} to {' and '.join(parts)} ({trained:,} weights)"


def constant_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights that light fine-tuning keeps, which never change."""
    found = [
        f"{place}.{name}" if place else name
        for place, module in network.named_modules()
        if isinstance(module, LowRank) or hasattr(module, KIND)
        for name, _ in module.named_buffers()
    ]
    return list(dict.fromkeys(found))


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain network with the same outputs, by name.

    Raises:
        ConfigError: If there is none.
    """
    if not has_plain_form(network):
        raise ConfigError(
            "AdaptFormer and VPT add computation, not weights, so no plain network has the same outputs. "
            "Export it as onnx, torch-export or safetensors."
        )
    weights = inside_scales(network, network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, LowRank):
            weights[f"{name}.weight"] = module.joined()
            weights.pop(f"{name}.kept", None)
            del weights[f"{name}.down"], weights[f"{name}.up"]
    return weights


def _smaller_side(layer: nn.Linear | nn.Conv2d) -> int:
    return min(layer.weight.shape[:2])


def _used_layers(
    network: nn.Module, images: Tensor
) -> tuple[dict[str, nn.Linear | nn.Conv2d], dict[str, nn.Linear]]:
    """Return the layers that a forward pass calls, and those whose weight it reads without calling them."""
    called: set[nn.Module] = set()
    layers: dict[str, Any] = {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Linear or _is_pointwise(module)
    }
    hooks = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in layers.values()]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.enable_grad():
            out = network.eval()(images)
        others = {name: m for name, m in layers.items() if m not in called and type(m) is nn.Linear}
        weights = [layer.weight.requires_grad_() for layer in others.values()]
        # what was read has a gradient
        slopes = torch.autograd.grad(out.sum(), weights, allow_unused=True) if weights else ()
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    read = {name for name, slope in zip(others, slopes, strict=True) if slope is not None}
    return (
        {name: layer for name, layer in layers.items() if layer in called},
        {name: layer for name, layer in others.items() if name in read},
    )


def _is_pointwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1

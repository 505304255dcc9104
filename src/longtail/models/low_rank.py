"""LoRA: low-rank additions to a trained network (Hu et al., ICLR 2022, arXiv 2106.09685).

    y = W x + b + B A x,    A: [r, D_in], drawn at random;  B: [D_out, r], zero at first

Only A and B are trained, so that a few pictures cannot spoil what the network knows. All else is a buffer: no
optimiser, weight decay or momentum can reach it, and the network begins exactly as it was.

The paper adds to the query and value of attention; here, as has become usual (QLoRA, Dettmers et al.,
NeurIPS 2023), to every linear layer. Its factor alpha / r is 1: alpha = r is the paper's own choice for the
first rank that is tried.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.core.words import counted

STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class LowRankLinear(nn.Module):
    """A linear layer whose weights stay, with an addition that is trained.

    Args:
        layer: Its weights are taken over, under the same names.
        rank: r.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("weight", layer.weight.detach())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))  # A
        self.up = nn.Parameter(layer.weight.new_empty(layer.out_features, rank))  # B
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A as a linear layer is drawn, and set B to zero; W and b stay."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [..., D_in] to [..., D_out]."""
        addition = F.linear(F.linear(features, self.down), self.up)
        return F.linear(features, self.weight, self.bias) + addition

    @torch.no_grad()
    def joined(self) -> Tensor:
        """Return W + B A, [D_out, D_in]: the plain layer that answers alike."""
        return self.weight + self.up @ self.down


def add_low_rank(network: nn.Module, rank: int, pictures: Tensor) -> None:
    """Give the linear layers of a trained network additions, and keep everything else as it is, in place.

    Layers get none that have a side of `rank` or less, or that the network never calls, because it reads
    their weights instead (the attention of BEiT and EVA); `describe_low_rank` says how many did.

    Args:
        network: A transformer, or another network with linear layers and without batch normalisation.
        rank: r.
        pictures: [B, 3, H, W] that the network takes, to see which layers it calls.

    Raises:
        ConfigError: If no layer gets an addition, or batch normalisation would go on following the pictures.
    """
    if any(isinstance(module, STATISTICS) for module in network.modules()):
        raise ConfigError(
            "The network has batch normalisation, whose statistics would not stay as they are. "
            "model.low_rank is for transformers and their like (ViT, Swin, ConvNeXt); train this one with "
            "train=head, train=last-block or a small backbone_rate."
        )
    layers = _called_layers(network, pictures)
    if not layers:
        raise ConfigError(
            "The network calls no linear layer that low-rank additions could be made to; leave "
            "model.low_rank out."
        )
    large = {name: layer for name, layer in layers.items() if rank < min(layer.weight.shape)}
    if not large:
        largest = max(min(layer.weight.shape) for layer in layers.values())
        raise ConfigError(
            f"model.low_rank must be below {largest}, the smaller side of the largest linear layer of the "
            f"network, but got {rank}."
        )
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    for name, layer in large.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, LowRankLinear(layer, rank))


def describe_low_rank(network: nn.Module) -> str:
    """Say what was added, `additions of rank 8 to 48 linear layers (294,912 weights)`; empty if nothing."""
    added = [module for module in network.modules() if isinstance(module, LowRankLinear)]
    if not added:
        return ""
    trained = sum(module.down.numel() + module.up.numel() for module in added)
    layers = counted(len(added), "linear layer", "linear layers")
    return f"additions of rank {len(added[0].down)} to {layers} ({trained:,} weights)"


def constant_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights that additions were made to, which never change."""
    return [
        f"{place}.{name}"
        for place, module in network.named_modules()
        if isinstance(module, LowRankLinear)
        for name, _ in module.named_buffers()
    ]


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain network that answers alike, by name."""
    weights = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, LowRankLinear):
            weights[f"{name}.weight"] = module.joined()
            del weights[f"{name}.down"], weights[f"{name}.up"]
    return weights


@torch.no_grad()
def _called_layers(network: nn.Module, pictures: Tensor) -> dict[str, nn.Linear]:
    """Return the plain linear layers that a forward pass calls, by name."""
    called: set[nn.Module] = set()
    layers = {name: m for name, m in network.named_modules() if type(m) is nn.Linear}
    hooks = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in layers.values()]
    training = network.training
    network.eval()(pictures)
    network.train(training)
    for hook in hooks:
        hook.remove()
    return {name: m for name, m in layers.items() if m in called}

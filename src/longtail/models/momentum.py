"""A copy of a network that follows it slowly (MoCo; He et al., CVPR 2020, arXiv 1911.05722)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MomentumCopy(nn.Module):
    """theta_k <- m theta_k + (1 - m) theta_q, for parameters only.

    Running statistics of normalisation layers are the copy's own: it sees batches in train mode and
    keeps its own averages, as in the released code of PaCo.

    Args:
        source: The network to follow; copied, so that both begin equal.
        momentum: m in [0, 1).
    """

    def __init__(self, source: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.network = copy.deepcopy(source)
        self.network.requires_grad_(False)

    @torch.no_grad()
    def follow(self, source: nn.Module) -> None:
        """Move every parameter a little towards that of `source`."""
        own = [parameter.detach() for parameter in self.network.parameters()]
        other = [parameter.detach() for parameter in source.parameters()]
        torch._foreach_lerp_(own, other, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the copy, without gradient."""
        output: Tensor = self.network(*inputs)
        return output

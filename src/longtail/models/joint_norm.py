"""BatchNorm whose statistics are of the batch of all processes, on any backend.

Each process normalises its own part of the batch with its own mean and variance, so a training in P processes
is not the training of the joint batch in one. Here the sums are taken over all: mean m = (1/n) sum x,
variance v = (1/n) sum (x - m)^2 over the n values of a channel in the joint batch, and the gradient flows
through both (torch.nn.SyncBatchNorm does the same on GPUs only).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.errors import ConfigError

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def join_statistics(network: nn.Module) -> None:
    """Let the BatchNorms of a network take the statistics of the joint batch, in place.

    Names, parameters and buffers stay as they are, so checkpoints do, too. In one process nothing changes.

    Raises:
        ConfigError: If a normalisation by batches is of a kind that is not known here.
    """
    if not distributed.active():
        return
    for name, module in network.named_modules():
        if type(module) in KINDS:
            module.__class__ = _JOINT[type(module)]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, _Joint):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, whose statistics cannot be computed across "
                "processes. Choose another backbone, or training.joint_norm=false."
            )


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose backward pass sums too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context
        return distributed.total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return distributed.total(gradient)


class _Joint(nn.modules.batchnorm._BatchNorm):
    """The forward pass of joint statistics for [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.active()):
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        kept = x.dtype
        x = x if x.dtype == torch.float64 else x.float()
        over = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        # parts of a batch are of equal size, but for a last one that was kept
        count = distributed.total(
            torch.tensor(x.numel() // x.shape[1], dtype=x.dtype, device=x.device)
        )
        mean = _Sum.apply(x.sum(over)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over)) / count
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        x = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(kept)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None, "it was asked for"
        assert self.running_var is not None, "both or none"
        assert self.num_batches_tracked is not None, "all or none"
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Joint1d(_Joint, nn.BatchNorm1d):
    pass


class _Joint2d(_Joint, nn.BatchNorm2d):
    pass


class _Joint3d(_Joint, nn.BatchNorm3d):
    pass


_JOINT: dict[type, type] = dict(zip(KINDS, (_Joint1d, _Joint2d, _Joint3d), strict=True))

"""Sharpness-aware minimisation (SAM; Foret et al., ICLR 2021, arXiv 2010.01412): where gradients are taken.

Weights w in a flat place lose little when they are moved. So take the gradient not at w but a little uphill:

    e(w) = rho grad S(w) / |grad S(w)|            eq. 2, with p = 2
    step with grad S(w + e), taken at w           eq. 3, without the second derivative

S is the loss, or the part of it that a method names as `StepOutput.sharp`; the rest keeps its gradient at w.
A method may also climb along the gradient of something else, `StepOutput.ascent`. Two passes a step. Both are
of the same loss: they draw the same random numbers, and the statistics of BatchNorm follow the first only.
Several processes climb together, along their joint gradient; in the paper each climbs along that of its part
of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SMALLEST_NORM = 1e-12  # of a gradient that is followed; a loss without one has nowhere to climb


@torch.no_grad()
def climb(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """Add e(w) to the weights, in place.

    Args:
        weights: Of any shapes.
        gradients: Of S, in the same order and shapes.
        rho: Length of e over all weights together, at least 0.

    Returns:
        The weights as they were, to be put back.
    """
    kept = [weight.clone() for weight in weights]
    norm = nn.utils.get_total_norm(gradients)
    steps = torch._foreach_mul(list(gradients), rho / (norm + SMALLEST_NORM))
    torch._foreach_add_(list(weights), steps)
    return kept


@torch.no_grad()
def go_back(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Put weights back, in place, exactly."""
    torch._foreach_copy_(list(weights), list(kept))


@contextmanager
def statistics_at_rest(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorms in train mode normalise by the batch and remember nothing of it."""
    following = [norm for norm in norms if norm.track_running_stats]
    for norm in following:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in following:
            norm.track_running_stats = True


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the modules whose running statistics follow the batches."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]

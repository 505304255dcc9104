"""Importance of weights for a loss: what DO keeps for a group of classes (AAAI 2024, B1.5 of its reading).

    taylor           (w g)^2   change of the loss without the weight, to first order (Molchanov 2019)
    taylor-absolute  |w g|
    fisher           g^2
    magnitude        |w|
    random           a control

g is the gradient of the mean loss over `batch` (all pictures), over each `class`, or over each `picture`; the
importance is the mean over those gradients. They rank differently: squares and means do not commute, and
the gradients of a class that is learnt by heart cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, vmap

Criterion = Literal["taylor", "taylor-absolute", "fisher", "magnitude", "random"]
Gradients = Literal["batch", "class", "picture"]
Weights = Mapping[str, Tensor]
PICTURES_AT_ONCE = 16  # as many gradients of all weights are in memory


def importance(
    weights: Weights,
    answer: Callable[[Weights, Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    criterion: Criterion = "taylor",
    gradients: Gradients = "batch",
) -> dict[str, Tensor]:
    """Return the importance of every weight on one batch, by name; never negative.

    Args:
        weights: As the network uses them.
        answer: Maps weights and pictures [B, ...] to logits [B, C]. Pictures must not depend on each other:
            normalisation in eval mode.
        loss: Maps logits and labels to the loss of each picture, [B].
        images: [B, ...].
        labels: int64 [B].
        criterion: See the head of this file.
        gradients: Likewise.
    """
    plain = {name: weight.detach() for name, weight in weights.items()}
    if criterion == "magnitude":
        return {name: weight.abs() for name, weight in plain.items()}
    if criterion == "random":
        return {name: torch.rand_like(weight) for name, weight in plain.items()}

    def of_pictures(given: Weights, some: Tensor, theirs: Tensor) -> Tensor:
        return loss(answer(given, some), theirs).mean()

    total = {name: torch.zeros_like(weight) for name, weight in plain.items()}
    pieces = 0
    for found in _gradients(plain, of_pictures, images, labels, gradients):
        pieces += len(next(iter(found.values())))
        for name, weight in plain.items():
            total[name] += _apply(criterion, weight, found[name]).sum(dim=0)
    return {name: value / pieces for name, value in total.items()}


def _apply(criterion: Criterion, weight: Tensor, gradient: Tensor) -> Tensor:
    if criterion == "fisher":
        return gradient.square()
    change = weight * gradient
    return change.abs() if criterion == "taylor-absolute" else change.square()


def _gradients(
    weights: Weights,
    loss: Callable[[Weights, Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    kind: Gradients,
) -> Iterator[dict[str, Tensor]]:
    """Yield gradients by name, each [K, ...]."""
    if kind == "picture":
        one = vmap(
            grad(lambda w, x, y: loss(w, x[None], y[None])), in_dims=(None, 0, 0)
        )  # a picture at a time
        for some, theirs in zip(
            torch.split(images, PICTURES_AT_ONCE),
            torch.split(labels, PICTURES_AT_ONCE),
            strict=True,
        ):
            yield one(dict(weights), some, theirs)
        return
    everything = [slice(None)]
    chosen = [labels == c for c in torch.unique(labels)] if kind == "class" else everything
    for mask in chosen:
        live = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        with torch.enable_grad():
            value = loss(live, images[mask], labels[mask])
        found = torch.autograd.grad(value, list(live.values()))
        yield {name: g[None] for name, g in zip(live, found, strict=True)}

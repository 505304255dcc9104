"""Weights of several sub-models for each test image, without labels (DO, SADE).

T sub-models predict two views of an image. The weights l on the simplex make the two weighted predictions
alike. What is weighted is what is handed in, probabilities or logits, or (`softmax`) logits of which the
softmax is compared, as SADE does:

    cosine   a . b / (|a| |b|)          dot   a . b             a = l P1, b = l P2, with P1, P2 [T, C]

Without `softmax` both are forms in l of three small matrices, M = P1 P2', G1 = P1 P1', G2 = P2 P2', so every
point of a grid on the simplex is tried, for all images at once. `instance_weights` looks at one image
(DO, section "test-time learning"), `group_weights` at all of them together, which is transductive.
`learn_instance_weights` and `learn_group_weights` (SADE, NeurIPS 2022) descend instead: after few steps they
are near uniform.

What to expect: a dot product is largest at a corner for most images, so it picks the surest sub-model; a
cosine rewards sub-models that predict the same for both views, also when they know nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.core.precision import at_least_float32
from longtail.core.rng import torch_generator

Objective = Literal["cosine", "dot"]
NUMBERS_AT_ONCE = 2**24  # of the weighted sums that `softmax` needs one by one
SADE_PASSES, SADE_BATCH, SADE_FLOOR = 5, 128, 0.05
Views = tuple[Tensor, Tensor]  # outputs for two views, each [N, T, C]


@dataclass(frozen=True)
class Descent:
    """How SADE learns one set of weights.

    Attributes:
        rate: Of SGD; in its configurations, the rate of the training (0.1 on CIFAR).
        weight_decay: Likewise.
        redraw: Returns the logits of two fresh views of all images for a pass, from 1 on; the views of
            the first pass serve all of them if not given.
    """

    rate: float = 0.1
    weight_decay: float = 5e-4
    redraw: Callable[[int], Views] | None = None


def simplex_grid(count: int, step: float = 0.05) -> Tensor:
    """Return all weights of `count` sub-models that are multiples of `step` and sum to 1, [G, T].

    231 points for three sub-models at 0.05, 5,151 at 0.01. The points nearest to uniform come first, so that
    they win ties.
    """
    parts = round(1 / step)
    points = [
        point
        for point in itertools.product(range(parts + 1), repeat=count - 1)
        if sum(point) <= parts
    ]
    whole = [tuple(n / parts for n in (*point, parts - sum(point))) for point in points]
    whole.sort(key=lambda point: round(sum((x - 1 / count) ** 2 for x in point), 12))
    return torch.tensor(whole, dtype=torch.float64)


def instance_weights(
    first: Tensor,
    second: Tensor,
    *,
    objective: Objective = "cosine",
    step: float = 0.05,
    softmax: bool = False,
) -> Tensor:
    """Return the best weights of every image, [N, T].

    Needs N numbers per point of the grid: 231 for three sub-models at 0.05, 5,151 at 0.01.

    Args:
        first: Probabilities or logits of the sub-models for the first view, [N, T, C].
        second: For the second view, [N, T, C].
        objective: What is made largest.
        step: Of the grid.
        softmax: Compare the softmax of the weighted sum; a hundred times slower.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    grid = simplex_grid(first.shape[1], step).to(first)
    return grid[_values(first, second, grid, objective, softmax=softmax).argmax(dim=1)]


def group_weights(
    first: Tensor,
    second: Tensor,
    *,
    objective: Objective = "cosine",
    step: float = 0.05,
    softmax: bool = False,
) -> Tensor:
    """Return one set of weights for all images together, [T]. Transductive.

    Arguments as for `instance_weights`; the mean of the objective over the images is made largest.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    grid = simplex_grid(first.shape[1], step).to(first)
    return grid[_values(first, second, grid, objective, softmax=softmax).mean(dim=0).argmax()]


def learn_instance_weights(
    first: Tensor,
    second: Tensor,
    *,
    objective: Objective = "cosine",
    softmax: bool = False,
    steps: int = 5,
    rate: float = 0.1,
) -> Tensor:
    """Return weights of every image after gradient steps from uniform ones, [N, T].

    Weights are the softmax of free numbers, which SGD with Nesterov momentum 0.9 moves. Other arguments as
    for `instance_weights`.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    raw = torch.zeros_like(first[:, :, 0])
    optimizer = torch.optim.SGD([raw], rate, momentum=0.9, nesterov=True)
    for _ in range(steps):
        # a sum, so that the step of an image does not depend on how many there are
        raw.grad = -_slope(raw, lambda w: _agree(w, first, second, objective, softmax).sum())
        optimizer.step()
    return raw.softmax(dim=1)


def learn_group_weights(
    first: Tensor,
    second: Tensor,
    *,
    objective: Objective = "cosine",
    softmax: bool = True,
    descent: Descent | None = None,
) -> Tensor:
    """Return one set of weights, [T], by the procedure of SADE's released code. Transductive.

    Five passes over the images in batches of 128, each in an order of its own; SGD with Nesterov momentum 0.9
    and weight decay on the free numbers. A pass is the last one if a weight, rounded to two decimals, is
    below 0.05 after it. Other arguments as for `instance_weights`.

    Args:
        first: For the first view of the first pass, [N, T, C].
        second: For the second view, [N, T, C].
        objective: What is made largest.
        softmax: Compare the softmax of the weighted sum.
        descent: Rate, weight decay, and fresh views of later passes.
    """
    descent = descent or Descent()
    raw = torch.zeros_like(at_least_float32(first[0, :, 0]))
    optimizer = torch.optim.SGD(
        [raw], descent.rate, momentum=0.9, nesterov=True, weight_decay=descent.weight_decay
    )
    for number in range(SADE_PASSES):
        if number and descent.redraw is not None:
            first, second = descent.redraw(number)
        for chosen in _shuffled(len(first), number):
            a, b = (at_least_float32(x[chosen.to(x.device)]) for x in (first, second))
            raw.grad = -_slope(raw, lambda w: _agree(w, a, b, objective, softmax).mean())  # noqa: B023
            optimizer.step()
        if float(raw.softmax(dim=0).min()) < SADE_FLOOR - 0.005:  # rounds to less
            break
    return raw.softmax(dim=0)


def _shuffled(count: int, number: int) -> Sequence[Tensor]:
    """Return the images of each batch of a pass, int64."""
    generator = torch_generator(0, "learn_group_weights", number)
    return torch.split(torch.randperm(count, generator=generator), SADE_BATCH)


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over sub-models, [N, C], of outputs [N, T, C] by weights [N, T] or [T]."""
    return (at_least_float32(outputs) * weights[..., None]).sum(dim=1)


def unbiased(logits: Tensor, bias: Tensor) -> Tensor:
    """Return the probabilities of each sub-model without its known bias, [N, T, C].

    Sub-models that are trained with other margins estimate log p(y | x) + bias_t(y). Taking the bias away
    before they are averaged keeps one margin from outvoting the others.

    Args:
        logits: [N, T, C].
        bias: [T, C].
    """
    z = at_least_float32(logits)
    return (z - bias.to(z)).softmax(dim=2)


def _slope(raw: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of a function of softmax weights at the free numbers."""
    with torch.enable_grad():
        free = raw.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(free.softmax(dim=-1)), free)
    return gradient


def _agree(
    weights: Tensor, first: Tensor, second: Tensor, objective: Objective, softmax: bool
) -> Tensor:
    """Return the objective of every image at its weights, [N]."""
    a, b = weighted_sum(first, weights), weighted_sum(second, weights)
    if softmax:
        a, b = a.softmax(dim=1), b.softmax(dim=1)
    return F.cosine_similarity(a, b) if objective == "cosine" else (a * b).sum(dim=1)


def _values(
    first: Tensor, second: Tensor, grid: Tensor, objective: Objective, *, softmax: bool
) -> Tensor:
    """Return the objective of every image and grid point, [N, G]."""
    if softmax:
        size = max(1, NUMBERS_AT_ONCE // (len(grid) * first.shape[2]))
        pairs = zip(torch.split(first, size), torch.split(second, size), strict=True)
        return torch.cat([_of_softmax(a, b, grid, objective) for a, b in pairs])

    def form(a: Tensor, b: Tensor) -> Tensor:
        matrix = a @ b.transpose(1, 2)  # [N, T, T]
        pairs = grid[:, :, None] * grid[:, None, :]  # [G, T, T]
        return matrix.flatten(1) @ pairs.flatten(1).T

    value = form(first, second)
    if objective == "dot":
        return value
    return value / (form(first, first) * form(second, second)).clamp_min(1e-24).sqrt()


def _of_softmax(first: Tensor, second: Tensor, grid: Tensor, objective: Objective) -> Tensor:
    """Return the objective of the softmax of every weighted sum of logits, [n, G]."""
    a, b = (torch.matmul(grid, logits).softmax(dim=2) for logits in (first, second))  # [n, G, C]
    if objective == "cosine":
        return F.cosine_similarity(a, b, dim=2)
    return (a * b).sum(dim=2)

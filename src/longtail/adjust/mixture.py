"""Weights of several sub-models for each test picture, without labels (DO, SADE).

Two views of a picture are answered by T sub-models. The weights on the simplex make the two mixed answers
alike:

    cosine   l' M l / sqrt(l' G1 l  l' G2 l)        dot   l' M l
    M = P1 P2', G1 = P1 P1', G2 = P2 P2', with P1, P2 [T, C] the answers to the two views

so the search is over a small quadratic form, for all pictures at once: every point of a grid on the simplex
is tried. `instance_weights` looks at one picture (DO, section "test-time learning"), `group_weights` at all
of them together (SADE, NeurIPS 2022), which is transductive.

What to expect: a dot product is largest at a corner for most pictures, so it picks the surest sub-model; a
cosine rewards sub-models that answer both views alike, also when they know nothing.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor

Objective = Literal["cosine", "dot"]


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
    first: Tensor, second: Tensor, *, objective: Objective = "cosine", step: float = 0.05
) -> Tensor:
    """Return the best weights of every picture, [N, T].

    Needs N numbers per point of the grid: 231 for three sub-models at 0.05, 5,151 at 0.01.

    Args:
        first: Answers (probabilities or logits) to the first view, [N, T, C].
        second: To the second view, [N, T, C].
        objective: What is made largest.
        step: Of the grid.
    """
    grid = simplex_grid(first.shape[1], step).to(first)
    return grid[_values(first, second, grid, objective).argmax(dim=1)]


def group_weights(
    first: Tensor, second: Tensor, *, objective: Objective = "cosine", step: float = 0.05
) -> Tensor:
    """Return one set of weights for all pictures together, [T]. Transductive.

    Arguments as for `instance_weights`; the mean of the objective over the pictures is made largest.
    """
    grid = simplex_grid(first.shape[1], step).to(first)
    return grid[_values(first, second, grid, objective).mean(dim=0).argmax()]


def mix(answers: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum over sub-models, [N, C], of answers [N, T, C] and weights [N, T] or [T]."""
    return (answers * weights[..., None]).sum(dim=1)


def _values(first: Tensor, second: Tensor, grid: Tensor, objective: Objective) -> Tensor:
    """Return the objective of every picture and grid point, [N, G]."""

    def form(a: Tensor, b: Tensor) -> Tensor:
        matrix = a @ b.transpose(1, 2)  # [N, T, T]
        pairs = grid[:, :, None] * grid[:, None, :]  # [G, T, T]
        return matrix.flatten(1) @ pairs.flatten(1).T

    value = form(first, second)
    if objective == "dot":
        return value
    return value / (form(first, first) * form(second, second)).clamp_min(1e-24).sqrt()

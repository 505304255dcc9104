"""Directions that are as far from each other as there is room for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07
STEPS, RATE = 10_000, 1e-3


def simplex(count: int, width: int) -> Tensor:
    """Return `count` unit vectors of equal angles, all cosines -1 / (count - 1), float32 [count, width].

    Turned at random. There is room for them where count is at most width + 1.
    """
    assert 2 <= count <= width + 1, "no room for a simplex"
    # rows of I - 1/n in a basis of the space orthogonal to (1, ..., 1), by Helmert
    basis = torch.zeros(count - 1, count, dtype=torch.float64)
    for row in range(1, count):
        basis[row - 1, :row] = 1
        basis[row - 1, row] = -row
    corners = F.normalize(F.normalize(basis, dim=1).T, dim=1)  # [count, count - 1]
    padded = F.pad(corners, (0, width - count + 1))
    turn, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    turned: Tensor = (padded @ turn).float()
    return turned


def spread(count: int, width: int, device: torch.device, steps: int = STEPS) -> Tensor:
    """Return unit vectors that are spread evenly, float32 [count, width].

    A simplex where there is room for one; else from random directions by Adam on the mean over i of
    log sum_j exp(t_i . t_j / 0.07) (Li et al., CVPR 2022, eq. 3).
    """
    if count <= width + 1:
        return simplex(count, width).to(device)
    raw = torch.randn(count, width).to(device).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=RATE)
    for _ in range(steps):
        rows = F.normalize(raw, dim=1)
        loss = (rows @ rows.T / TEMPERATURE).logsumexp(dim=1).mean()
        (raw.grad,) = torch.autograd.grad(loss, raw)
        optimizer.step()
    return F.normalize(raw.detach(), dim=1)

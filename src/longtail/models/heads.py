"""Classifiers on top of features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Initialisation = Literal["uniform", "kaiming"]


class LinearHead(nn.Linear):
    """logits = W x + b; rows of W are the classes.

    Args:
        num_features: D.
        num_classes: C.
        initial_bias: Value of b at the start; the framework's default U(-1/sqrt D, 1/sqrt D) if
            not given.
        initialisation: Of W: the framework's U(-1/sqrt D, 1/sqrt D), of standard deviation
            1 / sqrt(3 D), Kaiming's normal of sqrt(2 / D) (LDAM's code and what was made of it), or a normal
            of 0.01 (MoCo's linear stage and its heirs).
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        initial_bias: float | None = None,
        initialisation: Initialisation | Literal["small"] = "uniform",
    ) -> None:
        self.initial_bias, self.initialisation = initial_bias, initialisation
        super().__init__(num_features, num_classes)

    def reset_parameters(self) -> None:
        """Draw W (and b) anew."""
        super().reset_parameters()
        if self.initialisation == "kaiming":
            nn.init.kaiming_normal_(self.weight)
        elif self.initialisation == "small":
            nn.init.normal_(self.weight, std=0.01)
        if self.initial_bias is not None:
            nn.init.constant_(self.bias, self.initial_bias)

    @torch.no_grad()
    def begin_with(self, rows: Tensor) -> None:
        """Take rows [C, D] as W, and b = 0 or its value at the start."""
        self.weight.copy_(rows)
        self.bias.fill_(self.initial_bias or 0.0)


class CosineHead(nn.Module):
    """logits = scale * cos(w_c, x): unit features, unit rows, no bias.

    Args:
        num_features: D.
        num_classes: C.
        scale: Inverse temperature s.
    """

    def __init__(self, num_features: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw random directions."""
        nn.init.uniform_(self.weight, -1, 1)
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight, dim=1))

    @torch.no_grad()
    def begin_with(self, rows: Tensor) -> None:
        """Take the directions of rows [C, D]."""
        self.weight.copy_(F.normalize(rows, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C] in [-scale, scale]."""
        # in float32 also under autocast: a cosine has 8 bits in bf16, times 30 that is 0.1
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.float() if features.dtype != torch.float64 else features)
            return self.scale * F.linear(unit, F.normalize(self.weight).to(unit.dtype))


class CausalHead(nn.Module):
    """Normalised classifier of several heads (Tang et al., NeurIPS 2020), which can leave a direction out.

    logits = scale / K sum_k <w_c^k, r^k> / (|w_c^k| + softening), with r^k the unit vector u^k of the k-th
    part of the features, or u^k - strength cos(u^k, v^k) v^k without its part along the direction v.

    Args:
        num_features: D, a multiple of `heads`.
        num_classes: C.
        heads: K.
        scale: Inverse temperature.
        softening: Added to the length of a row, at least 0.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        heads: int = 2,
        scale: float = 16.0,
        softening: float = 1 / 32,
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.softening = heads, scale, softening
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the rows from U(-1/sqrt D, 1/sqrt D)."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self, features: Tensor, direction: Tensor | None = None, strength: Tensor | float = 1.0
    ) -> Tensor:
        """Map features [B, D] to logits [B, C].

        Args:
            features: [B, D].
            direction: What is taken out, [D], of any length; zeros take nothing out.
            strength: 1 takes out all of it.
        """
        # in float32 also under autocast, as in CosineHead
        with torch.autocast(features.device.type, enabled=False):
            unit = self._parts(features)  # [B, K, D/K]
            if direction is not None:
                unit_direction = self._parts(direction[None])  # [1, K, D/K]
                along = (unit * unit_direction).sum(dim=2, keepdim=True)  # [B, K, 1]
                unit = unit - strength * along * unit_direction
            rows = self._cut(self.weight.to(unit.dtype))  # [C, K, D/K]
            rows = rows / (rows.norm(dim=2, keepdim=True) + self.softening)
            return self.scale / self.heads * F.linear(unit.flatten(1), rows.flatten(1))

    def cosines(self, features: Tensor, direction: Tensor) -> Tensor:
        """Return the cosine of every part of features [B, D] to that of the direction [D], [B, K]."""
        return (self._parts(features) * self._parts(direction[None])).sum(dim=2)

    def _parts(self, vectors: Tensor) -> Tensor:
        """Cut vectors [N, D] into unit vectors [N, K, D/K], at least float32."""
        wide = vectors.float() if vectors.dtype != torch.float64 else vectors
        return F.normalize(self._cut(wide), dim=2)

    def _cut(self, vectors: Tensor) -> Tensor:
        """Cut vectors [N, D] into [N, K, D/K]."""
        return vectors.reshape(-1, self.heads, vectors.shape[1] // self.heads)


def projection(width: int, hidden: int, projection_width: int) -> nn.Sequential:
    """Return the network before a contrast: linear, BatchNorm, ReLU, linear.

    Args:
        width: D of the features [B, D].
        hidden: Of the layer between.
        projection_width: d of the result [B, d], which is not yet of unit length.
    """
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, projection_width),
    )

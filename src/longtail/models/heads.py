"""Classifiers on top of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead(nn.Linear):
    """logits = W x + b; rows of W are the classes.

    Args:
        num_features: D.
        num_classes: C.
        initial_bias: Value of b at the start; the framework's default U(-1/sqrt D, 1/sqrt D) if
            not given.
    """

    def __init__(
        self, num_features: int, num_classes: int, initial_bias: float | None = None
    ) -> None:
        self.initial_bias = initial_bias
        super().__init__(num_features, num_classes)

    def reset_parameters(self) -> None:
        """Draw W (and b) anew."""
        super().reset_parameters()
        if self.initial_bias is not None:
            nn.init.constant_(self.bias, self.initial_bias)


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

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C] in [-scale, scale]."""
        # in float32 also under autocast: a cosine has 8 bits in bf16, times 30 that is 0.1
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.float() if features.dtype != torch.float64 else features)
            return self.scale * F.linear(unit, F.normalize(self.weight).to(unit.dtype))

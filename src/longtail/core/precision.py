"""The least width in which losses and corrections compute."""

import torch
from torch import Tensor
from torch.nn import functional


def at_least_float32(values: Tensor) -> Tensor:
    """Return `values` in float32, or unchanged if they are wider.

    A log prior of -10 or a logit of 30 has a resolution of 1/16 or 1/8 in bf16, which is more than what
    losses and corrections are about.
    """
    return values if values.dtype == torch.float64 else values.float()


def unit_rows(features: Tensor) -> Tensor:
    """Return rows [N, D] of length 1, in at least float32 also under autocast."""
    return functional.normalize(at_least_float32(features), dim=1)

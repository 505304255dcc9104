"""Class weights: the only home of inverse, square-root, power and effective-number weighting."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts

WeightScheme = Literal["inverse", "square-root", "effective-number", "power"]


def class_weights(
    counts: ClassCounts,
    scheme: WeightScheme,
    *,
    beta: float = 0.9999,
    exponent: float = 0.25,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return one weight per class, [C], with mean 1 over the classes.

    Args:
        counts: Training images per class.
        scheme: `inverse`: 1 / n. `square-root`: n^(-1/2). `effective-number`:
            (1 - beta) / (1 - beta^n) (Cui et al., CVPR 2019, arXiv 1901.05555, eq. 2).
            `power`: n^-exponent (ADRW; Wang et al., NeurIPS 2023, arXiv 2310.04752).
        beta: In [0, 1]; 0 gives ones, 1 is the limit 1 / n. 0.9999 on CIFAR.
        exponent: Of `power`: 0 gives ones, 1 is `inverse`.
        dtype: Of the result; computed in float64.

    Raises:
        ValueError: If `beta` is out of range.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], but got {beta}.")
    n = counts.tensor(torch.float64)
    if scheme == "inverse" or (scheme == "effective-number" and beta == 1):
        raw = 1 / n
    elif scheme == "square-root":
        raw = n**-0.5
    elif scheme == "power":
        raw = n**-exponent
    else:
        # (1 - beta) cancels in the normalisation; expm1 keeps 1 - beta^n exact near beta = 1
        raw = -1 / torch.expm1(n * torch.log(torch.tensor(beta, dtype=torch.float64)))
    return (raw * len(counts) / raw.sum()).to(dtype)

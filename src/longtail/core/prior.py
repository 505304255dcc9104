"""The class distribution that a model's scores assume, as it is written down.

A softmax model is right for one distribution of the classes: that of its training images, or another one
that its loss, its sampler or a later correction has put in. Only where it is known can scores be moved to
the distribution in use. `longtail.adjust` has the algebra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts

UNKNOWN: Literal["unknown"] = "unknown"
Prior = tuple[float, ...] | Literal["unknown"] | None  # shares, unknown, or not said


def written(prior: Tensor | None) -> tuple[float, ...] | Literal["unknown"]:
    """Return a distribution [C] as it is stored."""
    return UNKNOWN if prior is None else tuple(prior.double().tolist())


def stated_prior(stated: Prior, counts: ClassCounts, corrections: Sequence[str]) -> Tensor | None:
    """Return a stored distribution, float64 [C], or None if it is unknown.

    Where nothing is said, a model without corrections assumes the training counts.
    """
    if stated == UNKNOWN or (stated is None and corrections):
        return None
    if stated is None:
        return counts.prior(torch.float64)
    return torch.tensor(stated, dtype=torch.float64)


def read_stated(value: object) -> Prior:
    """Return what `written` gave, from JSON or an array.

    Raises:
        ValueError: If it is neither positive shares that sum to 1 nor `unknown`.
    """
    if value is None or value == UNKNOWN:
        return UNKNOWN if value else None
    shares: tuple[float, ...] = ()
    if isinstance(value, Sequence) and not isinstance(value, str):
        shares = tuple(float(share) for share in value)
    if not shares or not all(0 < share < math.inf for share in shares):
        raise ValueError("the assumed prior must have a positive share for every class")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError("the assumed prior must sum to 1")
    return shares


def unknown_prior(corrections: Sequence[str]) -> str:
    """Return what to tell a user whose model assumes a distribution that is not known."""
    trained = f" ({', '.join(corrections)})" if corrections else ""
    return (
        "It is unknown which class distribution this model's scores assume, because of how the "
        f"model was trained or corrected{trained}, so the scores cannot be converted to another "
        "one. State the distribution with --assumed: uniform, training (the training counts), or "
        "a CSV of class and share."
    )

"""Contrast with infinitely many draws of each class (ProCo; Du et al., TPAMI 2024, arXiv 2403.06726).

The unit features of class c are taken to be drawn from a von Mises-Fisher distribution with mean direction
mu_c and concentration kappa_c. The expected similarity of a feature h to class c has a closed form (eq. 16):

    s_c = log E e^{h.x / temperature} = F( |kappa_c mu_c + h / temperature| ) - F( kappa_c )
    F(k) = log I_nu(k) - nu log k,  nu = d / 2 - 1,  I the modified Bessel function of the first kind

and takes the place of a logit. kappa is estimated from the length R of the mean feature: d R / (1 - R^2), the
approximation of Banerjee et al. (2005) without its smaller term, at most 1e5, as released.

F is computed by the uniform asymptotic expansion for large orders (NIST DLMF 10.41.3, five terms): it has a
gradient, needs no recurrence, and no step of it waits for the device. In float64 it is exact to 1e-9 at
d = 128. The difference of two F is computed from what k^2 gains, so that float32 loses nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32, unit_rows

LARGEST = 1e5  # concentration


def log_bessel(k: Tensor, width: int) -> Tensor:
    """Return F(k) = log I_nu(k) - nu log k, nu = width / 2 - 1, in at least float32.

    Args:
        k: At least 0, any shape.
        width: d, at least 16; the error is about .05 / nu^5, and what the precision of `k` adds.
    """
    nu = width / 2 - 1
    root = torch.sqrt(1 + (at_least_float32(k) / nu).square())
    leading = nu * (root - torch.log1p(root) - math.log(nu))
    return leading - math.log(2 * math.pi * nu) / 2 - root.log() / 2 + _log_series(root, nu)


def log_bessel_gain(k: Tensor, gain: Tensor, width: int) -> Tensor:
    """Return F(sqrt(k^2 + gain)) - F(k), of at least float32.

    Args:
        k: At least 0.
        gain: At least -k^2, of a shape that goes with that of `k`.
        width: d, at least 16.
    """
    nu = width / 2 - 1
    before = torch.sqrt(1 + (k / nu).square())
    after = torch.sqrt((before.square() + gain / nu**2).clamp_min(1))
    more = gain / nu**2 / (before + after)  # of the root
    leading = nu * (more - torch.log1p(more / (1 + before)))
    series = _log_series(after, nu) - _log_series(before, nu)
    return leading - torch.log1p(more / before) / 2 + series


def _log_series(root: Tensor, nu: float) -> Tensor:
    """Return the log of the expansion's sum, 1 + u1 / nu + ..., at sqrt(1 + (k / nu)^2)."""
    t = 1 / root
    t2 = t.square()
    u1 = t * (3 - 5 * t2) / 24
    u2 = t2 * (81 + t2 * (-462 + 385 * t2)) / 1152
    u3 = t * t2 * (30375 + t2 * (-369603 + t2 * (765765 - 425425 * t2))) / 414720
    u4 = 4465125 + t2 * (-94121676 + t2 * (349922430 + t2 * (-446185740 + 185910725 * t2)))
    u4 = t2.square() * u4 / 39813120
    return torch.log1p(u1 / nu + u2 / nu**2 + u3 / nu**3 + u4 / nu**4)


def concentration(means: Tensor) -> Tensor:
    """Return kappa, [C], of mean features [C, d], whose length is at most 1, in at least float32."""
    length = at_least_float32(means).norm(dim=1)
    kappa = means.shape[1] * length / (1 - length.square())
    # a length that rounding brings to 1 or more is that of a class on one point
    return torch.where(kappa < 0, LARGEST, kappa).clamp_max(LARGEST)


def expected_similarity(features: Tensor, means: Tensor, temperature: float) -> Tensor:
    """Return s, [B, C], in at least float32.

    Args:
        features: h, unit rows, [B, d].
        means: Mean features of the classes, [C, d], constants; their length says how concentrated they are.
        temperature: Above 0.
    """
    h = at_least_float32(features)
    kappa = concentration(means.to(h.dtype))
    with torch.autocast(features.device.type, enabled=False):
        along = h @ unit_rows(means.to(h.dtype)).T  # h . mu
    # |kappa mu + h / temperature|^2 = kappa^2 + gain, of unit vectors h and mu
    gain = 2 * kappa * along / temperature + 1 / temperature**2
    return log_bessel_gain(kappa, gain, means.shape[1])

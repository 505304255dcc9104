"""Contrast with infinitely many draws of each class (ProCo; Du et al., TPAMI 2024, arXiv 2403.06726).

The unit features of class c are taken to be drawn from a von Mises-Fisher distribution with mean direction
mu_c and concentration kappa_c. The expected similarity of a feature h to class c has a closed form (eq. 16):

    s_c = log E e^{h.x / temperature} = F( |kappa_c mu_c + h / temperature| ) - F( kappa_c )
    F(k) = log I_nu(k) - nu log k,  nu = d / 2 - 1,  I the modified Bessel function of the first kind

and takes the place of a logit. kappa is estimated from the length R of the mean feature: d R / (1 - R^2), the
approximation of Banerjee et al. (2005) without its smaller term, at most 1e5, as released.

F is computed by the uniform asymptotic expansion for large orders (NIST DLMF 10.41.3, five terms), in
float64: it has a gradient, needs no recurrence, and no step of it waits for the device. At d = 128 it is
exact to 1e-9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 1e5  # concentration


def log_bessel(k: Tensor, width: int) -> Tensor:
    """Return F(k) = log I_nu(k) - nu log k, nu = width / 2 - 1, in float64.

    Args:
        k: At least 0, any shape.
        width: d, at least 16; the error is about .05 / nu^5.
    """
    nu = width / 2 - 1
    z = k.double() / nu
    root = torch.sqrt(1 + z.square())
    t = 1 / root
    t2 = t.square()
    u1 = t * (3 - 5 * t2) / 24
    u2 = t2 * (81 + t2 * (-462 + 385 * t2)) / 1152
    u3 = t * t2 * (30375 + t2 * (-369603 + t2 * (765765 - 425425 * t2))) / 414720
    u4 = 4465125 + t2 * (-94121676 + t2 * (349922430 + t2 * (-446185740 + 185910725 * t2)))
    u4 = t2.square() * u4 / 39813120
    series = u1 / nu + u2 / nu**2 + u3 / nu**3 + u4 / nu**4
    leading = nu * (root - torch.log1p(root) - math.log(nu))
    return leading - math.log(2 * math.pi * nu) / 2 - root.log() / 2 + torch.log1p(series)


def concentration(means: Tensor) -> Tensor:
    """Return kappa, float64 [C], of mean features [C, d], whose length is at most 1."""
    length = means.double().norm(dim=1)
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
    width = means.shape[1]
    kappa = concentration(means)
    with torch.autocast(features.device.type, enabled=False):
        mu = torch.nn.functional.normalize(means.double(), dim=1)
        along = features.double() @ mu.T  # h . mu
    # |kappa mu + h / temperature|, of unit vectors h and mu
    square = kappa.square() + 2 * kappa * along / temperature + 1 / temperature**2
    moved = square.clamp_min(1e-12).sqrt()
    found = log_bessel(moved, width) - log_bessel(kappa, width)
    return found if features.dtype == torch.float64 else found.float()

"""Inference: instance-level test-time learning, the weights lambda of the sub-models for one image.

    x1, x2     two random views of the image x
    y_v      = sum over t of lambda_t f_t(x_v)                      v = 1, 2
    lambda   = arg max cos(y_1, y_2)                                (eq. 5)
    output   = sum over t of lambda_t f_t(x)

Readings of the text: f are probabilities; lambda is on the simplex (the columns of table 9 sum to 1; without
a constraint no solution is unique); it is the maximum itself, by a grid in steps of 0.05, to which
the paper's gradient steps lead. The paper names no augmentation for the views: `test_views`, here SADE's.

The paper compares with the average, lambda = 1 / T ("w/o TTL", tables 8 and 10), and this library with the
oracle that knows the shot group of an image: `longtail.ensembles.mixtures` scores all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtail.ensembles import instance_weights, weighted_sum

SMALLEST = 1e-30  # probability


def instance_mixture(clean: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the logarithm of the weighted probabilities (eq. 5), [B, C].

    Args:
        clean: Logits of the sub-models for the images themselves, [B, T, C].
        first: For one view of them, likewise.
        second: For another one.
    """
    # products of probabilities in bf16 would hide which lambda is the best
    with torch.autocast(clean.device.type, enabled=False):
        p, p1, p2 = (logits.float().softmax(dim=2) for logits in (clean, first, second))
        return weighted_sum(p, instance_weights(p1, p2)).clamp_min(SMALLEST).log()


def average_mixture(clean: Tensor) -> Tensor:
    """Return the logarithm of the mean probabilities of the sub-models, [B, C], from logits [B, T, C]."""
    return clean.float().softmax(dim=2).mean(dim=1).clamp_min(SMALLEST).log()

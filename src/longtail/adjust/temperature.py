"""Temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599), overall or balanced over classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.errors import DataError

LIMITS = (math.log(0.01), math.log(100.0))


def fit_temperature(logits: Tensor, labels: Tensor, *, balanced: bool = False) -> float:
    """Return the temperature T with which softmax(z / T) fits held-out labels best.

    Args:
        logits: Of held-out images, [N, C]; never of test images.
        labels: int64 [N].
        balanced: Whether every class that occurs counts alike, instead of every image.

    Returns:
        T in 0.01..100; above 1 the model was too confident. Where every image is classified correctly, no
        temperature is too low, so a very low one is found, which says nothing of other images.

    Raises:
        DataError: If there is no image, or a logit is NaN: every temperature would fit equally well.
    """
    if len(logits) == 0 or logits.isnan().any():
        what = "a logit is NaN" if len(logits) else "there is none"
        raise DataError(f"A temperature is fitted to the logits of held-out images, but {what}.")
    from scipy.optimize import minimize_scalar  # takes seconds to import

    z = logits.double()
    weights = None
    if balanced:
        present = torch.bincount(labels, minlength=logits.shape[1]).double()
        weights = torch.where(present > 0, 1 / present.clamp_min(1), torch.zeros_like(present))

    def loss(log_temperature: float) -> float:
        scaled = z / math.exp(log_temperature)
        return float(F.cross_entropy(scaled, labels, weight=weights))

    found = minimize_scalar(loss, bounds=LIMITS, method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))

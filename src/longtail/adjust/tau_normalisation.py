"""Tau-normalisation of a classifier (Kang et al., ICLR 2020, arXiv 1910.09217, eq. 3).

After ordinary training the rows of a classifier are longer for frequent classes. Dividing each by a
power of its length takes the preference away without any training: w_c / ||w_c||^tau. The bias is
dropped, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32

TAUS = tuple(step / 10 for step in range(21))  # grid of the released code; the paper uses (0, 1)
ROWS_AT_ONCE = 2048  # of logits, so that those of 1,000 classes stay in the processor's cache


def tau_normalize(weight: Tensor, tau: float | Tensor) -> Tensor:
    """Return the rows of a linear classifier divided by their norms to the power `tau`.

    Args:
        weight: [C, D], one row per class. Rows of zeros stay as they are.
        tau: 0 returns the weights bit for bit, 1 gives unit rows; 0.3 to 0.8 in the paper. The new
            norms are the old ones to the power 1 - tau. A number or a scalar tensor.

    Returns:
        [C, D]. Logits are `features @ result.T`, without bias.
    """
    return (at_least_float32(weight) / (_norms(weight) ** tau)[:, None]).to(weight.dtype)


@dataclass(frozen=True)
class TauCurve:
    """Accuracy over the strength of tau-normalisation.

    Attributes:
        taus: Strengths, ascending.
        accuracy: Class-averaged accuracy at each, in [0, 1].
        per_class: Accuracy of each class at each, float64 [taus, C]; NaN for a class without
            images.
    """

    taus: tuple[float, ...]
    accuracy: tuple[float, ...]
    per_class: Tensor

    @property
    def best(self) -> float:
        """Strength with the largest class-averaged accuracy; the smallest one on a tie."""
        return self.taus[max(range(len(self.taus)), key=lambda i: (self.accuracy[i], -i))]


def tau_curve(
    features: Tensor, labels: Tensor, weight: Tensor, taus: tuple[float, ...] = TAUS
) -> TauCurve:
    """Score every strength on the images of one split.

    All strengths share one product with the classifier: normalising a row divides a column of the
    logits.

    Args:
        features: [N, D].
        labels: int64 [N].
        weight: Of the classifier, [C, D]. The bias plays no part.
        taus: Strengths to try.
    """
    num_classes, norms = len(weight), _norms(weight)
    rows_of_classes = at_least_float32(weight).T
    present = torch.bincount(labels, minlength=num_classes)
    hits = torch.zeros(len(taus), num_classes, dtype=torch.int64, device=labels.device)
    for rows in torch.split(torch.arange(len(labels), device=labels.device), ROWS_AT_ONCE):
        logits = at_least_float32(features[rows]) @ rows_of_classes
        for place, tau in enumerate(taus):
            right = (logits / norms**tau).argmax(dim=1) == labels[rows]
            hits[place] += torch.bincount(labels[rows][right], minlength=num_classes)
    hits, present = hits.cpu(), present.cpu()  # not every device has float64
    per_class = hits.double() / torch.where(present > 0, present, torch.nan)
    return TauCurve(taus, tuple(per_class.nanmean(dim=1).tolist()), per_class)


def _norms(weight: Tensor) -> Tensor:
    """Return the norm of every row in at least float32, [C]; one for a row of zeros."""
    norms = torch.linalg.vector_norm(at_least_float32(weight), dim=1)
    return torch.where(norms > 0, norms, torch.ones_like(norms))

"""LADE: disentangling the label distribution (Hong et al., CVPR 2021, arXiv 2012.00321).

L = CE(z + log pi, y) + alpha R: balanced softmax, and a term that brings raw logits near the logarithm of
p(x | y) / p(x) under uniform classes (Donsker and Varadhan's bound), so that any class distribution can be
put in at test time:

    R = sum_c pi_c ( -mean of z_c over the images of class c + T_c + lam T_c^2 )

    code    T_c = log mean_i e^{z_ic} - log pi_c + log 1/C        weighted by the class of the column
    paper   T_c = log mean_i (1/C) / pi_{y_i} e^{z_ic}            weighted by the class of the image

The two agree for uniform pi only, and are up to several units apart on a batch. A class without an image in
the batch keeps its T_c. Means are over the batch of one process.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import LabelLoss, adjusted_cross_entropy

Form = Literal["code", "paper"]


def lade_regulariser(
    logits: Tensor, labels: Tensor, log_prior: Tensor, *, quadratic: float, form: Form = "code"
) -> Tensor:
    """Return R of a batch, a scalar.

    Args:
        logits: Raw, [B, C].
        labels: int64 [B].
        log_prior: log pi, [C].
        quadratic: lam, at least 0.
        form: Of T, see the head of this file.
    """
    z = at_least_float32(logits)
    log_pi = log_prior.to(z)
    size, classes = z.shape
    weight = log_pi if form == "code" else log_pi[labels][:, None]
    t = (z - weight).logsumexp(dim=0) - math.log(size) - math.log(classes)  # [C]
    own = (labels[:, None] == torch.arange(classes, device=z.device)).to(z.dtype)  # [B, C]
    mean = (own * z).sum(dim=0) / own.sum(dim=0).clamp_min(1)  # [C]
    return (log_pi.exp() * (t + quadratic * t**2 - mean)).sum()


class LADE(LabelLoss):
    """Balanced softmax with the regulariser.

    Args:
        counts: Training images per class.
        alpha: Weight of R.
        quadratic: lam.
        form: Of T.
    """

    log_prior: Tensor

    def __init__(
        self,
        counts: ClassCounts,
        alpha: float = 0.1,
        quadratic: float = 0.01,
        form: Form = "code",
    ) -> None:
        super().__init__()
        self.alpha, self.quadratic, self.form = alpha, quadratic, form
        self.register_buffer("log_prior", counts.log_prior())

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]; R, which is of the batch, is added to each."""
        shared = lade_regulariser(
            logits, labels, self.log_prior, quadratic=self.quadratic, form=self.form
        )
        return adjusted_cross_entropy(logits, labels, bias=self.log_prior) + self.alpha * shared

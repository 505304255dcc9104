"""Balanced softmax and logit-adjusted softmax: one loss, found twice.

Logit adjustment (Menon et al., ICLR 2021, arXiv 2007.07314, eq. 10): CE(z + tau log pi, y).
Balanced softmax (Ren et al., NeurIPS 2020, arXiv 2007.10740, eq. 4): CE(z + log n, y), which is
tau = 1, because log n and log pi differ by a constant. The raw z is used for prediction; adding
the prior again at test time would undo the correction.
"""

from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import (
    LabelLoss,
    Reduction,
    adjusted_cross_entropy,
    reduce,
)


def logit_adjusted(
    logits: Tensor,
    labels: Tensor,
    log_prior: Tensor,
    *,
    tau: float = 1.0,
    class_weights: Tensor | None = None,
    reduction: Reduction = "weighted-mean",
) -> Tensor:
    """Return CE(z + tau log pi, y).

    Args:
        logits: [B, C].
        labels: int64 [B].
        log_prior: `ClassCounts.log_prior()`, [C].
        tau: 0 is cross-entropy, 1 balanced softmax.
        class_weights: [C].
        reduction: See `reduce`.
    """
    losses = adjusted_cross_entropy(logits, labels, bias=tau * log_prior)
    return reduce(losses, labels, class_weights, reduction)


def balanced_softmax(
    logits: Tensor,
    labels: Tensor,
    counts: ClassCounts,
    *,
    class_weights: Tensor | None = None,
    reduction: Reduction = "weighted-mean",
) -> Tensor:
    """Return CE(z + log n, y) for logits [B, C] and labels [B]."""
    log_prior = counts.log_prior(at_least_float32(logits).dtype).to(logits.device)
    return logit_adjusted(
        logits, labels, log_prior, class_weights=class_weights, reduction=reduction
    )


class LogitAdjusted(LabelLoss):
    """Module form of `logit_adjusted`; `tau` = 1 is balanced softmax.

    Args:
        counts: Training images per class.
        tau: Strength of the adjustment.
    """

    log_prior: Tensor

    def __init__(self, counts: ClassCounts, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("log_prior", counts.log_prior())

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, bias=self.tau * self.log_prior)

"""Label-distribution-aware margin loss (Cao et al., NeurIPS 2019, arXiv 1906.07413, eq. 10-13).

L = CE(s (cos - onehot(y) Delta_y), y) with Delta_c = max_margin (n_min / n_c)^(1/4): the rarer the
class, the larger its margin. `cos` are cosines between unit features and unit classifier rows. The
printed equation puts the margin on every class; the released code only on the label, as we do.
"""

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import (
    LabelLoss,
    Reduction,
    adjusted_cross_entropy,
    reduce,
)


def ldam_margins(
    counts: ClassCounts, max_margin: float = 0.5, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return Delta_c, [C]; the largest is `max_margin`, at the rarest class."""
    n = counts.tensor(torch.float64)
    return (max_margin * (n.min() / n) ** 0.25).to(dtype)


def ldam(
    cosines: Tensor,
    labels: Tensor,
    margins: Tensor,
    *,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
    reduction: Reduction = "weighted-mean",
) -> Tensor:
    """Return the LDAM loss.

    Args:
        cosines: Of features and classifier rows, [B, C], in [-1, 1].
        labels: int64 [B].
        margins: `ldam_margins(counts)`, [C].
        scale: s, the inverse temperature.
        class_weights: [C].
        reduction: See `reduce`.
    """
    logits = scale * at_least_float32(cosines)
    losses = adjusted_cross_entropy(logits, labels, margin=scale * at_least_float32(margins))
    return reduce(losses, labels, class_weights, reduction)


class LDAM(LabelLoss):
    """LDAM on the logits of a cosine head, which are s * cos already.

    Args:
        counts: Training images per class.
        max_margin: Margin of the rarest class, in cosine units.
        scale: s of the head, so that the margins are scaled alike.
    """

    margins: Tensor

    def __init__(self, counts: ClassCounts, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        self.register_buffer("margins", scale * ldam_margins(counts, max_margin))

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, margin=self.margins)

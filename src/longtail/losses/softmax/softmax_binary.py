"""Binary cross-entropy on softmax's outputs: what WB's released code calls class-balanced softmax loss.

    L = mean over the classes of -log p_c (c = y), -log (1 - p_c) (else),  p = softmax(z)

Cui et al.'s port to PyTorch averages over images and classes, so that with 100 classes its gradient is
about a hundredth of that of cross-entropy, and a weight decay weighs a hundred times as much against it.
"""

from typing import ClassVar

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import LabelLoss, Reduction, check_fit

SMALLEST_LOG = -100.0  # as torch.nn.functional.binary_cross_entropy cuts it
LOWEST = -1e4  # as good as none, and with a gradient that is a number


def softmax_binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each image, [B], for logits [B, C] and labels int64 [B]."""
    check_fit(logits, labels)
    z = at_least_float32(logits)
    log_sum = z.logsumexp(dim=1, keepdim=True)
    log_p = z - log_sum
    # 1 - p of the largest class is the sum of the others, which rounding would take from a p near 1
    largest = z.argmax(dim=1, keepdim=True)
    is_largest = torch.zeros_like(z, dtype=torch.bool).scatter(1, largest, True)
    log_rest = z.masked_fill(is_largest, LOWEST).logsumexp(dim=1, keepdim=True) - log_sum
    log_other = torch.where(
        is_largest, log_rest, torch.log1p(-log_p.masked_fill(is_largest, LOWEST).exp())
    ).clamp_min(SMALLEST_LOG)
    own = torch.zeros_like(log_p).scatter(1, labels[:, None], 1.0)
    return -(own * log_p.clamp_min(SMALLEST_LOG) + (1 - own) * log_other).mean(dim=1)


class SoftmaxBinary(LabelLoss):
    """Module form; divided by B, not by the weights of a batch, as released."""

    default_reduction: ClassVar[Reduction] = "mean"

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return softmax_binary(logits, labels)

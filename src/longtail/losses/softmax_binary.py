"""Binary cross-entropy on softmax's outputs: what WB's released code calls class-balanced softmax loss.

    L = mean over the classes of -log p_c (c = y), -log (1 - p_c) (else),  p = softmax(z)

Cui et al.'s port to PyTorch averages over pictures and classes, so that with 100 classes its gradient is
about a hundredth of that of cross-entropy, and a weight decay weighs a hundred times as much against it.
"""

from typing import ClassVar

import torch
from torch import Tensor

from longtail.losses.adjusted_softmax import LabelLoss, Reduction, at_least_float32

SMALLEST_LOG = -100.0  # as torch.nn.functional.binary_cross_entropy cuts it


def softmax_binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each picture, [B], for logits [B, C] and labels int64 [B]."""
    log_p = at_least_float32(logits).log_softmax(dim=1)
    # log(1 - p) of a class that takes all is -inf, and its gradient not a number
    log_other = torch.log(-torch.expm1(log_p.clamp_max(-1e-7))).clamp_min(SMALLEST_LOG)
    own = torch.zeros_like(log_p).scatter(1, labels[:, None], 1.0)
    return -(own * log_p.clamp_min(SMALLEST_LOG) + (1 - own) * log_other).mean(dim=1)


class SoftmaxBinary(LabelLoss):
    """Module form; divided by B, not by the weights of a batch, as released."""

    default_reduction: ClassVar[Reduction] = "mean"

    def per_picture(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each picture, [B]."""
        return softmax_binary(logits, labels)

"""Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002), in the two forms that share its name.

Softmax form: (1 - p_y)^gamma * (-log p_y), p = softmax(z). gamma = 0 is cross-entropy.
Sigmoid form (the original, and the class-balanced loss of Cui et al., CVPR 2019, arXiv 1901.05555):
sum over classes of (1 - p^t_c)^gamma * BCE_c with p^t_c = sigmoid(z_c) for c = y and
1 - sigmoid(z_c) otherwise. gamma = 0 is the sum of the binary cross-entropies.

The released LDAM code lets the class weight enter before p is taken, so that p becomes p^w. We
weight the finished loss, as the text says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import (
    LabelLoss,
    Reduction,
    adjusted_cross_entropy,
    check_fit,
    reduce,
)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    class_weights: Tensor | None = None,
    reduction: Reduction = "weighted-mean",
) -> Tensor:
    """Return the softmax form for logits [B, C] and labels [B]; `gamma` at least 0."""
    losses = adjusted_cross_entropy(logits, labels, focal_gamma=gamma)
    return reduce(losses, labels, class_weights, reduction)


def sigmoid_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the sigmoid form, summed over classes, for logits [B, C] and labels [B].

    The sum is divided by the number of positives (= B), not by B * C. All C terms of an image get
    the weight of its label. A classifier trained with it should start at the bias
    `rare_positive_bias(C)`: at zero the first loss is C log 2 and training diverges.
    """
    check_fit(logits, labels)
    z = at_least_float32(logits)
    sign = 2 * F.one_hot(labels, z.shape[1]).to(z.dtype) - 1  # +1 at the label, else -1
    log_pt = F.logsigmoid(sign * z)
    losses = -(torch.exp(gamma * F.logsigmoid(-sign * z)) * log_pt).sum(dim=1)
    return reduce(losses, labels, class_weights, reduction)


def rare_positive_bias(num_classes: int) -> float:
    """Return -log((1 - p) / p) with p = 1 / C, the bias with which every sigmoid starts at 1 / C."""
    return -float(torch.log(torch.tensor(num_classes - 1.0, dtype=torch.float64)))


class Focal(LabelLoss):
    """Module form of `focal`."""

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, focal_gamma=self.gamma)


class SigmoidFocal(LabelLoss):
    """Module form of `sigmoid_focal`."""

    default_reduction = "mean"

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return sigmoid_focal(logits, labels, gamma=self.gamma, reduction="none")

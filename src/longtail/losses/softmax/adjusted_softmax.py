"""One kernel for the softmax losses of long-tailed recognition.

    L_i = (1 - p_y)^gamma * smoothed CE( z - onehot(y) * margin_y + bias , y )

with p the softmax of the shifted logits. Cross-entropy, focal (softmax form), balanced softmax,
logit adjustment and LDAM are this kernel with different arguments; each has a file that says which.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.errors import DataError
from longtail.core.precision import at_least_float32
from longtail.core.words import counted

Reduction = Literal["none", "mean", "weighted-mean"]


def adjusted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    margin: Tensor | None = None,
    label_smoothing: float | Tensor = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return the loss of each image, [B].

    Computed in at least float32, also under autocast: margins of 30 * 0.5 and log priors of -10
    are beyond the resolution of half precision.

    Args:
        logits: [B, C].
        labels: int64 [B].
        bias: Added to every row, [C].
        margin: Subtracted from the logit of the label, [C].
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1), or that of
            each class, [C].
        focal_gamma: Exponent of the focal factor, at least 0.

    Raises:
        DataError: If logits, labels and what is given for each class do not fit each other.
    """
    smoothing = label_smoothing if isinstance(label_smoothing, Tensor) else None
    check_fit(logits, labels, bias, margin, smoothing)
    z = at_least_float32(logits)
    if margin is not None:
        penalty = margin.to(z.dtype)[labels]  # [B]
        z = z.scatter_add(1, labels[:, None], -penalty[:, None])
    if bias is not None:
        z = z + bias.to(z.dtype)
    log_p = z.log_softmax(dim=1)
    log_p_label = log_p.gather(1, labels[:, None]).squeeze(1)
    loss = -log_p_label
    if isinstance(label_smoothing, Tensor):
        label_smoothing = label_smoothing.to(z.dtype)[labels]  # [B]
    if isinstance(label_smoothing, Tensor) or label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(dim=1)
    if focal_gamma:
        # 1 - exp(log p) loses everything near p = 1; expm1 does not
        loss = (-torch.expm1(log_p_label)).clamp_min(0) ** focal_gamma * loss
    return loss


def check_fit(logits: Tensor, labels: Tensor, *by_class: Tensor | None) -> None:
    """Refuse shapes that broadcasting and `gather` accept, as a loss of other images or classes.

    Args:
        logits: [B, C].
        labels: [B].
        by_class: What there is one of for each class, [C] (or None).

    Raises:
        DataError: If logits, labels or one of the others do not fit.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(
            "A loss needs logits [B, C] and one class number for each image, [B], but the logits have shape "
            f"{list(logits.shape)} and the labels {list(labels.shape)}."
        )
    for values in by_class:
        if values is not None and values.shape[-1:] != logits.shape[1:]:
            known = values.shape[-1] if values.ndim else 1
            raise DataError(
                f"The loss knows {counted(known, 'class', 'classes')}, but the logits are of "
                f"{logits.shape[1]}: count the images of exactly the classes that the model has."
            )


def reduce(
    losses: Tensor,
    labels: Tensor,
    class_weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Weight the losses by class and reduce them.

    Args:
        losses: [B].
        labels: int64 [B].
        class_weights: [C] or None for ones.
        reduction: `weighted-mean` divides by the sum of the weights in the batch (as
            `torch.nn.functional.cross_entropy(weight=...)` does; the published CB, DRW and LDAM
            numbers assume it), `mean` divides by B, `none` returns [B]. The two differ by the mean
            weight of a batch, about a factor of five at ratio 100. With several processes the
            divisor is that of the joint batch.
    """
    if class_weights is None:
        return losses if reduction == "none" else losses.mean()
    weights = class_weights.to(losses.dtype)[labels]
    weighted = losses * weights
    if reduction == "none":
        return weighted
    if reduction == "mean":
        return weighted.mean()
    return weighted.sum() / distributed.mean(weights.sum())


class LabelLoss(nn.Module):
    """Module form of a loss on hard labels: what an image costs, weighted and reduced.

    Attributes:
        default_reduction: What `forward` does if it is not told; see `reduce`.
    """

    default_reduction: ClassVar[Reduction] = "weighted-mean"

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the unweighted loss of each image, [B], for logits [B, C] and labels [B]."""
        raise NotImplementedError

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        class_weights: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Return the loss of logits [B, C] and labels int64 [B]; weights are [C]."""
        losses = self.per_image(logits, labels)
        return reduce(losses, labels, class_weights, reduction or self.default_reduction)

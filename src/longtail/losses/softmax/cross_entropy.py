"""Cross-entropy with class weights and label smoothing."""

from torch import Tensor

from longtail.losses.softmax.adjusted_softmax import (
    LabelLoss,
    Reduction,
    adjusted_cross_entropy,
    reduce,
)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "weighted-mean",
) -> Tensor:
    """Return -log softmax(z)_y, smoothed and weighted by class.

    Args:
        logits: [B, C].
        labels: int64 [B].
        class_weights: [C]; see `longtail.losses.class_weights`.
        label_smoothing: In [0, 1).
        reduction: See `reduce`.
    """
    losses = adjusted_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return reduce(losses, labels, class_weights, reduction)


class CrossEntropy(LabelLoss):
    """Module form of `cross_entropy`."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

"""Metrics from an exact integer confusion matrix, and calibration from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from longtail.core.errors import DataError

CALIBRATION_BINS = 15
LEAST_SEEDS = 3  # of which an interval, or "better", is said


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Return the number of images by (label, prediction), int64 [C, C].

    Raises:
        DataError: If labels and predictions are not as many, or not all class numbers in 0 ... C - 1.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape:
        raise DataError(f"There are {labels.size} labels but {predicted.size} predictions.")
    for name, numbers in (("label", labels), ("prediction", predicted)):
        # another number would be counted as a pair of two other classes
        fine = (numbers >= 0) & (numbers < num_classes) & (numbers == np.floor(numbers))
        if not fine.all():
            raise DataError(
                f"Every {name} must be a class number in 0 ... {num_classes - 1}, but there is "
                f"{numbers[~fine][0]}."
            )
    # a pair does not fit into the narrow integers in which labels are often stored
    pairs = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    counted = np.bincount(pairs, minlength=num_classes**2)
    return counted.reshape(num_classes, num_classes)


def per_class_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the accuracy (recall) of each class, float64 [C]; NaN where it has no test image."""
    tested = confusion.sum(axis=1)
    hits = np.diag(confusion).astype(np.float64)
    accuracy = np.full(len(tested), np.nan)
    np.divide(hits, tested, out=accuracy, where=tested > 0)
    return accuracy


def micro_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return correct images over all images."""
    return float(np.trace(confusion) / confusion.sum())


def macro_accuracy(
    confusion: NDArray[np.int64], classes: NDArray[np.bool_] | None = None
) -> float | None:
    """Return the unweighted mean of per-class accuracies.

    Args:
        confusion: [C, C].
        classes: Which classes to average over, bool [C]; all if not given. Classes without a test
            image are left out.

    Returns:
        The mean, or None if no class is left (an empty group has no accuracy, not zero).
    """
    accuracy = per_class_accuracy(confusion)
    wanted = ~np.isnan(accuracy) if classes is None else classes & ~np.isnan(accuracy)
    return float(accuracy[wanted].mean()) if wanted.any() else None


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities, float64 [N, C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> float | None:
    """Return the expected calibration error (Guo et al., ICML 2017), in [0, 1].

    Sum over equally wide bins of the confidence of |accuracy - mean confidence|, weighted by the
    share of the images in the bin. A confidence on a border belongs to the lower bin.

    Args:
        confidence: Probability of the predicted class, [N].
        correct: Whether the prediction is right, [N].
        bins: 15 in the field.

    Returns:
        The error, or None without images.
    """
    if len(confidence) == 0:
        return None
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def wilson_interval(hits: float, size: int, level: float = 0.95) -> tuple[float, float]:
    """Return an interval for a share of `hits` in `size` images (Wilson, 1927)."""
    z = float(special.ndtri(0.5 + level / 2))
    share, factor = hits / size, 1 + z * z / size
    centre = (share + z * z / (2 * size)) / factor
    half = z / factor * (share * (1 - share) / size + z * z / (4 * size * size)) ** 0.5
    # at no or only hits the bound is exactly 0 or 1; rounding must not say otherwise
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return low, 1.0 if hits == size else min(1.0, centre + half)


def mean_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """Return Student's interval for the mean over seeds, or None where there is nothing to make one of.

    That is for fewer than three values, of which two may agree by chance, and for values that are all equal,
    whose spread of 0 does not say that the next one would be equal too.
    """
    if len(values) < LEAST_SEEDS or values.min() == values.max():
        return None
    t = float(special.stdtrit(len(values) - 1, 0.5 + level / 2))
    half = t * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)

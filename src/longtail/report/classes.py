"""Single classes: how sure their accuracies are, which are confused, and which come first in a table."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtail.evaluation.metrics import wilson_interval
from longtail.evaluation.scores import LEAST_IMAGES

Standing = Literal["recognised", "missed", "open", "untested"]
HALF = 0.5  # of its test images: above it, a class is called recognised


def class_intervals(
    labels: NDArray[np.int64],
    right: NDArray[np.bool_],
    num_classes: int,
    together: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return Wilson's 95 % interval of the accuracy of every class, [C, 2]; NaN without test images.

    Args:
        labels: int64 [N].
        right: Whether each image was recognised, bool [N].
        num_classes: C.
        together: int64 [N], equal for images that belong together: each unit counts as one image.
    """
    size = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels, weights=right, minlength=num_classes)
    units = size
    if together is not None:
        pairs = np.unique(np.stack([labels, together]), axis=1)
        units = np.bincount(pairs[0], minlength=num_classes)
    limits = cache(wilson_interval)
    found = np.full((num_classes, 2), np.nan)
    for label in np.flatnonzero(size).tolist():
        share = hits[label] / size[label]
        found[label] = limits(float(share * units[label]), int(units[label]))
    return found


def standings(intervals: NDArray[np.float64], tested: NDArray[np.int64]) -> list[Standing]:
    """Say of every class whether more or fewer than half of its images are surely recognised.

    Args:
        intervals: Of the accuracies, [C, 2].
        tested: Test images, int64 [C].
    """
    return [
        "untested" if size == 0
        else "open" if size < LEAST_IMAGES
        else "recognised" if low > HALF
        else "missed" if high < HALF
        else "open"
        for (low, high), size in zip(intervals.tolist(), tested.tolist(), strict=True)
    ]  # fmt: skip


def worst_first(
    accuracy: NDArray[np.float64], tested: NDArray[np.int64], trained: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the classes by accuracy; those with too few test images to be judged come after the others.

    Args:
        accuracy: float64 [C], NaN without test images.
        tested: Test images, int64 [C].
        trained: Training images, int64 [C]; the rarer class comes first of two that are equal.
    """
    place = np.where(tested >= LEAST_IMAGES, 0, np.where(tested > 0, 1, 2))
    return np.lexsort((trained, np.nan_to_num(accuracy, nan=2.0), place))


def confused_pairs(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Return (label, predicted class, images) of all confusions, the most frequent first, int64 [P, 3].

    Of equally many images, the confusion of the class with fewer test images comes first.

    Args:
        labels: int64 [N].
        predicted: int64 [N].
        num_classes: C.
    """
    wrong = labels != predicted
    keys, images = np.unique(labels[wrong] * num_classes + predicted[wrong], return_counts=True)
    size = np.bincount(labels, minlength=num_classes)
    found = np.stack([keys // num_classes, keys % num_classes, images], axis=1).astype(np.int64)
    return found[np.lexsort((size[found[:, 0]], -images))]

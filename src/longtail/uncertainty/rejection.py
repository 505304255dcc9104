"""A threshold on the confidence above which predictions reach a chosen precision.

A threshold that just reaches the precision on the images it was chosen on will often miss it on others. It is
therefore chosen by a lower confidence bound (selection with guaranteed risk; Geifman and El-Yaniv, NeurIPS
2017): the exact binomial bound (Clopper and Pearson, 1934), at an error divided by the number of thresholds
that are tried. The thresholds that are tried depend on the number of images alone: they are ranks of the
confidence, from the smallest number of images that could show the precision if all were right, up to all of
them. Given the confidence at a rank, the images above it are a sample of everything above that confidence, so
the bound holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

MOST_TRIED = 20


@dataclass(frozen=True)
class Threshold:
    """A threshold for a chosen precision.

    Attributes:
        value: Predictions with a higher confidence are accepted; -inf accepts all; None if the precision
            cannot be shown.
        images: Number of images that it was chosen on.
        accepted: How many of them are above it.
        right: How many of those are right.
        bound: Lower confidence bound of the precision above it; None if the precision cannot be shown.
        needed: Smallest number of images that could show the precision if all were right.
    """

    value: float | None
    images: int
    accepted: int
    right: int
    bound: float | None
    needed: int


def lower_bound(right: int, size: int, error: float) -> float:
    """Return the exact lower confidence bound of a share (Clopper and Pearson, 1934).

    Args:
        right: Hits, at most `size`.
        size: Trials; at least 1.
        error: Largest probability that the share is below the bound.
    """
    return 0.0 if right == 0 else float(special.betaincinv(right, size - right + 1, error))


def reject_threshold(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    precision: float,
    *,
    error: float = 0.05,
) -> Threshold:
    """Return the lowest threshold above which the precision is reached with probability 1 - `error`.

    Args:
        confidence: Of predictions for images that were not trained on, [N].
        right: Whether they are right, [N].
        precision: Share of accepted predictions that must be right, in (0, 1).
        error: Largest probability that the threshold misses the precision.
    """
    size = len(confidence)
    tried = next(
        (n for n in range(MOST_TRIED, 0, -1) if fewest_images(precision, error / n) <= size), 0
    )
    if tried == 0:
        return Threshold(None, size, 0, 0, None, fewest_images(precision, error))
    needed = fewest_images(precision, error / tried)
    ranks = np.unique(np.linspace(needed, size, tried).round().astype(int))
    order = np.sort(confidence)[::-1]
    for rank in ranks[::-1].tolist():
        value = -math.inf if rank == size else float(order[rank])
        inside = confidence > value
        accepted, hits = int(inside.sum()), int(right[inside].sum())
        if accepted and (bound := lower_bound(hits, accepted, error / len(ranks))) >= precision:
            return Threshold(value, size, accepted, hits, bound, needed)
    return Threshold(None, size, 0, 0, None, needed)


def highest_precision(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], *, error: float = 0.05
) -> float | None:
    """Return the highest precision, in whole percent, that `reject_threshold` finds a threshold for.

    The promise of `reject_threshold` is for a precision that is chosen beforehand. This one is chosen on the
    same images, so that the promise does not hold for it: it is a hint, to be checked on other images.

    Args:
        confidence: Of predictions for images that were not trained on, [N].
        right: Whether they are right, [N].
        error: As of `reject_threshold`.

    Returns:
        A share from 0.01 to 0.99; None if even 0.01 cannot be shown.
    """
    shares = (percent / 100 for percent in range(99, 0, -1))
    return next(
        (
            p
            for p in shares
            if reject_threshold(confidence, right, p, error=error).value is not None
        ),
        None,
    )


def fewest_images(precision: float, error: float) -> int:
    """Return how many images show a precision if all are right: the least n with precision^n <= error.

    Args:
        precision: Share that must be right, in (0, 1).
        error: Largest probability of being wrong about it.
    """
    return math.ceil(math.log(error) / math.log(precision) - 1e-9)


def accuracy_by_coverage(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many images are accepted at each threshold, and how many of those are right.

    Args:
        confidence: Of predictions, [N].
        right: Whether they are right, [N].

    Returns:
        Accepted and right, int64 [T] each, from the strictest threshold to all images; images of equal
        confidence are accepted together.
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-np.inf) != 0)
    return ends + 1, np.cumsum(right[order], dtype=np.int64)[ends]

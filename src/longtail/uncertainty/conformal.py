"""Sets of classes that contain the true class with a chosen probability, within every class.

    s(x, y)    how unlikely class y is for image x; larger is less likely
    LAC        s = 1 - p_y: the smallest sets (Sadinle, Lei and Wasserman, JASA 2019)
    APS        s = sum of the probabilities from the largest down to p_y: larger sets, which grow where the
               model is uncertain (Romano, Sesia and Candes, NeurIPS 2020), without the random part
    t_y        the ceil((n + 1)(1 - alpha))-th smallest score s(x_i, y) of the n calibration images of class y
    the set    every class y with s(x, y) <= t_y

With a threshold for each class, the guarantee holds within each class, including rare ones, and for any class
prior: the share of images of class y whose set does not contain y is at most alpha. This takes
n >= 1 / alpha - 1 images of the class. Classes with fewer share a threshold within their shot group, or, if
those are still too few, with all such classes. The guarantee then holds only on average over the images of
that pool, and the result says which classes share. (Clustering classes by their scores, Ding et al., NeurIPS
2023, would need more images than these classes have.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OWN, EVERY, NONE = "own", "all small classes", "none"


@dataclass(frozen=True)
class ClassThresholds:
    """Thresholds of the scores.

    Attributes:
        values: t_y, float64 [C]; infinite where only the set of all classes gives the guarantee.
        pools: Which images gave the threshold of each class: `own`, the name of a pool, `all small classes`,
            or `none` if even those were too few.
        images: How many images those were for each class, [C].
    """

    values: NDArray[np.float64]
    pools: tuple[str, ...]
    images: tuple[int, ...]


def lac_scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - p, [N, C], of probabilities [N, C]."""
    return 1.0 - probabilities


def aps_scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of all probabilities that are at least that of the class, [N, C], of [N, C]."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    summed = np.cumsum(ranked, axis=1)
    # equal probabilities have equal scores: that of the last of them
    last = np.ones_like(ranked, dtype=bool)
    last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    for rank in range(ranked.shape[1] - 2, -1, -1):
        summed[:, rank] = np.where(last[:, rank], summed[:, rank], summed[:, rank + 1])
    scores = np.empty_like(summed)
    np.put_along_axis(scores, order, summed, axis=1)
    return scores


def conformal_quantile(scores: NDArray[np.float64], alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n scores, infinite if there are too few."""
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    return math.inf if rank > len(scores) else float(np.sort(scores)[rank - 1])


def class_thresholds(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    alpha: float,
    groups: Sequence[str],
) -> ClassThresholds:
    """Return a threshold for each class.

    Args:
        scores: Of the true class of each calibration image, [N].
        labels: The true class, int64 [N].
        alpha: Share of sets that may not contain the true class, in (0, 1).
        groups: For each class, the pool whose threshold it shares if it has too few images, C names.
    """
    least = math.ceil(1 / alpha - 1 - 1e-9)
    counts = np.bincount(labels, minlength=len(groups))
    small = counts < least
    names = np.array(groups)
    values = np.full(len(groups), np.inf)
    pools, images = [NONE] * len(groups), [0] * len(groups)
    for label in range(len(groups)):
        tried = {OWN: np.arange(len(groups)) == label}
        if small[label]:
            tried = {groups[label]: small & (names == groups[label]), EVERY: small}
        for pool, inside in tried.items():
            own = scores[inside[labels]]
            if len(own) >= least:
                values[label] = conformal_quantile(own, alpha)
                pools[label], images[label] = pool, len(own)
                break
    return ClassThresholds(values, tuple(pools), tuple(images))


def prediction_sets(
    scores: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which classes are in the set of each image, bool [N, C].

    Args:
        scores: Of every class, [N, C].
        thresholds: [C].
    """
    return scores <= thresholds

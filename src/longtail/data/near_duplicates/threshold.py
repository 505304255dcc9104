"""How near two images must be to count as copies of one: a distance that chance hardly reaches.

Nearly all pairs of a collection are of different images, so the distribution of all distances shows what
chance gives. Its lower flank, between the quantiles of 1 and 30 %, is close to a normal curve. The flank is
continued to the distances of copies, which are too few to bend it, and says how many pairs chance leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLANK = (
    0.01,
    0.3,
)  # quantiles of the distances; a collection of bursts has up to 1 % of pairs in bursts
LEAST_PAIRS = 1000  # 46 images; fewer have no flank to speak of
DEVIATIONS = 3.09  # below the median: one of a thousand draws of a normal curve
MOST_RELATIVE = (
    0.5  # of 20,847 images of CIFAR-100, pairs beyond it are mostly different things of one class
)
CHANCE = 0.1  # pairs in the whole collection that chance may leave below the threshold


@dataclass(frozen=True)
class Threshold:
    """Up to which distance a pair counts as near-duplicates.

    Attributes:
        distance: In steps of the histogram; -1 if even equal ones may be chance.
        by_chance: Pairs that are expected up to there among different images; NaN if not estimated.
    """

    distance: int
    by_chance: float


def choose_threshold(
    histogram: NDArray[np.int64], pairs: int, *, most: int, if_few: int
) -> Threshold:
    """Choose the largest distance up to which chance leaves at most 0.1 pairs.

    Args:
        histogram: Pairs at each distance, in equal steps from 0, int64 [S]; of a sample of the images.
        pairs: Of the whole collection.
        most: No distance above it: what copies were measured to reach.
        if_few: Distance where there are too few pairs to see a flank.
    """
    if histogram.sum() < LEAST_PAIRS:
        return Threshold(if_few, float("nan"))
    reached = np.cumsum(histogram) / histogram.sum()
    first, last = (int(np.searchsorted(reached, share)) for share in FLANK)
    steps = np.arange(first, max(last, first + 2) + 1)
    steps = steps[steps < len(histogram)]
    steps = steps[histogram[steps] > 0]
    if len(steps) < 3:  # nearly all distances are the same
        return Threshold(-1, float("nan"))
    # weights: the deviation of the logarithm of a count n is about 1 / sqrt(n)
    curve = np.polyfit(steps - first, np.log(histogram[steps]), 2, w=np.sqrt(histogram[steps]))
    if curve[0] >= 0:
        curve = np.polyfit(steps - first, np.log(histogram[steps]), 1, w=np.sqrt(histogram[steps]))
    below = np.arange(min(most, first) + 1)
    chance = np.exp(np.minimum(np.polyval(curve, below - first), 50.0))
    up_to = np.cumsum(chance) * (pairs / histogram.sum())  # expected, at most at each distance
    fitting = np.flatnonzero(up_to <= CHANCE)
    if not len(fitting):
        return Threshold(-1, float(up_to[0]))
    return Threshold(int(fitting[-1]), float(up_to[fitting[-1]]))


def threshold_of_features(relative: NDArray[np.float64]) -> float:
    """Return the relative distance below which one image in a thousand has a neighbour by chance.

    Args:
        relative: Distance of each image to its nearest one, by the usual distance around both, [N].
            Most images have no copy; the half of the values above the median, where copies are not, is taken
            for half of a normal curve.

    Returns:
        In steps of 0.01, at most 0.5; negative if there is none.
    """
    median, above = np.quantile(relative, [0.5, 0.8413])
    limit = min(MOST_RELATIVE, float(median - DEVIATIONS * (above - median)))
    return math.floor(100 * limit) / 100 if limit > 0 else -1.0

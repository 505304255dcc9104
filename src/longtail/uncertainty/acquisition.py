"""Which unlabelled images to label next, so that rare classes gain most.

    p(x)       probabilities of the classes, [C]
    n          labelled images of each class, [C]
    g(x)       sum over classes c of p_c(x) / (n_c + 1): how much labelling x is expected to add to
               sum log(n_c + 1), which is a lot for a class with few images and little for one with many
    s(x, z)    similarity of two images: cosine of their centred features, at least 0
    value      of a set S of images: sum over unlabelled x of g(x) max over z in S of s(x, z)

The selected images represent as many others as possible, weighted by how likely those are to belong to a rare
class (facility location; Wei, Iyer and Bilmes, ICML 2015). Selecting the images with the largest g, or those
that the model is least certain of, yields near-copies or outliers and helps less
(`benchmarks/accuracy/what_to_label.py`). Images are added one at a time, always the one that adds most; the
value reached is at least 1 - 1/e of the best set of that size.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.uncertainty.distance import unit

MOST_WISHES = (
    4000  # images to be represented; if there are more, a sample is drawn in proportion to g
)


@dataclass(frozen=True)
class Suggested:
    """Images to label.

    Attributes:
        rows: In the order in which they were selected, int64 [K].
        gains: How much each adds to the value of those before it, relative to the sum of g, [K].
    """

    rows: NDArray[np.int64]
    gains: NDArray[np.float64]


def expected_gain(
    probabilities: NDArray[np.float64], class_counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return g, [N], of probabilities [N, C] and class counts [C]."""
    gain: NDArray[np.float64] = probabilities @ (1 / (class_counts.astype(np.float64) + 1))
    return gain


def rank_for_labelling(
    probabilities: NDArray[np.float64],
    class_counts: NDArray[np.int64],
    budget: int,
    features: NDArray[np.float32],
    generator: np.random.Generator,
    *,
    alike: NDArray[np.int64] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> Suggested:
    """Return the images to label, the most useful first.

    Args:
        probabilities: Of unlabelled images, [N, C].
        class_counts: Labelled images of each class, [C].
        budget: Largest number of images to select.
        features: Of the unlabelled images, [N, D].
        generator: Draws the images to be represented if there are more than 4,000.
        alike: Equal numbers for images that look alike, int64 [N]; only one of them is selected.
        left_out: Images that are never selected, bool [N].
    """
    gain, size = expected_gain(probabilities, class_counts), len(probabilities)
    wishes, weights = np.arange(size), gain / max(gain.sum(), 1e-300)
    if size > MOST_WISHES:
        wishes = generator.choice(size, MOST_WISHES, replace=False, p=weights)
        weights = np.full(MOST_WISHES, 1 / MOST_WISHES)  # drawn by their weight already
    directions = unit(features - features.mean(axis=0))
    near = np.maximum(0, directions @ directions[wishes].T)  # [N, W]
    weights = weights.astype(np.float32)
    served = np.zeros(len(wishes), dtype=np.float32)
    free = np.ones(size, dtype=bool) if left_out is None else ~left_out
    # what an image adds never grows, so the best is known once its own number is up to date
    waiting = [(-float(value), row) for row, value in enumerate(near @ weights) if free[row]]
    heapq.heapify(waiting)
    rows: list[int] = []
    gains: list[float] = []
    while waiting and len(rows) < budget:
        _, row = heapq.heappop(waiting)
        if not free[row]:
            continue
        value = float(np.maximum(0, near[row] - served) @ weights)
        if waiting and value < -waiting[0][0]:
            heapq.heappush(waiting, (-value, row))
            continue
        rows.append(row)
        gains.append(value)
        served = np.maximum(served, near[row])
        free[row] = False
        if alike is not None:
            free &= alike != alike[row]
    return Suggested(np.array(rows, dtype=np.int64), np.array(gains))

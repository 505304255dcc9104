"""How far an image is from the training images, by features: a warning that it may be of no known class.

The distance is to the k-th nearest training image, between features of unit length (Sun et al., ICML 2022),
with k = 1, because a class with three training images has no fiftieth neighbour. It is turned into a p-value
among images of known classes (Bates et al., Annals of Statistics 2023), separately for the predictions of
each shot group: images of rare classes are farther from the training images and would otherwise be flagged
more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1024  # images whose distances are computed together


@dataclass(frozen=True)
class NearestFeatures:
    """Training features that new ones are compared with.

    Attributes:
        bank: Of unit length, float32 [M, D].
    """

    bank: NDArray[np.float32]

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the distance in 0..2 of each of the features [N, D] to the nearest kept one, [N]."""
        parts = [
            (unit(features[row : row + AT_ONCE]) @ self.bank.T).max(axis=1)
            for row in range(0, len(features), AT_ONCE)
        ]
        nearest = np.concatenate([*parts, np.empty(0)]).astype(np.float64)
        return np.sqrt(np.maximum(0.0, 2 - 2 * nearest))


def spread(
    labels: NDArray[np.int64], most: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return which images to keep: at most `most`, equally many of each class if it has them, ascending.

    Args:
        labels: [N].
        most: Largest number of images to keep.
        generator: Draws which ones.
    """
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(len(labels)) - first  # of an image in its class
    chosen = by_class[np.argsort(rank, kind="stable")][:most]
    return np.sort(chosen)


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features [N, D] scaled to length 1; zeros stay zero."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (features / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def p_values(distances: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (1 + number of known distances that are at least as large) / (n + 1), [N].

    For an image that is like the n known ones, the probability of a value of alpha or less is at most alpha.

    Args:
        distances: Of new images, [N].
        known: Of images of known classes that were not trained on, [n].
    """
    above = len(known) - np.searchsorted(np.sort(known), distances, side="left")
    shares: NDArray[np.float64] = (1 + above) / (len(known) + 1)
    return shares

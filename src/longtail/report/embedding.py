"""The test images on a plane: the two directions in which the model's logits differ most."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from longtail.engine.optimisation import seeded

SKETCHED = 8  # directions that the two largest are found among


def plane(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], float] | None:
    """Return the two principal components of logits, [N, 2], and the share of the variance that they hold.

    The mean of each image's logits is taken away first, which no softmax sees. The largest entry of each
    direction is positive.

    Args:
        logits: [N, C].

    Returns:
        None for fewer than three images or classes, or if all logits are equal.
    """
    if min(logits.shape) < 3:
        return None
    centred = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    if np.allclose(centred, centred[0]):
        return None
    centred -= centred.mean(axis=0)
    with seeded(0):
        _, _, directions = torch.pca_lowrank(
            torch.from_numpy(centred), q=min(SKETCHED, *centred.shape), center=False, niter=4
        )
    found: NDArray[np.float64] = directions[:, :2].numpy()
    points: NDArray[np.float64] = centred @ (
        found * np.sign(found[np.abs(found).argmax(axis=0), [0, 1]])
    )
    return points, float((points**2).sum() / (centred**2).sum())

"""Two halves of a split, so that what is fitted on one can be judged on the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from longtail.core.rng import numpy_generator


def halves(
    labels: NDArray[np.int64], together: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return which of two halves each image is in, bool [N]; every class is shared out evenly.

    Args:
        labels: int64 [N].
        together: int64 [N], equal for images that belong together, which stay in one half.
    """
    units = np.arange(len(labels)) if together is None else together
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    order = numpy_generator(0, "halves").permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]  # by class, drawn in each
    second = np.zeros(len(first), dtype=bool)
    second[order[1::2]] = True
    of_images: NDArray[np.bool_] = second[unit.reshape(-1)]
    return of_images

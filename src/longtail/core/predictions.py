"""Predictions: what a model said about a split, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.prior import Prior


@dataclass(frozen=True)
class Predictions:
    """Logits of one checkpoint on one split.

    Attributes:
        split: `train`, `val` or `test`.
        ids: int64 [N], distinct.
        labels: int64 [N].
        logits: float32 [N, C].
        classes: C class names.
        checkpoint: SHA-256 of the weights that made the logits.
        corrections: What training did about the imbalance.
        assumed_prior: Class distribution that the logits assume, as on the model's metadata.
    """

    split: str
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    classes: tuple[str, ...]
    checkpoint: str
    corrections: tuple[str, ...] = ()
    assumed_prior: Prior = None

    def __post_init__(self) -> None:
        if self.logits.shape != (len(self.ids), len(self.classes)):
            raise DataError(
                f"Logits must have shape [{len(self.ids)}, {len(self.classes)}] (images, classes), "
                f"but they have {list(self.logits.shape)}."
            )
        if len(np.unique(self.ids)) != len(self.ids):
            raise DataError(
                "An image was predicted twice: the ids of predictions must be distinct."
            )

    def predicted(self) -> NDArray[np.int64]:
        """Return the class with the largest logit, int64 [N]; the first one on a tie."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

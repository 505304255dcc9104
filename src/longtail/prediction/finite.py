"""Predictions that mean something: numbers that are finite."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.errors import OutputError

Logits = TypeVar("Logits", Tensor, NDArray[np.float32])


def require_finite(logits: Logits, whose: str) -> Logits:
    """Return logits [N, ...] as they are.

    Args:
        logits: Of N images.
        whose: Which model predicted them, as the beginning of a sentence: `The model`.

    Raises:
        OutputError: If one is NaN or infinite.
    """
    values = logits if isinstance(logits, Tensor) else torch.from_numpy(np.asarray(logits))
    if len(values) and not bool(torch.isfinite(values).all()):
        bad = ~torch.isfinite(values.reshape(len(values), -1)).all(dim=1)
        raise OutputError(
            f"{whose} outputs values that are not finite (NaN or infinity) for {int(bad.sum()):,} of "
            f"{len(values):,} images. Its weights are damaged, or its training diverged: train it "
            "again with a lower training.learning_rate or training.clip_norm=1."
        )
    return logits

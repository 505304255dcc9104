"""Scores that are no logits: probabilities and percent are turned into logits, the rest is refused.

Corrections add to logits, so probabilities taken as logits give wrong predictions without a word. The
logarithm of a probability is a logit: what softmax makes of it is the probability.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longtail.core.boundary import named
from longtail.core.errors import DataError

SLACK = 0.02  # of a sum of 1: rounded probabilities of many classes do not add up exactly
NEARLY_ALL = 0.99  # of the rows
ROWS_TO_JUDGE = 20


def as_logits(scores: NDArray[np.float64], path: Path) -> tuple[NDArray[np.float64], str]:
    """Return logits [N, C], and what the scores were: `logits`, `probabilities` or `percent`.

    A probability of 0 becomes half of the smallest one that the table holds.

    Raises:
        DataError: If the scores are 0 and 1 alone, outputs of a sigmoid, or a column is constant.
    """
    if not len(scores) or not np.isfinite(scores).all():
        return scores, "logits"  # refused by the caller, who knows the row
    if scores.shape[1] > 1 and len(scores) > 2:
        _refuse_constant(scores, path)
    if scores.shape[1] < 2 or scores.min() < 0:
        return scores, "logits"
    for name, whole in (("probabilities", 1.0), ("percent", 100.0)):
        off = np.abs(scores.sum(axis=1) - whole) > SLACK * whole
        if scores.max() <= whole * (1 + 1e-6) and off.mean() <= 1 - NEARLY_ALL:
            if off.any():
                row = int(off.argmax())
                raise DataError(
                    f"{path}: the rows are {name} that sum to {whole:g}, but row {row} (counted from 0) "
                    f"sums to {scores[row].sum():g} ({int(off.sum())} such rows)."
                )
            shares = scores / whole
            if np.isin(shares, (0.0, 1.0)).all():
                raise DataError(
                    f"{path}: all scores are {('0 and 1' if whole == 1 else '0 and 100')}, so they are "
                    "predictions. A correction needs the scores behind them (logits or probabilities)."
                )
            _refuse_softmax_twice(shares, path)
            return np.log(np.maximum(shares, shares[shares > 0].min() / 2)), name
    if scores.max() <= 1 and len(scores) > 2:
        raise DataError(
            f"{path}: all scores are between 0 and 1, but rows do not sum to 1, like outputs of a "
            "sigmoid. Corrections need the logits of a softmax (one class per image): give the input "
            "of the last activation."
        )
    return scores, "logits"


def _refuse_softmax_twice(shares: NDArray[np.float64], path: Path) -> None:
    """Refuse softmax of probabilities: over 0..1 it has hardly any range, whatever the model knows."""
    classes = shares.shape[1]
    most, least = np.e / (np.e + classes - 1), 1 / (1 + np.e * (classes - 1))
    slack = 1e-3 / classes
    if (
        len(shares) >= ROWS_TO_JUDGE
        and shares.max() < most + slack
        and shares.min() > least - slack
    ):
        raise DataError(
            f"{path}: no probability is above {shares.max():.3g} or below {shares.min():.3g}, as if "
            "softmax had been applied twice. Give the logits, or the probabilities before the second "
            "softmax."
        )


def _refuse_constant(scores: NDArray[np.float64], path: Path) -> None:
    constant = np.ptp(scores, axis=0) == 0
    if constant.any() and not constant.all():
        raise DataError(
            f"{path}: the logits of {int(constant.sum())} of {scores.shape[1]} classes are the same in "
            f"every row (columns {named(np.flatnonzero(constant).tolist())}, counted from 0). Leave "
            "out columns that are not logits."
        )

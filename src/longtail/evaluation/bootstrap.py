"""Intervals for class-averaged accuracies, alone and for the difference of two models.

Test pictures are drawn again with replacement inside each class, as test sets are made. With N_c
pictures of which h were right, that is a binomial number of hits; for two models on the same pictures
it is a multinomial over (both right, first only, second only, none). No picture is touched, so a
thousand draws take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.rng import numpy_generator

DRAWS = 2000


def paired_intervals(
    labels: NDArray[np.int64],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return accuracy and interval of both models and of their difference, by group of classes.

    Args:
        labels: int64 [N].
        before: Whether the first model was right, bool [N].
        after: Whether the second model was right, bool [N].
        groups: Classes of each group, bool [C].
        level: Of the intervals.
        seed: Of the draws.

    Returns:
        For each group `before`, `after`, `difference`, each with `value` and `interval` (low, high);
        `value` is None for a group without test pictures.
    """
    num_classes = len(next(iter(groups.values())))
    outcome = np.where(before & after, 0, np.where(before, 1, np.where(after, 2, 3)))
    table = np.zeros((num_classes, 4), dtype=np.int64)  # pictures by class and outcome
    np.add.at(table, (labels, outcome), 1)
    sizes = table.sum(axis=1)
    tested = sizes > 0
    shares = table[tested] / sizes[tested, None]
    drawn = (
        numpy_generator(seed, "bootstrap").multinomial(
            sizes[tested], shares, size=(DRAWS, int(tested.sum()))
        )
        / sizes[tested, None]
    )  # [draws, tested classes, 4]
    result: dict[str, dict[str, Any]] = {}
    for name, mask in groups.items():
        inside = mask[tested]
        result[name] = {}
        for key, columns in (("before", (0, 1)), ("after", (0, 2))):
            result[name][key] = _interval(shares, drawn, inside, columns, (), level)
        result[name]["difference"] = _interval(shares, drawn, inside, (2,), (1,), level)
    return result


def _interval(
    shares: NDArray[np.float64],
    drawn: NDArray[np.float64],
    inside: NDArray[np.bool_],
    plus: tuple[int, ...],
    minus: tuple[int, ...],
    level: float,
) -> dict[str, Any]:
    if not inside.any():
        return {"value": None, "interval": None}

    def mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
        value = table[..., list(plus)].sum(axis=-1) - table[..., list(minus)].sum(axis=-1)
        return np.asarray(value[..., inside].mean(axis=-1))

    low, high = np.quantile(mean(drawn), [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(mean(shares)), "interval": [float(low), float(high)]}

"""Intervals for class-averaged accuracies, alone and for the difference of two models.

Test pictures are drawn again with replacement inside each class, as test sets are made, and so are the
seeds of each model where there are several. Both models see the same draw of pictures, so that the
interval of their difference is that of a paired comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.rng import numpy_generator

DRAWS = 1000
DRAWS_AT_ONCE = 50


def group_masks(groups: ShotGroups) -> dict[str, NDArray[np.bool_]]:
    """Return bool [C] for all classes and for each shot group."""
    masks = {"all": np.ones(len(groups.assignment), dtype=bool)}
    return masks | {name: groups.mask(name).numpy() for name in GROUP_NAMES}


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
        before: Whether the first model was right, bool [N], or [S, N] for S seeds.
        after: Whether the second model was right, likewise; the numbers of seeds may differ.
        groups: Classes of each group, bool [C].
        level: Of the intervals.
        seed: Of the draws.

    Returns:
        For each group `before`, `after`, `difference`, each with `value` and `interval` (low, high);
        both are None for a group without test pictures.
    """
    models = [np.atleast_2d(before).astype(np.float32), np.atleast_2d(after).astype(np.float32)]
    order = np.argsort(labels, kind="stable")
    models = [model[:, order] for model in models]
    classes, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    # mean over the classes of a group = sum over pictures with these weights, [groups, N]
    inside = {name: mask[classes] for name, mask in groups.items()}
    weights = np.stack(
        [np.repeat(m / (sizes * max(1, m.sum())), sizes) for m in inside.values()]
    ).astype(np.float32)
    start, of_class = np.repeat(first, sizes), np.repeat(sizes, sizes)
    generator = numpy_generator(seed, "bootstrap")
    drawn: list[list[NDArray[np.float64]]] = [[], []]
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        shape = (DRAWS_AT_ONCE, len(order))
        # a picture of the same class for every place
        inside_class = (generator.random(shape, dtype=np.float32) * of_class).astype(np.int64)
        # rounding may reach the size of a large class
        places = start + np.minimum(inside_class, of_class - 1)
        for kept, model in zip(drawn, models, strict=True):
            chosen = generator.integers(len(model), size=(DRAWS_AT_ONCE, len(model)))
            by_seed = np.stack([row[places] @ weights.T for row in model])  # [S, draws, groups]
            kept.append(
                np.stack([by_seed[seeds, d].mean(axis=0) for d, seeds in enumerate(chosen)])
            )
    values = [(model @ weights.T).mean(axis=0) for model in models]
    spread = [np.concatenate(kept) for kept in drawn]
    values.append(values[1] - values[0])
    spread.append(spread[1] - spread[0])
    tail = (1 - level) / 2
    result: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(groups):
        result[name] = {}
        for key, value, draws in zip(
            ("before", "after", "difference"), values, spread, strict=True
        ):
            low, high = np.quantile(draws[:, place], [tail, 1 - tail])
            known = bool(inside[name].any())
            result[name][key] = {
                "value": float(value[place]) if known else None,
                "interval": [float(low), float(high)] if known else None,
            }
    return result

"""Several runs class by class, with intervals of the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.core.groups import GROUP_NAMES
from longtail.core.names import visible
from longtail.evaluation.bootstrap import paired_intervals
from longtail.evaluation.metrics import LEAST_SEEDS
from longtail.evaluation.scores import LEAST_IMAGES
from longtail.report.page_data import tenths

if TYPE_CHECKING:
    from longtail.report.compare import Arm, Comparison

AT_ONCE = 200  # classes whose images are drawn again together


def class_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return accuracies of every class, and differences to the first arm, in tenths of a percent.

    Returns:
        `classes` (name, group and test images of each) and `arms`, each with name, accuracy, difference, low
        and high by class; None where there is no test image, and for the interval where a side has two seeds
        or the class has fewer images than `fewest`, which tell nothing.
    """
    view = comparison.arms[0].views[0]
    return {
        "groups": list(GROUP_NAMES),
        "fewest": LEAST_IMAGES,
        "classes": {
            "name": [visible(name) for name in view.counts.names],
            "group": list(view.groups.assignment),
            "test": view.tested.tolist(),
        },
        "arms": [_of_arm(comparison, arm) for arm in comparison.arms],
    }


def _of_arm(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    first, labels, together = comparison.arms[0], comparison.labels, comparison.together
    classes = len(first.views[0].counts)
    columns: dict[str, list[int | None]] = {
        name: [None] * classes for name in ("accuracy", "difference", "low", "high")
    }
    two = any(len(side.views) == LEAST_SEEDS - 1 for side in (first, arm))
    for start in range(0, classes, AT_ONCE):
        inside = (labels >= start) & (labels < start + AT_ONCE)
        if not inside.any():
            continue
        numbers = range(start, min(start + AT_ONCE, classes))
        masks = {str(label): np.arange(classes) == label for label in numbers}
        found = paired_intervals(
            labels[inside], first.right[:, inside], arm.right[:, inside], masks,
            together=None if together is None else together[inside],
        )  # fmt: skip
        for label in numbers:
            after, difference = (found[str(label)][key] for key in ("after", "difference"))
            if after["value"] is None:
                continue
            columns["accuracy"][label] = tenths(after["value"])
            columns["difference"][label] = tenths(difference["value"])
            if not two and first.views[0].tested[label] >= LEAST_IMAGES:
                low, high = difference["interval"]
                columns["low"][label], columns["high"][label] = tenths(low), tenths(high)
    sure = min(len(side.views) for side in (first, arm)) >= LEAST_SEEDS
    return {"name": visible(arm.name), "sure": sure, **columns}

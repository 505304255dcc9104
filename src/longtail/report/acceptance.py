"""What the report says of a run's readiness to be believed: accuracy by coverage, and its calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.metrics import wilson_interval
from longtail.evaluation.scores import percent
from longtail.prediction.calibration import ALL, Described, read_described
from longtail.report.figures import INK, NARROW, legend_above, new
from longtail.report.group_colours import COLOURS
from longtail.report.view import RunView
from longtail.runs.calibrating import GROUPED, MEASURED, SET_SIZE, describe
from longtail.uncertainty import accuracy_by_coverage

LEAST = 10  # accepted images of which an accuracy is drawn
POINTS = 60  # of a line


def draw_acceptance(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], masks: dict[str, NDArray[np.bool_]]
) -> Figure | None:
    """Draw accuracy over the share of images that are accepted, with Wilson's 95 % band.

    Args:
        confidence: [N].
        right: [N].
        masks: Images of each line, bool [N].

    Returns:
        The figure; None where no line has images enough.
    """
    lines = {name: mask for name, mask in masks.items() if int(mask.sum()) >= LEAST}
    if not lines:
        return None
    figure, axes = new(NARROW, 4.2)
    for name, mask in lines.items():
        accepted, hits = accuracy_by_coverage(confidence[mask], right[mask])
        shown = np.flatnonzero(accepted >= LEAST)
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, POINTS).round().astype(int))]
        limits = np.array(
            [wilson_interval(h, n) for h, n in zip(hits[shown], accepted[shown], strict=True)]
        )
        share = 100 * accepted[shown] / int(mask.sum())
        colour = COLOURS.get(name, INK)
        axes.plot(share, 100 * hits[shown] / accepted[shown], color=colour, label=name)
        axes.fill_between(share, *(100 * limits.T), color=colour, alpha=0.12, linewidth=0)
    axes.set(
        xlabel="accepted, in % of the predictions\nof the group, the surest first",
        ylabel="accuracy of those in %", xlim=(0, 101), ylim=(0, 101),
    )  # fmt: skip
    legend_above(figure, list(lines))
    return figure


def masks_by_prediction(view: RunView) -> dict[str, NDArray[np.bool_]]:
    """Return all images, and those whose predicted class is of each shot group, bool [N]."""
    predicted = view.predictions.predicted()
    masks = {name: view.groups.mask(name).numpy()[predicted] for name in GROUP_NAMES}
    return {ALL: np.ones(len(predicted), dtype=bool)} | {n: m for n, m in masks.items() if m.any()}


def calibrated(view: RunView) -> dict[str, Any] | None:
    """Return what the page says of the calibration of the run; None where there is none.

    Raises:
        CheckpointError: If it is damaged or belongs to other weights.
    """
    file = view.run.folder.calibration
    if not file.exists():
        return None
    told = read_described(file, view.scores["checkpoint_sha256"])
    groups = [name for name, found in told.measured.items() if found["labelled"] or found["images"]]
    rows = [] if not groups else _rows(told, groups)
    return {
        "told": told,
        "sentences": describe(told),
        "groups": groups,
        "rows": rows,
        "grouped": GROUPED,
    }


def _rows(told: Described, groups: list[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return what was measured, each with its value, interval and images for each group."""
    found = [told.measured[name] for name in groups]
    rows = [
        (what, [_cell(one[share], one[hits], one[of]) for one in found])
        for what, share, hits, of in MEASURED
        if hits != "right_ancestors" or told.parents
    ]
    sizes = ["-" if one["set_size"] is None else f"{one['set_size']:.1f}" for one in found]
    return [*rows, (SET_SIZE, [(size, "", "") for size in sizes])]


def _cell(share: dict[str, Any], hits: int, size: int) -> tuple[str, str, str]:
    if share["value"] is None:
        return "-", "", ""
    low, high = share["interval"]
    images = f"{hits:,} of {size:,}"
    return percent(share["value"]), f"[{percent(low)}, {percent(high)}]", images

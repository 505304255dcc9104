"""A figure of a table of methods: what each gives to frequent and to rare classes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent, percent_of_seeds
from longtail.report.drawing import Drawing, add_title
from longtail.report.figures import INK, new
from longtail.report.group_colours import COLOURS

ALL = "all"
ROW_HEIGHT = 0.27  # inches
BESIDE = 1.02  # of the width of the axes: where the figures stand
MARKERS: dict[str, dict[str, Any]] = {
    **{n: {"fmt": "o", "color": COLOURS[n], "markersize": 6} for n in GROUP_NAMES},
    ALL: {"fmt": "|", "color": INK, "markersize": 12, "markeredgewidth": 2},
}  # fmt: skip


@dataclass(frozen=True)
class DotRow:
    """A method and what it reached.

    Attributes:
        name: As shown; distinct.
        heading: Rows of one heading stand together, in the order of their first row.
        accuracy: `all` and the shot groups -> accuracy of every seed in [0, 1]; none for an empty group.
    """

    name: str
    heading: str
    accuracy: Mapping[str, Sequence[float]]


def describe(rows: Sequence[DotRow]) -> str:
    """Return what the image shows, in words; every image carries it as its description."""
    parts = []
    for row in rows:
        groups = [
            f"{name} {percent(statistics.mean(row.accuracy[name]))}"
            for name in GROUP_NAMES
            if row.accuracy[name]
        ]
        parts.append(f"{row.name} {percent_of_seeds(row.accuracy[ALL])} ({', '.join(groups)})")
    return f"Accuracy in %. {'; '.join(parts)}."


def dots(title: str, rows: Sequence[DotRow]) -> Drawing:
    """Return the figure of rows.

    Args:
        title: Above the image; long lines are broken.
        rows: At least one.
    """
    return Drawing(describe(rows), partial(draw_dots, title, rows))


def draw_dots(title: str, rows: Sequence[DotRow]) -> Figure:
    """Return a line per row with a mark for every shot group and for all classes, and the latter in figures.

    Whiskers are the standard deviation over seeds. Call inside `matplotlib.rc_context(STYLE)`.
    """
    places = _places(rows)
    last = max(places.values())
    figure, axes = new(7.6, 1.4 + ROW_HEIGHT * (last + 1))
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9
    }  # fmt: skip
    axes.text(BESIDE, -1, "all classes", **beside)
    for row in rows:
        _draw_row(axes, row, places[row.name])
        axes.text(BESIDE, places[row.name], percent_of_seeds(row.accuracy[ALL]), **beside)
    first = {row.heading: places[row.name] for row in reversed(rows) if row.heading}
    for heading, place in first.items():
        axes.text(0, place - 1, heading, style="italic", alpha=0.75, **beside)
    for name, style in MARKERS.items():
        label = "all classes" if name == ALL else f"{name} shot"
        axes.errorbar([], [], linestyle="none", label=label, **style)
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(last + 0.6, -1.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("accuracy on the test set in %, last epoch")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    add_title(figure, title)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _places(rows: Sequence[DotRow]) -> dict[str, int]:
    """Return the line of every row from the top; a heading takes a line."""
    found: dict[str, int] = {}
    line = 0
    for heading in dict.fromkeys(row.heading for row in rows):
        line += bool(heading)
        for row in rows:
            if row.heading == heading:
                found[row.name] = line
                line += 1
    return found


def _draw_row(axes: Axes, row: DotRow, y: int) -> None:
    values = {name: [100 * value for value in row.accuracy[name]] for name in MARKERS}
    means = {name: statistics.mean(found) for name, found in values.items() if found}
    axes.hlines(y, min(means.values()), max(means.values()), color="0.8", linewidth=1.2, zorder=1)
    for name, mean in means.items():
        deviation = statistics.stdev(values[name]) if len(values[name]) > 1 else 0.0
        axes.errorbar(mean, y, xerr=deviation, elinewidth=1.2, zorder=2, **MARKERS[name])

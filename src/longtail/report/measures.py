"""A figure of one number per row, in one or several series: a calibration error, a cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from longtail.report.drawing import Drawing, add_title
from longtail.report.figures import CYCLE, new

ROW_HEIGHT = 0.27  # inches
APART = 0.22  # of a row: marks of two series that are equal are both seen
MARKERS = "osD^"  # the series are told apart without colour, too


@dataclass(frozen=True)
class Measured:
    """A number and how far it varies.

    Attributes:
        value: What was measured.
        low: End of its whisker.
        high: The other one.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """What the figure is about.

    Attributes:
        title: Above the figure.
        axis: What the numbers are, with their unit.
        form: Format of a number in the description.
    """

    title: str
    axis: str
    form: str


Rows = Mapping[str, Mapping[str, Measured]]  # row -> series -> number


def measures(measure: Measure, rows: Rows) -> Drawing:
    """Return the figure of numbers by row, the first at the top; a row may lack some of the series."""
    return Drawing(_described(measure, rows), partial(draw_measures, measure, rows))


def draw_measures(measure: Measure, rows: Rows) -> Figure:
    """Return a line per row with a mark and a whisker for every series."""
    figure, axes = new(7.6, 1.2 + ROW_HEIGHT * len(rows))
    names = _series(rows)
    for index, (series, colour, marker) in enumerate(zip(names, CYCLE, MARKERS, strict=False)):
        beside = APART * (index - (len(names) - 1) / 2)
        places = [place + beside for place, found in enumerate(rows.values()) if series in found]
        numbers = [found[series] for found in rows.values() if series in found]
        values = [number.value for number in numbers]
        whiskers = [
            [number.value - number.low for number in numbers],
            [number.high - number.value for number in numbers],
        ]
        axes.errorbar(
            values,
            places,
            xerr=whiskers,
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1.2,
            label=series,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(measure.axis)
    axes.tick_params(axis="y", length=0)
    add_title(figure, measure.title)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _series(rows: Rows) -> Sequence[str]:
    return list(dict.fromkeys(series for found in rows.values() for series in found))


def _described(measure: Measure, rows: Rows) -> str:
    parts = [
        f"{row}: {', '.join(f'{name} {format(n.value, measure.form)}' for name, n in found.items())}"
        for row, found in rows.items()
    ]
    return f"{measure.axis}. {'; '.join(parts)}."

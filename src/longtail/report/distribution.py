"""The image that every long-tail paper begins with: training images by class."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

from longtail.core.counts import ClassCounts
from longtail.core.groups import FEW_BELOW, GROUP_NAMES, MANY_ABOVE, ShotGroups
from longtail.core.names import visible
from longtail.core.words import counted
from longtail.report.axes import plain_numbers
from longtail.report.group_colours import COLOURS
from longtail.report.saving import PLAIN_TEXT, save_figure


def draw_distribution(counts: ClassCounts, file: Path) -> str:
    """Write a PNG of the sorted class counts, coloured by group, on a logarithmic axis.

    Returns:
        The letters of class names that no installed font has.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**PLAIN_TEXT, "savefig.dpi": 150}):
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), counts)
        return save_figure(figure, file, format="png")


def _draw(axes: Axes, counts: ClassCounts) -> None:
    groups = ShotGroups.from_counts(counts)
    ranking = counts.ranking()
    for code, name in enumerate(GROUP_NAMES):
        places = [p for p, label in enumerate(ranking) if groups.assignment[label] == code]
        heights = [counts.values[ranking[p]] for p in places]
        label = f"{name} shot: {counted(len(places), 'class', 'classes')}, {sum(heights):,} images"
        axes.bar(places, heights, width=0.9, color=COLOURS[name], label=label)
    for border in (MANY_ABOVE, FEW_BELOW):
        axes.axhline(border, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    plain_numbers(axes.yaxis)
    axes.set_xlim(-0.7, len(ranking) - 0.3)
    axes.set_ylabel("training images")
    if len(ranking) <= 30:
        axes.set_xticks(range(len(ranking)), [visible(counts.names[label]) for label in ranking])
        axes.tick_params(axis="x", labelrotation=60)
    else:
        axes.set_xlabel("classes, from the most to the least frequent")
    axes.set_title(
        f"{len(counts)} classes, {counts.total:,} training images, "
        f"imbalance ratio {counts.imbalance_ratio:.1f}"
    )
    axes.legend(edgecolor="none", framealpha=1)  # over the dotted lines
    axes.spines[["top", "right"]].set_visible(False)

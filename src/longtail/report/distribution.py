"""The picture that every long-tail paper begins with: training pictures by class."""

from pathlib import Path

import matplotlib

from longtail.core.counts import ClassCounts
from longtail.core.groups import FEW_BELOW, GROUP_NAMES, MANY_ABOVE, ShotGroups
from longtail.report.axes import plain_numbers

# colour-blind safe (Okabe and Ito), dark to light also in grey
COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}


def draw_distribution(counts: ClassCounts, file: Path) -> None:
    """Write a PNG of the sorted class counts, coloured by group, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = ShotGroups.from_counts(counts)
    ranking = counts.ranking()
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for code, name in enumerate(GROUP_NAMES):
        places = [p for p, label in enumerate(ranking) if groups.assignment[label] == code]
        heights = [counts.values[ranking[p]] for p in places]
        label = f"{name} shot: {len(places)} classes, {sum(heights):,} pictures"
        axes.bar(places, heights, width=0.9, color=COLOURS[name], label=label)
    for border in (MANY_ABOVE, FEW_BELOW):
        axes.axhline(border, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    plain_numbers(axes.yaxis)
    axes.set_xlim(-0.7, len(ranking) - 0.3)
    axes.set_ylabel("training pictures")
    if len(ranking) <= 30:
        axes.set_xticks(range(len(ranking)), [counts.names[label] for label in ranking])
        axes.tick_params(axis="x", labelrotation=60)
    else:
        axes.set_xlabel("classes, from the most to the least frequent")
    axes.set_title(
        f"{len(counts)} classes, {counts.total:,} training pictures, "
        f"imbalance ratio {counts.imbalance_ratio:.1f}"
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"savefig.dpi": 150}):
        figure.savefig(file, format="png")

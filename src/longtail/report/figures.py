"""Figures of the report as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from longtail.core.counts import ClassCounts
from longtail.core.figure import FigureData
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.names import visible
from longtail.core.stage import Stage
from longtail.core.words import counted
from longtail.data.sampling.samplers import class_probability
from longtail.report.axes import plain_numbers, whole_numbers
from longtail.report.group_colours import COLOURS
from longtail.report.saving import PLAIN_TEXT, save_figure

INK = "#1c1f24"  # of the page; becomes the text colour of a light or dark page
# of what is no shot group; colour-blind safe (Okabe and Ito)
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1")
HOVERED_CLASSES = 1000  # above it, the points of the classes get no text of their own
MATRIX_CLASSES = 16  # above it, names and numbers of a matrix cannot be read
MOST_PAIRS = 25  # that are drawn then
LONGEST_LABEL = 22  # letters of the name of a class on an axis
WIDTH = 7.2  # inches
NARROW = (
    4.4  # inches of a figure whose letters are to be read on a phone, which shows it at 360 pixels
)
WIDEST = 50  # rem that a figure of `WIDTH` takes on a page, and narrower ones in proportion
LEGEND_LETTERS = 96  # that a line of a legend above a figure of `WIDTH` holds
STYLE: Any = {
    **PLAIN_TEXT,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def new(width: float = WIDTH, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes; call inside `matplotlib.rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def to_svg(figure: Figure, name: str, texts: Mapping[str, str] | None = None) -> str:
    """Return a figure as SVG for a page.

    Args:
        figure: Drawn in `STYLE`.
        name: Distinct on its page; prefixes every id of the SVG.
        texts: id of an element -> text that the browser shows when the pointer rests on it.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        save_figure(figure, buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for key, text in (texts or {}).items():
        svg = svg.replace(
            f'<g id="{key}">', f'<g id="{key}"><title>{escape(visible(text))}</title>', 1
        )
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # the page decides width and colour; letters are of one size in all figures where there is room
    widest = f'style="max-width: {WIDEST * figure.get_figwidth() / WIDTH:.1f}rem"'
    svg = re.sub(
        r'<svg (.*?)width="[^"]*"', rf'<svg role="img" {widest} \1', svg, count=1, flags=re.DOTALL
    )
    svg = re.sub(r'height="[^"]*pt"', "", svg, count=1)
    for group, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{group})")
    return svg.replace(INK, "currentColor")


def class_accuracy(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, dict[str, str]]:
    """Draw the accuracy of every class over its training images, with texts for the pointer."""
    figure, axes = new()
    texts = {}
    for group in GROUP_NAMES:
        inside = [
            (number, row)
            for number, row in enumerate(rows)
            if row["group"] == group and row["accuracy"] is not None
        ]
        if not inside:
            continue
        x = [row["train_count"] for _, row in inside]
        y = [100 * row["accuracy"] for _, row in inside]
        mean = sum(y) / len(y)
        style: dict[str, Any] = {"color": COLOURS[group], "alpha": 0.75, "markersize": 5}
        label = f"{group} shot, mean {mean:.1f} %"
        if len(rows) > HOVERED_CLASSES:
            axes.plot(x, y, ".", **style, label=label)
        else:
            for (number, row), n, value in zip(inside, x, y, strict=True):
                (point,) = axes.plot([n], [value], "o", markeredgewidth=0, **style, label=label)
                point.set_gid(f"class-{number}")
                texts[f"class-{number}"] = f"{row['name']}: {n} training images, {value:.1f} %"
                label = "_"  # one entry of the legend per group
        axes.hlines(mean, min(x), max(x), color=COLOURS[group], linewidth=1.2)
    axes.set(xscale="log", xlabel="training images of the class", ylabel="accuracy in %")
    axes.set_ylim(-3, 103)
    plain_numbers(axes.xaxis)
    axes.legend()
    return figure, texts


def confusion_matrix(confusion: NDArray[np.int64], names: Sequence[str]) -> Figure | None:
    """Draw the shares of predictions, [C, C] by (label, prediction); None without a mistake."""
    share = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    if not confusion.sum() - np.trace(confusion):
        return None
    figure, axes = new(7.2, 5.4)
    image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    labels = [_short(name) for name in names]
    axes.set_title(f"All {len(names)} classes", loc="left")
    axes.set_xticks(range(len(names)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="predicted", ylabel="label")
    axes.grid(visible=False)
    for i, j in np.ndindex(*share.shape):
        if share[i, j] >= 0.05:
            colour = "white" if share[i, j] > 0.5 else "black"
            text = f"{100 * share[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="% of the label's images", shrink=0.7)
    return figure


def confused_pairs(
    pairs: NDArray[np.int64], tested: NDArray[np.int64], names: Sequence[str]
) -> Figure | None:
    """Draw the most frequent confusions, for more classes than a matrix can name; None without any.

    Args:
        pairs: (label, predicted class, images), the most frequent first, [P, 3].
        tested: Images of each class, [C].
        names: Of the classes.
    """
    if not len(pairs):
        return None
    shown = pairs[:MOST_PAIRS]
    figure, axes = new(7.2, 1.2 + 0.24 * len(shown))
    places = np.arange(len(shown))
    share = 100 * shown[:, 2] / tested[shown[:, 0]]
    axes.barh(places, share, height=0.7, color=CYCLE[0])
    texts = [f"{_short(names[label])} → {_short(names[taken])}" for label, taken, _ in shown]
    axes.set_yticks(places, texts)
    for place, value, (label, _, images) in zip(places, share, shown, strict=True):
        text = f" {images:,} of {tested[label]:,}"
        axes.text(value, float(place), text, va="center", fontsize=8, color=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_axisbelow(True)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.18 * float(share.max()))
    axes.set_xlabel("% of the label's images")
    # over the whole width: names of classes leave little of it to the axes
    figure.suptitle(
        f"The {len(shown)} most frequent of {len(pairs):,} confusions between {len(names):,} classes",
        fontsize=11,
    )
    return figure


def _short(name: str) -> str:
    """Return the name of a class as an axis can hold it."""
    text = visible(name)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def reliability(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.bool_]],
    bins: int = 10,
) -> Figure:
    """Draw accuracy over confidence for groups of images (masks bool [N])."""
    figure, axes = new(NARROW, 4.4)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    for name, mask in masks.items():
        size = np.bincount(place[mask], minlength=bins)
        known = size >= 5  # fewer images say nothing
        x = np.bincount(place[mask], weights=confidence[mask], minlength=bins)[known] / size[known]
        y = np.bincount(place[mask], weights=right[mask], minlength=bins)[known] / size[known]
        colour, label = (
            COLOURS.get(name, INK),
            f"{name}, {counted(int(mask.sum()), 'image', 'images')}",
        )
        if len(x) < 2:  # a single dot is no curve, and may lie under another one
            x, y, label = x[:0], y[:0], f"{label}: too few for a curve"
        axes.plot(100 * x, 100 * y, "o-", color=colour, markersize=4, label=label)
    axes.set(xlabel="confidence in %", ylabel="accuracy in %", xlim=(0, 101), ylim=(0, 101))
    legend_above(figure, axes.get_legend_handles_labels()[1])
    return figure


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw loss, and macro accuracy on val where it was measured, over epochs."""
    trained = [line for line in lines if "loss" in line]
    if len(trained) < 2:
        return None
    figure, axes = new(7.2, 3.2)
    epochs = [line["epochs_done"] for line in trained]
    axes.plot(epochs, [line["loss"] for line in trained], color=CYCLE[0], label="training loss")
    axes.set(xlabel="epoch", ylabel="training loss")
    whole_numbers(axes.xaxis)
    begins = [
        line["epochs_done"] - 0.5
        for earlier, line in pairwise(trained)
        if line["stage"] != earlier["stage"]
    ]
    for begin in begins:
        axes.axvline(begin, color=INK, linewidth=0.8, linestyle=":")
    if scored := [line for line in trained if "val_macro_accuracy" in line]:
        other = axes.twinx()
        values = [100 * line["val_macro_accuracy"] for line in scored]
        places = [line["epochs_done"] for line in scored]
        marker = "o" if len(scored) == 1 else None  # a line of one point is not seen
        other.plot(places, values, color=CYCLE[1], marker=marker, label="macro accuracy on val")
        other.set_ylabel("macro accuracy on val in %")
        other.spines["right"].set_visible(True)
        other.grid(visible=False)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def row_norms(norms: NDArray[np.float64], counts: ClassCounts, groups: ShotGroups) -> Figure:
    """Draw the norms of the classifier's rows over the class counts."""
    figure, axes = new(7.2, 3.2)
    n = np.array(counts.values)
    for group in GROUP_NAMES:
        mask = groups.mask(group).numpy()
        if mask.any():
            axes.plot(n[mask], norms[mask], "o", color=COLOURS[group], markersize=4, alpha=0.8,
                      markeredgewidth=0, label=f"{group} shot")  # fmt: skip
    axes.set(xscale="log", xlabel="training images of the class", ylabel="norm of its row")
    axes.set_ylim(0, 1.08 * float(norms.max()))
    plain_numbers(axes.xaxis)
    axes.legend()
    return figure


def sampling(stages: Sequence[Stage], counts: ClassCounts) -> Figure | None:
    """Draw the class probabilities at the beginning and at the end of every stage with steps."""
    figure, axes = new(7.2, 3.2)
    order = list(counts.ranking())
    drawn = 0
    for stage in (s for s in stages if s.kind == "train"):
        for draw in stage.samplings:
            first, last = (
                class_probability(draw, counts, epoch, stage.epochs)[order]
                for epoch in (0, stage.epochs - 1)
            )
            colour = CYCLE[drawn % len(CYCLE)]
            changes = not np.allclose(first, last)
            name = f"{stage.name}: {draw.name}"
            axes.plot(100 * first, color=colour, linestyle="--" if changes else "-",
                      label=f"{name}, first epoch" if changes else name)  # fmt: skip
            if changes:
                axes.plot(100 * last, color=colour, label=f"{name}, last epoch")
            drawn += 1
    if not drawn:
        return None
    axes.set(yscale="log", xlabel="classes, from the most to the least frequent",
             ylabel="% of the sampled images")  # fmt: skip
    plain_numbers(axes.yaxis)
    whole_numbers(axes.xaxis)
    legend_above(figure, axes.get_legend_handles_labels()[1])
    return figure


def draw(shown: FigureData) -> Figure:
    """Draw what a method contributes."""
    figure, axes = new(7.2, 3.4)
    factor = 100 if shown.percent else 1
    colours = {"all classes": INK, "all": INK} | COLOURS
    for number, (name, values) in enumerate(shown.series.items()):
        y = np.array([np.nan if v is None else factor * v for v in values], dtype=np.float64)
        colour = colours.get(name, CYCLE[number % len(CYCLE)])
        if shown.kind == "lines":
            axes.plot(
                np.asarray(shown.places, dtype=np.float64), y, color=colour, label=_entry(name)
            )
        else:
            width = 0.8 / len(shown.series)
            x = np.arange(len(y)) + (number - (len(shown.series) - 1) / 2) * width
            axes.bar(x, y, width=0.92 * width, color=colour, label=_entry(name))
    if shown.kind == "bars":
        axes.set_xticks(range(len(shown.places)), [str(place) for place in shown.places])
        axes.grid(visible=False, axis="x")
    axes.set(xlabel=shown.x, ylabel=f"{shown.y} in %" if shown.percent else shown.y)
    legend_above(figure, list(shown.series))
    return figure


def compared(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Figure:
    """Draw class-averaged accuracies of several arms with intervals, by group.

    Args:
        rows: Name and `group -> {"value", "interval"}` of each arm.
    """
    names = ["all", *GROUP_NAMES]
    shown = [name for name in names if rows[0][1][name]["value"] is not None]
    figure, axes = new(7.2, 3.6 + 0.16 * len(rows))
    width = 0.8 / len(rows)
    for number, (label, found) in enumerate(rows):
        values = np.array([100 * found[name]["value"] for name in shown])
        # where there is no interval, no bar is drawn
        bounds = np.array([found[n]["interval"] or (np.nan, np.nan) for n in shown]).T * 100
        x = np.arange(len(shown)) + (number - (len(rows) - 1) / 2) * width
        error = np.abs(bounds - values)
        axes.bar(x, values, width=0.92 * width, color=CYCLE[number % len(CYCLE)], label=_entry(label),
                 yerr=error, error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2})  # fmt: skip
    axes.set_xticks(
        range(len(shown)), [f"{name} shot" if name != "all" else name for name in shown]
    )
    axes.set_ylabel("macro accuracy in %")
    axes.grid(visible=False, axis="x")
    legend_above(figure, [name for name, _ in rows])
    return figure


def _entry(name: str) -> str:
    """Return a name as a legend shows it; those that begin with a line below are left out by matplotlib."""
    return f"\u200b{visible(name)}" if name.startswith("_") else visible(name)


def legend_above(figure: Figure, names: Sequence[str]) -> None:
    """Put the legend beside what is drawn, however many entries, in as many columns as the width holds."""
    letters = int(LEGEND_LETTERS * figure.get_figwidth() / WIDTH)
    columns = letters // (max(len(name) for name in names) + 6)  # 6 for the key
    figure.legend(loc="outside upper left", ncols=min(4, max(1, columns)))

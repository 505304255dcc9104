"""FigureData: a figure as numbers, which a method hands to the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """What a method shows about itself; the report draws it.

    Attributes:
        title: Heading.
        text: One or two sentences: what is shown and how to read it.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        series: Name -> values of y, one per entry of `places`; None where undefined.
        places: Values of x: numbers for lines, names for bars.
        kind: How it is drawn.
        percent: Whether y is a fraction, shown in percent.
    """

    title: str
    text: str
    x: str
    y: str
    places: Sequence[float] | Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    kind: Literal["lines", "bars"] = "lines"
    percent: bool = False


def measured_mean(values: Tensor) -> float | None:
    """Return the mean of `values` [N] without the NaNs, or None if nothing is measured."""
    measured = values[~values.isnan()]
    return float(measured.mean()) if len(measured) else None


def class_accuracy(predicted: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Tensor:
    """Return the accuracy of several classifiers on every class, float64 [R, C]; NaN if not tested.

    Args:
        predicted: Batches of predicted classes int64 [R, B], a row per classifier, and labels int64 [B].
        num_classes: C.
    """
    seen = torch.zeros(num_classes, dtype=torch.int64)
    hits: Tensor | None = None
    for batch, labels in predicted:
        known = labels.cpu()
        rows = [torch.bincount(known[row == known], minlength=num_classes) for row in batch.cpu()]
        counted = torch.stack(rows)
        hits = counted if hits is None else hits + counted
        seen += torch.bincount(known, minlength=num_classes)
    assert hits is not None, "there is at least one batch"
    return hits.double() / torch.where(seen > 0, seen, torch.nan)


def accuracy_by_group(
    accuracy: Tensor, names: Sequence[str], groups: Mapping[str, Tensor]
) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return places and series of a figure: class-averaged accuracy over all classes and by group.

    Args:
        accuracy: Of R classifiers on every class, [R, C]; NaN where there is no image.
        names: Of the classifiers.
        groups: Name -> bool [C].
    """
    series = {
        name: [measured_mean(row), *(measured_mean(row[mask]) for mask in groups.values())]
        for name, row in zip(names, accuracy, strict=True)
    }
    return ["all", *groups], series

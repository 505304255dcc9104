"""Panel: a figure as numbers, which a method hands to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Panel:
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

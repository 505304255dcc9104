"""Sentences of the report, made from the run's numbers."""

from __future__ import annotations

from typing import Any

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent
from longtail.report.view import RunView


def with_interval(entry: dict[str, Any], *, signed: bool = False) -> str:
    """Return `42.1 [41.2, 43.0]`, `-` if it is undefined."""
    if entry["value"] is None:
        return "-"
    sign = "+" if signed else ""
    low, high = entry["interval"]
    return f"{100 * entry['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def verdict(view: RunView) -> str:
    """Say in two sentences how good the model is, and for whom it is not."""
    scores, intervals = view.scores, view.intervals
    low, high = intervals["all"]["interval"]
    first = (
        f"Averaged over classes, the model recognises {percent(scores['macro_accuracy'])} % of "
        f"{scores['num_images']:,} {view.split} pictures (95 % interval {percent(low)} to "
        f"{percent(high)} %)."
    )
    known = {
        name: scores["groups"][name]["accuracy"]
        for name in GROUP_NAMES
        if scores["groups"][name]["accuracy"] is not None
    }
    never = [row for row in scores["per_class"] if row["accuracy"] == 0]
    parts = [f"{percent(value)} % of {name}-shot" for name, value in known.items()]
    second = f"It recognises {listing(parts)} pictures" if len(known) > 1 else ""
    if never:
        some = listing([row["name"] for row in never[:3]])
        more = f", and {len(never) - 3} more" if len(never) > 3 else ""
        lost = f"no picture of {len(never)} of {scores['num_classes']} classes ({some}{more})"
        second = f"{second}, and {lost}" if second else f"It recognises {lost}"
    elif scores["worst_class"] is not None:
        worst = f"{percent(scores['worst_class_accuracy'])} % of its worst class"
        worst = f"{worst} ({scores['worst_class']})"
        second = f"{second}, and {worst}" if second else f"It recognises {worst}"
    return f"{first} {second}."


def listing(parts: list[str]) -> str:
    """Return `a, b and c`."""
    if len(parts) <= 1:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"

"""Which of several methods to use, in words: chosen on val, with the uncertainty of the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longtail.core.words import counted
from longtail.evaluation.metrics import LEAST_SEEDS
from longtail.evaluation.scores import judged
from longtail.prediction.cost import PredictionCost
from longtail.report.compare import Comparison
from longtail.report.text import listing, with_interval
from longtail.report.view import RunView

ON_VAL = "in points on val"
MUCH = 1.1  # times the operations of the cheapest from which a method is called more expensive


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        winner: The method with the highest macro accuracy on val, over its seeds.
        alike: Methods that val and so many seeds do not tell apart from it.
        worse: Methods that are worse on val.
        sentences: All that for people, the main thing first.
    """

    winner: str
    alike: tuple[str, ...]
    worse: tuple[str, ...]
    sentences: tuple[str, ...]


def best_first(views: Mapping[str, Sequence[RunView]]) -> list[str]:
    """Return the methods by their macro accuracy on val, mean over seeds, the best first.

    Args:
        views: Method -> one view of val per seed.
    """
    mean = {
        name: float(np.mean([view.scores["macro_accuracy"] for view in each]))
        for name, each in views.items()
    }
    return sorted(views, key=lambda name: -mean[name])


def recommend(
    views: Mapping[str, Sequence[RunView]], costs: Mapping[str, PredictionCost]
) -> Recommendation:
    """Choose by val, and say how sure that is and what the choice costs.

    Args:
        views: Method -> one view of val per seed; the same seeds for all.
        costs: Method -> of its model.
    """
    order = best_first(views)
    comparison = Comparison.of([view for name in order for view in views[name]])
    rows = dict(zip(order, comparison.rows, strict=True))
    winner, others = order[0], order[1:]
    seeds = len(views[winner])
    found = {name: judged(rows[name]["difference"]["all"], seeds) for name in others}
    alike = tuple(name for name in others if found[name] >= 0)
    worse = tuple(name for name in others if found[name] < 0)
    said = {
        name: f"{name} ({with_interval(rows[name]['difference']['all'], signed=True)})"
        for name in others
    }
    images = len(comparison.labels)
    text = (
        f"Recommended: {winner}. It has the highest macro accuracy on val, "
        f"{with_interval(rows[winner]['accuracy']['all'])} % ({counted(images, 'image', 'images')}, "
        f"{counted(seeds, 'seed', 'seeds')})."
    )
    sentences = [text]
    of = f"{ON_VAL}, with 95 % intervals"  # of two seeds there is none
    if seeds < LEAST_SEEDS:
        sentences.append(
            f"With fewer than {LEAST_SEEDS} seeds (--seeds), nothing is called better or worse. Difference "
            f"from {winner}, {of if seeds == 1 else ON_VAL}: {listing(list(said.values()))}."
        )
    elif alike:
        sentences.append(
            f"No clear difference between {winner} and {listing([said[name] for name in alike])}, {of}."
        )
    if worse:
        be = "is" if len(worse) == 1 else "are"
        sentences.append(
            f"{listing([said[name] for name in worse])} {be} worse than {winner}{'' if alike else f', {of}'}."
        )
    if alike and (cheaper := _cheaper(winner, alike, costs)):
        sentences.append(cheaper)
    sentences.append(_cost(winner, order, costs))
    return Recommendation(winner, alike, worse, tuple(sentences))


def tested(comparison: Comparison) -> str:
    """Say what the winner, which comes first, reaches on a split that chose nothing."""
    row, split = comparison.rows[0], comparison.arms[0].views[0].split
    return (
        f"On {split}, which chose nothing, {row['name']} reaches {with_interval(row['accuracy']['all'])} % "
        f"({counted(len(comparison.labels), 'image', 'images')})."
    )


def _cheaper(winner: str, alike: Sequence[str], costs: Mapping[str, PredictionCost]) -> str:
    """Name the cheapest of the methods that are as good, if it costs less than the winner."""
    cheapest = min(alike, key=lambda name: costs[name].multiply_adds)
    times = costs[winner].multiply_adds / max(1, costs[cheapest].multiply_adds)
    if times < MUCH:
        return ""
    return (
        f"As val does not tell them apart, {cheapest} is the cheaper choice: {winner} needs {times:.1f} "
        "times as many operations for a prediction."
    )


def _cost(winner: str, order: Sequence[str], costs: Mapping[str, PredictionCost]) -> str:
    cost = costs[winner]
    cheapest = min(order, key=lambda name: costs[name].multiply_adds)
    times = cost.multiply_adds / max(1, costs[cheapest].multiply_adds)
    beside = (
        "no other method is cheaper"
        if times < MUCH
        else f"{times:.1f} times those of {cheapest}, the cheapest"
    )
    return (
        f"A prediction of {winner} takes {_millions(cost.multiply_adds)} multiply-adds ({beside}) of "
        f"{_millions(cost.parameters)} parameters, and {1000 * cost.seconds:.3g} ms for one image on this "
        "device."
    )


def _millions(number: int) -> str:
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:,.1f} million" if number < 1e9 else f"{number / 1e9:,.2f} billion"

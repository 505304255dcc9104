"""Every way to join sub-models, side by side, on answers that were computed once.

What a way may see decides what its number means, so each says so:

    label-free     the clean picture only
    views          other views of the picture as well
    instance-wise  weights of each picture from views of it
    transductive   weights from all test pictures together
    held-out       fitted on labelled pictures that are neither trained on nor tested on
    oracle         the test labels: a bound, no result
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longtail.adjust import (
    fit_stacking,
    group_weights,
    instance_weights,
    learn_group_weights,
    learn_instance_weights,
    mix,
    unbiased,
)
from longtail.adjust.mixture import Objective
from longtail.core.counts import ClassCounts
from longtail.core.groups import GROUP_NAMES, GroupRule, ShotGroups
from longtail.core.panel import measured_mean


@dataclass(frozen=True)
class Answers:
    """Logits of T sub-models to N pictures.

    Attributes:
        clean: To the pictures as they are, float [N, T, C].
        first: To the first view, likewise.
        second: To the second view.
        labels: int64 [N].
        bias: What training put into the logits of each sub-model, [T, C], or None if unknown.
        views: Name of the views.
    """

    clean: Tensor
    first: Tensor
    second: Tensor
    labels: Tensor
    bias: Tensor | None = None
    views: str = "mirror"


def compare_mixtures(
    answers: Answers,
    counts: ClassCounts,
    *,
    rule: GroupRule = "threshold",
    held_out: Answers | None = None,
) -> list[dict[str, Any]]:
    """Score every mixture.

    Args:
        answers: To the pictures that are scored.
        counts: Training pictures per class.
        rule: Of the groups.
        held_out: To labelled pictures on which a stacking may be fitted.

    Returns:
        For each: `name`, `sees` (see the head of this file), class-averaged `accuracy`, `many`, `medium` and
        `few` (fractions; None where a group is empty), `seconds` of finding weights and mixing, and, where
        there are weights, their mean over the pictures of each group, `weights`.
    """
    groups = ShotGroups.from_counts(counts, rule)
    rows = []
    for name, sees, way in _ways(answers, groups, held_out):
        begin = time.perf_counter()
        scores, weights = way()
        seconds = time.perf_counter() - begin
        row = {"name": name, "sees": sees, "seconds": round(seconds, 4)}
        rows.append(row | _accuracies(scores.argmax(dim=1), answers.labels, groups))
        if weights is not None:
            rows[-1]["weights"] = _by_group(weights, answers.labels, groups)
    return rows + _oracles(answers, groups)


Way = Callable[[], tuple[Tensor, Tensor | None]]  # scores [N, C] and weights [N, T]


def _ways(
    answers: Answers, groups: ShotGroups, held_out: Answers | None
) -> list[tuple[str, str, Way]]:
    count, bias = answers.clean.shape[1], answers.bias
    ways: list[tuple[str, str, Way]] = [
        (f"sub-model {t + 1}", "label-free", partial(_alone, answers.clean[:, t]))
        for t in range(count)
    ]
    if count == 1:
        return ways
    raw = (answers.first, answers.second)
    clean, first, second = (a.softmax(dim=2) for a in (answers.clean, *raw))
    # the mirror image is the only other view; of random views there are two
    seen = [answers.clean, answers.second, *([] if answers.views == "mirror" else [answers.first])]
    ways += [
        ("average", "label-free", partial(_average, [clean])),
        ("average of logits", "label-free", partial(_average, [answers.clean])),
        ("average over views", "views", partial(_average, [a.softmax(dim=2) for a in seen])),
    ]
    if bias is not None:
        ways += [
            (
                "average without known bias",
                "label-free",
                partial(_average, [unbiased(answers.clean, bias)]),
            ),
            ("the same over views", "views", partial(_average, [unbiased(a, bias) for a in seen])),
        ]
    objectives: tuple[Objective, ...] = ("cosine", "dot")
    for o in objectives:
        ways += [
            (f"instance, {o} of {what}", "instance-wise", partial(_weighted, mixed, find))
            for what, mixed, find in (
                ("probabilities", clean, partial(instance_weights, first, second, objective=o)),
                ("logits", answers.clean, partial(instance_weights, *raw, objective=o)),
                (
                    "softmax of mixed logits", answers.clean,
                    partial(instance_weights, *raw, objective=o, softmax=True, step=0.1),
                ),
                (
                    "probabilities, 5 steps", clean,
                    partial(learn_instance_weights, first, second, objective=o),
                ),
            )
        ]  # fmt: skip
        of_all = partial(group_weights, first, second, objective=o)
        ways.append(
            (f"group, {o} of probabilities", "transductive", partial(_weighted, clean, of_all))
        )
    sade = partial(learn_group_weights, *raw)
    ways.append(("group, SADE", "transductive", partial(_weighted, answers.clean, sade)))
    if held_out is not None:
        ways.append(("stacking", "held-out", partial(_stacked, answers.clean, held_out, groups)))
    return ways


def _alone(logits: Tensor) -> tuple[Tensor, None]:
    return logits, None


def _average(each: list[Tensor]) -> tuple[Tensor, None]:
    return torch.stack([answers.mean(dim=1) for answers in each]).mean(dim=0), None


def _weighted(mixed: Tensor, find: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    weights = find()
    return mix(mixed, weights), weights.expand(len(mixed), -1)


def _stacked(clean: Tensor, held_out: Answers, groups: ShotGroups) -> tuple[Tensor, None]:
    return fit_stacking(held_out.clean, held_out.labels, groups)(clean), None


def _oracles(answers: Answers, groups: ShotGroups) -> list[dict[str, Any]]:
    """Return what the best choice of a sub-model per group, and per picture, would score."""
    predicted = answers.clean.argmax(dim=2)  # [N, T]
    each = [_accuracies(column, answers.labels, groups) for column in predicted.T]
    best: list[int] = []
    for name in GROUP_NAMES:
        values = [-1.0 if (value := row[name]) is None else value for row in each]
        best.append(values.index(max(values)))
    group_of = torch.tensor(groups.assignment)[answers.labels.cpu()]
    chosen = torch.tensor(best)[group_of].to(predicted.device)
    by_group = predicted.gather(1, chosen[:, None])[:, 0]
    any_right = (predicted == answers.labels[:, None]).any(dim=1)
    by_picture = torch.where(any_right, answers.labels, predicted[:, 0])
    return [
        {"name": name, "sees": "oracle", "seconds": 0.0}
        | _accuracies(column, answers.labels, groups)
        for name, column in (
            ("oracle: best sub-model of the true group", by_group),
            ("oracle: any sub-model is right", by_picture),
        )
    ]


def _accuracies(predicted: Tensor, labels: Tensor, groups: ShotGroups) -> dict[str, float | None]:
    """Return class-averaged accuracies, overall and by group."""
    classes = len(groups.assignment)
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    seen = torch.bincount(labels, minlength=classes)
    each = (hits / torch.where(seen > 0, seen, torch.nan)).cpu()
    found = {name: measured_mean(each[groups.mask(name)]) for name in GROUP_NAMES}
    return {"accuracy": measured_mean(each), **found}


def _by_group(weights: Tensor, labels: Tensor, groups: ShotGroups) -> Mapping[str, list[float]]:
    """Return the mean weights over the pictures of each group (table 9 of DO)."""
    found = {}
    for name in GROUP_NAMES:
        mask = groups.mask(name)[labels.cpu()].to(weights.device)
        if bool(mask.any()):
            found[name] = [round(float(value), 4) for value in weights[mask].mean(dim=0)]
    return found

"""Every way to combine sub-models, side by side, on logits that were computed once.

What a way may see decides what its number means, so each says so:

    label-free     the clean image only
    views          other views of the image as well
    instance-wise  weights of each image from views of it
    transductive   weights from all test images together
    held-out       fitted on labelled images that are neither trained on nor tested on
    oracle         the test labels: a bound, no result
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.figure import measured_mean
from longtail.core.groups import GROUP_NAMES, GroupRule, ShotGroups
from longtail.ensembles.combination import WEIGHTED, fit_average
from longtail.ensembles.stacking import fit_stacking
from longtail.ensembles.weights import (
    Descent,
    Objective,
    group_weights,
    instance_weights,
    learn_group_weights,
    learn_instance_weights,
    unbiased,
    weighted_sum,
)

SUB_MODEL = "sub-model"  # and its number, 1..T
AVERAGES = ("average", "average of logits")
FOUND_FROM_VIEWS = (
    "instance, cosine of probabilities",  # DO, eq. 5
    "group, cosine of probabilities",  # its ablation, table 8
)


@dataclass(frozen=True)
class SubModelLogits:
    """Logits of T sub-models for N images.

    Attributes:
        clean: For the images as they are, float [N, T, C].
        first: For the first view, likewise.
        second: For the second view.
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
    logits: SubModelLogits,
    counts: ClassCounts,
    *,
    rule: GroupRule = "threshold",
    held_out: SubModelLogits | None = None,
    only: Sequence[str] | None = None,
    descent: Descent | None = None,
) -> list[dict[str, Any]]:
    """Score every mixture, or some of them and the oracles.

    Args:
        logits: For the images that are scored.
        counts: Training images per class.
        rule: Of the groups.
        held_out: For labelled images on which a stacking may be fitted.
        only: Names of the mixtures that are wanted; sub-models alone are always shown.
        descent: How the weights of `group, SADE` are learnt.

    Returns:
        For each: `name`, `sees` (see the head of this file), class-averaged `accuracy`, `many`, `medium` and
        `few` (fractions; None where a group is empty), `seconds` of finding and using weights, and, where
        there are weights, their mean over the images of each group, `weights`.
    """
    groups = ShotGroups.from_counts(counts, rule)
    rows = []
    for name, sees, way in _ways(logits, groups, held_out, descent):
        if only is not None and name not in only and not name.startswith(SUB_MODEL):
            continue
        begin = time.perf_counter()
        scores, weights = way()
        seconds = time.perf_counter() - begin
        row = {"name": name, "sees": sees, "seconds": round(seconds, 4)}
        rows.append(row | _accuracies(scores.argmax(dim=1), logits.labels, groups))
        if weights is not None:
            rows[-1]["weights"] = _by_group(weights, logits.labels, groups)
    return rows + _oracles(logits, groups)


Way = Callable[[], tuple[Tensor, Tensor | None]]  # scores [N, C] and weights [N, T]


def _ways(
    logits: SubModelLogits,
    groups: ShotGroups,
    held_out: SubModelLogits | None,
    descent: Descent | None,
) -> list[tuple[str, str, Way]]:
    count, bias = logits.clean.shape[1], logits.bias
    ways: list[tuple[str, str, Way]] = [
        (f"{SUB_MODEL} {t + 1}", "label-free", partial(_alone, logits.clean[:, t]))
        for t in range(count)
    ]
    if count == 1:
        return ways
    raw = (logits.first, logits.second)
    clean, first, second = (a.softmax(dim=2) for a in (logits.clean, *raw))
    # the mirror image is the only other view; of random views there are two
    seen = [logits.clean, logits.second, *([] if logits.views == "mirror" else [logits.first])]
    ways += [
        ("average", "label-free", partial(_average, [clean])),
        ("average of logits", "label-free", partial(_average, [logits.clean])),
        ("average over views", "views", partial(_average, [a.softmax(dim=2) for a in seen])),
    ]
    if bias is not None:
        ways += [
            (
                "average without known bias",
                "label-free",
                partial(_average, [unbiased(logits.clean, bias)]),
            ),
            ("the same over views", "views", partial(_average, [unbiased(a, bias) for a in seen])),
        ]
    objectives: tuple[Objective, ...] = ("cosine", "dot")
    for o in objectives:
        ways += [
            (f"instance, {o} of {what}", "instance-wise", partial(_weighted, outputs, find))
            for what, outputs, find in (
                ("probabilities", clean, partial(instance_weights, first, second, objective=o)),
                ("logits", logits.clean, partial(instance_weights, *raw, objective=o)),
                (
                    "softmax of mixed logits", logits.clean,
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
    sade = partial(learn_group_weights, *raw, descent=descent)
    ways.append(("group, SADE", "transductive", partial(_weighted, logits.clean, sade)))
    if held_out is not None:
        fit = partial(fit_average, held_out.clean, held_out.labels)
        ways.append((WEIGHTED, "held-out", partial(_weighted, clean, fit)))
        ways.append(("stacking", "held-out", partial(_stacked, logits.clean, held_out, groups)))
    return ways


def _alone(logits: Tensor) -> tuple[Tensor, None]:
    return logits, None


def _average(each: list[Tensor]) -> tuple[Tensor, None]:
    return torch.stack([outputs.mean(dim=1) for outputs in each]).mean(dim=0), None


def _weighted(outputs: Tensor, find: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    weights = find()
    return weighted_sum(outputs, weights), weights.expand(len(outputs), -1)


def _stacked(clean: Tensor, held_out: SubModelLogits, groups: ShotGroups) -> tuple[Tensor, None]:
    return fit_stacking(held_out.clean, held_out.labels, groups)(clean), None


def _oracles(logits: SubModelLogits, groups: ShotGroups) -> list[dict[str, Any]]:
    """Return what the best choice of a sub-model per group, and per image, would score."""
    predicted = logits.clean.argmax(dim=2)  # [N, T]
    each = [_accuracies(column, logits.labels, groups) for column in predicted.T]
    best: list[int] = []
    for name in GROUP_NAMES:
        values = [-1.0 if (value := row[name]) is None else value for row in each]
        best.append(values.index(max(values)))
    group_of = torch.tensor(groups.assignment)[logits.labels.cpu()]
    chosen = torch.tensor(best)[group_of].to(predicted.device)
    by_group = predicted.gather(1, chosen[:, None])[:, 0]
    any_right = (predicted == logits.labels[:, None]).any(dim=1)
    by_image = torch.where(any_right, logits.labels, predicted[:, 0])
    return [
        {"name": name, "sees": "oracle", "seconds": 0.0}
        | _accuracies(column, logits.labels, groups)
        for name, column in (
            ("oracle: best sub-model of the true group", by_group),
            ("oracle: any sub-model is right", by_image),
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
    """Return the mean weights over the images of each group (table 9 of DO)."""
    found = {}
    for name in GROUP_NAMES:
        mask = groups.mask(name)[labels.cpu()].to(weights.device)
        if bool(mask.any()):
            found[name] = [round(float(value), 4) for value in weights[mask].mean(dim=0)]
    return found

"""Which combination of several models to use: chosen on val, measured on the scored split.

Without a val split nothing can be chosen: it is the average of the probabilities then. What is fitted on val
is judged on it in halves, each by what the other half fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.groups import ShotGroups
from longtail.ensembles.combination import (
    AVERAGE,
    FITTED,
    STACKING,
    UNBIASED,
    WEIGHTED,
    Combination,
    make_combination,
)
from longtail.ensembles.mixtures import SubModelLogits
from longtail.evaluation.bootstrap import group_masks, paired_intervals
from longtail.evaluation.halves import halves
from longtail.evaluation.metrics import confusion_matrix, macro_accuracy

SENSIBLE = (AVERAGE, "average of logits", UNBIASED, WEIGHTED, STACKING)  # ties go to the first
SEES = {
    AVERAGE: "the image only",
    "average of logits": "the image only",
    UNBIASED: "the image only",
    WEIGHTED: "the image only; its weights were fitted on val",
    STACKING: "the image only; its weights were fitted on val",
}


def recommend(
    scored: SubModelLogits,
    names: Sequence[str],
    groups: ShotGroups,
    *,
    held_out: SubModelLogits | None = None,
    together: NDArray[np.int64] | None = None,
    held_together: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Choose a combination and compare it with the best single model, image by image.

    Args:
        scored: Logits of the images that measure.
        names: Of the T sub-models.
        groups: Of the classes.
        held_out: Logits of the images that choose.
        together: Numbers that are equal for images that belong together, [N], of `scored`.
        held_together: Likewise of `held_out`.

    Returns:
        `combination`, None if the best single model is better on val than each of them; `single`, its name;
        `chosen_on`, `val` or None; `images`, that measure; `groups`, as `paired_intervals` returns them with
        the single model before and the combination after; `sees`.
    """
    singles = [scored.clean[:, place] for place in range(len(names))]
    name: str | None = AVERAGE
    if held_out is None:
        values = [_macro(logits, scored.labels) for logits in singles]
    else:
        values = [_macro(held_out.clean[:, place], held_out.labels) for place in range(len(names))]
        judged = judge(held_out, groups, held_together)
        name = max(judged, key=judged.__getitem__)  # the first of equal ones
        if judged[name] <= max(values):
            name = None
    best = int(np.argmax(values))
    combination = combine(name or AVERAGE, scored, groups, held_out)
    before, after = (
        (logits.argmax(dim=1) == scored.labels).cpu().numpy()
        for logits in (singles[best], combination(scored.clean, scored.second))
    )
    labels = scored.labels.cpu().numpy()
    found = paired_intervals(labels, before, after, group_masks(groups), together=together)
    return {
        "combination": name,
        "compared": combination.name,
        "single": names[best],
        "chosen_on": None if held_out is None else "val",
        "images": len(labels),
        "held_out_images": 0 if held_out is None else len(held_out.labels),
        "groups": found,
        "sees": SEES[combination.name],
    }


def combine(
    name: str, scored: SubModelLogits, groups: ShotGroups, held_out: SubModelLogits | None
) -> Combination:
    """Return a combination by its name, fitted on all held-out images where it is fitted."""
    _, count, classes = scored.clean.shape
    fit = None if held_out is None else (held_out.clean, held_out.labels)
    return make_combination(name, (count, classes), groups=groups, bias=scored.bias, held_out=fit)


def judge(
    held_out: SubModelLogits, groups: ShotGroups, together: NDArray[np.int64] | None = None
) -> dict[str, float]:
    """Return the class-averaged accuracy of each sensible combination on held-out images.

    One that is fitted is judged on the half that did not fit it.
    """
    half = torch.from_numpy(halves(held_out.labels.cpu().numpy(), together))
    found = {}
    for name in SENSIBLE:
        if name == UNBIASED and held_out.bias is None:
            continue
        if name not in FITTED or not bool(half.any()):
            made = combine(name, held_out, groups, held_out)
            found[name] = _macro(made(held_out.clean, held_out.second), held_out.labels)
            continue
        scores = torch.empty_like(held_out.clean[:, 0])
        for rows in (half, ~half):
            made = combine(name, held_out, groups, _part(held_out, rows))
            scores[~rows] = made(held_out.clean[~rows], held_out.second[~rows])
        found[name] = _macro(scores, held_out.labels)
    return found


def _part(logits: SubModelLogits, rows: Tensor) -> SubModelLogits:
    return SubModelLogits(
        logits.clean[rows], logits.first[rows], logits.second[rows], logits.labels[rows],
        logits.bias, logits.views,
    )  # fmt: skip


def _macro(scores: Tensor, labels: Tensor) -> float:
    predicted = scores.argmax(dim=1).cpu().numpy()
    value = macro_accuracy(confusion_matrix(labels.cpu().numpy(), predicted, scores.shape[1]))
    assert value is not None, "a split holds an image"
    return value

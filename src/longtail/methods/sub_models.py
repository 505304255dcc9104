"""What the report says of a method whose answer is the mean of several sub-models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.panel import Panel, accuracy_by_group, class_accuracy
from longtail.methods.method import FitBatches, Method


def alone_and_together(
    method: Method, what: str, names: Sequence[str], batches: FitBatches, groups: ShotGroups
) -> Panel:
    """Return the accuracy of each sub-model alone beside that of the mean of their logits.

    Args:
        method: Answers with logits [B, E, C].
        what: The sub-models are, in plural.
        names: Of each of them, E.
        batches: Pictures and labels of the scored split.
        groups: Of the classes; empty ones are left out.
    """

    def answered(images: Tensor) -> Tensor:
        logits = method.answers(images)
        return torch.cat([logits.argmax(dim=2).T, logits.mean(dim=1).argmax(dim=1)[None]])

    rows = class_accuracy(((answered(x), y) for x, y in batches), len(groups.assignment))
    empty = groups.empty_groups()
    masks = {name: groups.mask(name) for name in GROUP_NAMES if name not in empty}
    places, series = accuracy_by_group(rows, [*names, "mean"], masks)
    return Panel(
        title=f"{what.capitalize()} alone and together",
        text=f"Class-averaged accuracy of each of the {what} and of the mean of their logits, by shot group.",
        x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
    )  # fmt: skip

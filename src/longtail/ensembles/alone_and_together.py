"""What the report says of a method whose prediction is the mean of several sub-models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from longtail.core.figure import FigureData, accuracy_by_group, class_accuracy
from longtail.core.groups import GROUP_NAMES, ShotGroups


def alone_and_together(
    logits_of: Callable[[Tensor], Tensor],
    what: str,
    names: Sequence[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    groups: ShotGroups,
) -> FigureData:
    """Return the accuracy of each sub-model alone beside that of the mean of their logits.

    Args:
        logits_of: Returns the logits of E sub-models, [B, E, C], for images.
        what: The sub-models are, in plural.
        names: Of each of them, E.
        batches: Images and labels of the scored split.
        groups: Of the classes; empty ones are left out.
    """

    def predicted(images: Tensor) -> Tensor:
        logits = logits_of(images)
        return torch.cat([logits.argmax(dim=2).T, logits.mean(dim=1).argmax(dim=1)[None]])

    rows = class_accuracy(((predicted(x), y) for x, y in batches), len(groups.assignment))
    empty = groups.empty_groups()
    masks = {name: groups.mask(name) for name in GROUP_NAMES if name not in empty}
    places, series = accuracy_by_group(rows, [*names, "mean"], masks)
    return FigureData(
        title=f"{what.capitalize()}, alone and combined",
        text=f"Macro accuracy of each of the {what} and of the mean of their logits, by shot group.",
        x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
    )  # fmt: skip

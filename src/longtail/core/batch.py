"""What flows through one training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one step on the training device.

    Attributes:
        views: One float tensor [B, 3, H, W] per view that the stage asks for, normalised; features [B, D]
            in a stage that names `features`.
        labels: int64 [B].
        ids: int64 [B], `Manifest.ids` of the images.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    ids: Tensor

    @property
    def images(self) -> Tensor:
        """The only view, or the first of several, [B, 3, H, W]."""
        return self.views[0]

    def split(self, parts: int) -> Iterator[Batch]:
        """Yield `parts` batches of equal size, for gradients that are summed up."""
        pieces = zip(
            zip(*(view.chunk(parts) for view in self.views), strict=True),
            self.labels.chunk(parts),
            self.ids.chunk(parts),
            strict=True,
        )
        for views, labels, ids in pieces:
            yield Batch(views, labels, ids)


@dataclass(frozen=True)
class Position:
    """Where a training is: everything random and everything scheduled is a function of it.

    Attributes:
        seed: Seed of the run.
        stage: Index of the stage, from 0.
        epoch: Epoch inside the stage, from 0.
        step: Step inside the epoch, from 0.
        epochs: Number of epochs of the stage.
    """

    seed: int
    stage: int
    epoch: int
    step: int
    epochs: int


@dataclass(frozen=True)
class StepOutput:
    """What a training step returns.

    Attributes:
        loss: Scalar to minimise.
        scalars: Further detached scalars for the log.
        carry: Tensors that `after_step` of the same step needs; never kept elsewhere. The first axis
            is the image; scalars are those of the last part of a batch.
        sharp: The part of the loss whose gradient sharpness-aware minimisation takes uphill
            (training.optimizer=sam), scalar; None for all of it.
        ascent: What it climbs along the gradient of, scalar, if that is not `sharp`.
    """

    loss: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    sharp: Tensor | None = None
    ascent: Tensor | None = None

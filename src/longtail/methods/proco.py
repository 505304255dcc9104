"""ProCo: probabilistic contrastive learning (Du et al., TPAMI 2024, arXiv 2403.06726).

Idea: Supervised contrast needs large batches to meet rare classes at all. Take the features of a class to be
drawn from a von Mises-Fisher distribution, estimate it over an epoch, and contrast with infinitely many draws
of it: that has a closed form, and every class is there in every batch.

Symbols:
    x1, x2, x3   three views of an image: one for the classifier, two for the contrast     [B, 3, H, W]
    z            W f(x1) + b, or s cos(w_c, f(x1))                                            [B, C]
    h            unit(projection(f)) of x2 and of x3                                         [B, d]
    m_c          mean of h over the images of class c: its direction and length are the estimate [C, d]
    s            expected similarity of h to each class, see `longtail.losses.contrastive.von_mises_fisher`

Loss (one stage), with pi the class frequencies:
    CE(z + log pi, y) + alpha / 2 (CE(s(x2) + log pi, y) + CE(s(x3) + log pi, y))
Means go on from those of the last epoch and, on the side, begin anew with each epoch; the new ones take the
place of the old ones after it. Prediction is z.

Where paper and released code disagree, and what we do:
- The code computes Bessel functions in float64 by a recurrence whose checks wait for the device. We use the
  expansion for large orders, which agrees to 1e-9 at d = 128.
- The code adds the batch to the means before its loss, one view after the other. We add both views together,
  after the step.
- As in the code, all three views pass the network as one batch, so BatchNorm sees them together.
- As released, classes that were absent from an epoch have random directions of length .9 in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.precision import unit_rows
from longtail.core.stage import Stage
from longtail.losses import LogitAdjusted, expected_similarity
from longtail.methods.ingredients import BalancedSoftmaxOptions, HeadOptions, ViewName, assumed
from longtail.methods.method import Method, Setting
from longtail.models.heads import projection

UNMET = 0.9  # length of the mean of a class that was not met


class ProCoOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["proco"] = "proco"
    weight: float = Field(1.0, ge=0, description="alpha, weight of the contrastive loss")
    temperature: float = Field(
        0.1, gt=0, description="temperature of the contrastive loss: .07 on large data sets"
    )
    head: Annotated[HeadOptions, ByName] = HeadOptions()
    hidden: int | None = Field(
        512,
        ge=2,
        description="width of the projection's hidden layer; that of the features if not given",
    )
    projection_width: int = Field(
        128, ge=16, description="width d of the projection: 1,024 on large data sets"
    )
    views: tuple[ViewName, ViewName, ViewName] = Field(
        ("default", "sim-without-blur", "sim-without-blur"),
        description="augmentation of the classifier's view and of the two contrasted views; default "
        "is the data set's own",
    )


class ProCo(Method):
    """See the head of this file."""

    Config = ProCoOptions
    summary = (
        "contrastive learning with an estimated distribution of every class, and logit adjustment"
    )
    advice = (
        "you want a single stage with three views, and have more classes than images in a batch"
    )
    citation = "Du et al., Probabilistic Contrastive Learning for Long-Tailed Visual Recognition, TPAMI 2024"

    ranking: Tensor
    means: Tensor
    seen: Tensor
    next_means: Tensor
    next_seen: Tensor

    def __init__(self, config: ProCoOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        width, classes = self.backbone.num_features, len(self.counts)
        self.head = config.head.build(width, classes, BalancedSoftmaxOptions())
        self.projection = projection(width, config.hidden or width, config.projection_width)
        self.loss = LogitAdjusted(self.counts)
        ranking = torch.tensor(self.counts.ranking())
        self.register_buffer("ranking", ranking, persistent=False)
        for name in ("means", "next_means"):
            self.register_buffer(name, torch.zeros(classes, config.projection_width))
        for name in ("seen", "next_seen"):
            self.register_buffer(name, torch.zeros(classes))
        self._forget(self.means, self.seen)
        self._forget(self.next_means, self.next_seen)

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage, on three views."""
        return [Stage(name="joint", epochs=self.epochs, views=self.config.views)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of the labels on the first view, and the contrast of the others."""
        (batch,) = batches
        labels, size = batch.labels, len(batch.labels)
        features = self.backbone(torch.cat(batch.views))  # [3B, D]
        told = self.loss(self.head(features[:size]), labels)
        views = unit_rows(self.projection(features)[size:])  # [2B, d]
        similarity = expected_similarity(views, self.means, self.config.temperature)
        apart = self.loss(similarity, torch.cat([labels, labels]))
        scalars = {"label_loss": told.detach(), "contrast_loss": apart.detach()}
        # rows of images, so that parts of a batch can be joined
        carry = {"views": torch.stack(views.detach().chunk(2), dim=1), "labels": labels}
        return StepOutput(told + self.config.weight * apart, scalars, carry)

    @torch.no_grad()
    def after_step(self, out: StepOutput, at: Position) -> None:
        """Add the batch to the means, which begin anew with each epoch."""
        if at.step == 0 and at.epoch > 0:
            self.means.copy_(self.next_means)
            self.seen.copy_(self.next_seen)
            self._forget(self.next_means, self.next_seen)
        views = distributed.join(out.carry["views"])  # [B, 2, d]
        labels = distributed.join(out.carry["labels"])
        sums = torch.zeros_like(self.means).index_add_(0, labels, views.sum(dim=1).to(self.means))
        count = torch.zeros_like(self.seen).index_add_(
            0, labels, torch.full_like(labels, 2).to(self.seen)
        )
        for means, seen in ((self.means, self.seen), (self.next_means, self.next_seen)):
            total = seen + count
            known = (seen / total.clamp_min(1))[:, None] * means + sums / total.clamp_min(1)[
                :, None
            ]
            means.copy_(torch.where(total[:, None] > 0, known, means))
            seen.copy_(total)

    def _forget(self, means: Tensor, seen: Tensor) -> None:
        drawn = torch.randn(means.shape, device=means.device)
        means.index_copy_(0, self.ranking, UNMET * unit_rows(drawn))
        seen.zero_()

    def predict(self, images: Tensor) -> Tensor:
        """Return z, without log pi."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name what both branches correct."""
        return ("balanced-softmax", "balanced contrast with class distributions")

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return what logit adjustment leaves of the prior."""
        return assumed(self.counts, at, losses=(BalancedSoftmaxOptions(),))

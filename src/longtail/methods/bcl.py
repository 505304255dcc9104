"""BCL: balanced contrastive learning (Zhu et al., CVPR 2022, arXiv 2207.09052).

Idea: Supervised contrast pushes away the classes that fill the batch, so features of a long tail form no
regular simplex. Let every class count the same in the denominator, and let every class be there by a centre
that is computed from its classifier row. A second branch learns the classifier by logit adjustment.

Symbols:
    x1, x2, x3   three views of an image: one for the classifier, two for the contrast     [B, 3, H, W]
    z            s cos(w_c, f(x1)), s = 30                                                    [B, C]
    h            unit(projection(f)) of x2, x3                                               [2 B, d]
    r_c          unit(g(w_c)), centre of class c; g a projection of its own                   [C, d]

Loss (one stage): alpha CE(z + log pi, y) + beta L(h, r), see `longtail.losses.contrastive.balanced`.
Prediction is z.

Where paper and released code disagree, and what we do:
- The code covers ImageNet-LT and iNaturalist. The values for CIFAR are those of sumyeongahn/CUDA_LTR
  (cifar/losses/bcl.py), which grew from it.
- As in the code, all three views pass the network as one batch, so BatchNorm sees them together.
- As in the code, the projections have BatchNorm, and that of the centres takes its statistics over classes.
- As in the code, which trains in one process, the class counts of a batch are those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.precision import unit_rows
from longtail.core.stage import Stage
from longtail.losses import LogitAdjusted, balanced_contrastive
from longtail.methods.ingredients import BalancedSoftmaxOptions, ViewName, assumed
from longtail.methods.method import Method, Setting
from longtail.models.heads import CosineHead, projection


class BCLOptions(Options):
    """What can be chosen; defaults are those of ImageNet-LT."""

    name: Literal["bcl"] = "bcl"
    weight: float = Field(
        1.0, ge=0, description="alpha, weight of the classifier's loss: 2 on CIFAR"
    )
    contrast: float = Field(
        0.35, ge=0, description="beta, weight of the contrastive loss: .6 on CIFAR"
    )
    temperature: float = Field(
        0.07, gt=0, description="temperature of the contrastive loss: .1 on CIFAR"
    )
    scale: float = Field(30.0, gt=0, description="s of the classifier's cosines")
    hidden: int | None = Field(
        None,
        ge=2,
        description="width of the projections' hidden layer; that of the features if not given",
    )
    projection_width: int = Field(
        1024, ge=2, description="width d of the projections: 128 on CIFAR"
    )
    views: tuple[ViewName, ViewName, ViewName] = Field(
        ("default", "sim-without-blur", "sim-without-blur"),
        description="augmentation of the classifier's view and of the two contrasted views; default "
        "is the data set's own",
    )


class BCL(Method):
    """See the head of this file."""

    Config = BCLOptions
    summary = (
        "contrastive learning in which all classes count the same, together with logit adjustment"
    )
    advice = "you want a single stage and can pay for three views of every image"
    citation = (
        "Zhu et al., Balanced Contrastive Learning for Long-Tailed Visual Recognition, CVPR 2022"
    )
    several_processes = "contrasts its own part with itself"

    def __init__(self, config: BCLOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        width = self.backbone.num_features
        self.head = CosineHead(width, len(self.counts), config.scale)
        hidden = config.hidden or width

        self.projection = projection(width, hidden, config.projection_width)
        self.centre_projection = projection(width, hidden, config.projection_width)
        self.loss = LogitAdjusted(self.counts)

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage, on three views."""
        return [Stage(name="joint", epochs=self.epochs, views=self.config.views)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of the labels on the first view, and the contrast of the others."""
        (batch,) = batches
        size, config = len(batch.labels), self.config
        features = self.backbone(torch.cat(batch.views))  # [3B, D]
        told = self.loss(self.head(features[:size]), batch.labels)
        views = unit_rows(self.projection(features)[size:])
        centres = unit_rows(self.centre_projection(self.head.weight))
        apart = balanced_contrastive(views, batch.labels, centres, config.temperature).mean()
        scalars = {"label_loss": told.detach(), "contrast_loss": apart.detach()}
        return StepOutput(config.weight * told + config.contrast * apart, scalars)

    def predict(self, images: Tensor) -> Tensor:
        """Return z, without log pi."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name what both branches correct."""
        return ("balanced-softmax", "class-averaged contrast")

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return what logit adjustment leaves of the prior."""
        return assumed(self.counts, at, losses=(BalancedSoftmaxOptions(),))

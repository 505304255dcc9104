"""NCL: nested collaborative learning (Li et al., CVPR 2022, arXiv 2203.15359).

Idea: Several whole networks, trained side by side on the same pictures, are uncertain in different places.
Let each learn from the labels and from all others, on all classes and once more on the hard ones alone.

Symbols:
    z_e   logits of network e                                            [B, C], e = 1..E
    a_e   z_e + log n, as in balanced softmax
    M     hard categories of a picture: its class and those with the largest z_1, a share of all classes
    D     mutual divergence of the networks

Loss (one stage):
    sum_e CE(a_e, y) + sum_e CE(M a_e, y)  +  weight (D(a) + D(M a))

Prediction is the mean of z_e. It takes E networks; the paper also reports one of them alone.

What the released code does, and what happens here:
- Logits outside of M are set to 0 and so keep some probability (`others=zero`); `others=removed` leaves them
  out.
- M comes from the raw logits of the first network, for all of them. So it does here.
- The branch with momentum contrast (on for ImageNet-LT and larger) is not here.
- The published numbers on CIFAR are of another long-tailed cut (that of Cui et al.) with the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.panel import Panel
from longtail.core.stage import Stage
from longtail.data.options import Options
from longtail.losses import (
    cross_entropy,
    hard_categories,
    masked_logits,
    mutual_divergence,
)
from longtail.methods.ingredients import BalancedSoftmaxOptions, ByName, HeadOptions
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.methods.sub_models import alone_and_together


class NCLOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["ncl"] = "ncl"
    networks: int = Field(3, ge=1, le=8, description="trained side by side")
    head: Annotated[HeadOptions, ByName] = HeadOptions()
    hard: float = Field(
        0.3, gt=0, le=1,
        description="share of the classes that are hard categories of a picture",
    )  # fmt: skip
    others: Literal["zero", "removed"] = Field(
        "zero", description="logits of the other classes: 0 as released, or without probability"
    )
    weight: float = Field(0.6, ge=0, description="of the divergences; 0 trains networks apart")


class SideBySide(nn.Module):
    """Networks that see the same pictures."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures [B, 3, H, W] to the logits of every network, [B, E, C]."""
        return torch.stack([network(images) for network in self.networks], dim=1)


class NCL(Method):
    """See the head of this file."""

    Config = NCLOptions
    summary = "whole networks trained side by side, each learning from labels and from the others"
    advice = "strong augmentation and a long schedule are there, and several times the cost"
    citation = (
        "Li et al., Nested Collaborative Learning for Long-Tailed Visual Recognition, CVPR 2022"
    )

    log_n: Tensor

    def __init__(self, config: NCLOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.groups = config, setting.epochs, setting.groups
        counts = setting.class_counts
        # at least the label, and one class that it is mistaken for where there are two
        self.hard = max(min(2, len(counts)), int(config.hard * len(counts)))
        self.together = SideBySide(
            [self._network(setting, len(counts)) for _ in range(config.networks)]
        )
        self.register_buffer("log_n", counts.tensor(torch.float64).log().float())

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        return [Stage(name="joint", epochs=self.epochs)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of the labels and the divergences, on all and on hard categories."""
        (batch,) = batches
        logits = self.answers(batch.images).float()  # [B, E, C]
        mask = hard_categories(logits[:, 0], batch.labels, self.hard)  # [B, C]
        adjusted = logits + self.log_n
        hard = masked_logits(adjusted, mask[:, None], self.config.others)
        told = torch.stack(
            [cross_entropy(z, batch.labels) for a in (adjusted, hard) for z in a.unbind(dim=1)]
        ).sum()
        apart = mutual_divergence(adjusted) + mutual_divergence(hard)
        scalars = {"label_loss": told.detach(), "divergence": apart.detach()}
        return StepOutput(told + self.config.weight * apart, scalars)

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean of z_e."""
        return self.answers(images).mean(dim=1)

    def answers(self, images: Tensor) -> Tensor:
        """Return z_e, [B, E, C]."""
        logits: Tensor = self.together(images)
        return logits

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return the accuracy of each network alone beside their mean."""
        names = [f"network {e + 1}" for e in range(self.config.networks)]
        return (alone_and_together(self, "networks", names, batches, self.groups),)

    def corrections(self) -> tuple[str, ...]:
        """Name the loss that corrects for the prior."""
        return ("balanced-softmax",)

    def _network(self, setting: Setting, num_classes: int) -> nn.Module:
        backbone = setting.build_backbone()
        told = BalancedSoftmaxOptions()
        return nn.Sequential(
            backbone, self.config.head.build(backbone.num_features, num_classes, told)
        )

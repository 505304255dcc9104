"""NCL: nested collaborative learning (Li et al., CVPR 2022, arXiv 2203.15359).

Idea: Several whole networks, trained side by side on the same images, are uncertain in different places.
Let each learn from the labels and from all others, on all classes and once more on the hard ones alone.

Symbols:
    z_e   logits of network e                                            [B, C], e = 1..E
    a_e   z_e + log n, as in balanced softmax
    M     hard categories of an image: its class and those with the largest z_1, a share of all classes
    D     mutual divergence of the networks

Loss (one stage):
    sum_e CE(a_e, y) + sum_e CE(M a_e, y)  +  weight (D(a) + D(M a))

Prediction is the mean of z_e. It takes E networks; the paper also reports one of them alone.

What the released code does, and what we do:
- The code sets logits outside M to 0, so these classes keep some probability (`others=zero`);
  `others=removed` leaves them out.
- For all networks, M is computed from the raw logits of the first network. We do the same.
- The code computes divergences from log(p + 1e-9), so they are capped at 20.7, without gradient beyond; here,
  they are exact.
- The branch with momentum contrast is not included. The released configurations use it only for Places-LT
  (CON_RATIO 1.0); those of ImageNet-LT and iNaturalist have 0.0.
- The published numbers on CIFAR are for a different long-tailed subset (of Cui et al.) with the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Stage
from longtail.ensembles.alone_and_together import alone_and_together
from longtail.losses import (
    cross_entropy,
    hard_categories,
    masked_logits,
    mutual_divergence,
)
from longtail.methods.ingredients import BalancedSoftmaxOptions, HeadOptions
from longtail.methods.method import Facts, FitBatches, Method, Setting


class NCLOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["ncl"] = "ncl"
    networks: int = Field(3, ge=1, le=8, description="number of networks that are trained together")
    head: Annotated[HeadOptions, ByName] = HeadOptions()
    hard: float = Field(
        0.3, gt=0, le=1,
        description="share of the classes that count as hard for an image",
    )  # fmt: skip
    others: Literal["zero", "removed"] = Field(
        "zero",
        description="logits of the classes that are not hard: set to 0, as in the released code, or left out "
        "of the softmax",
    )
    weight: float = Field(
        0.6,
        ge=0,
        description="weight of the mutual divergences; 0 trains the networks independently",
    )


class SideBySide(nn.Module):
    """Networks that see the same images."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to the logits of every network, [B, E, C]."""
        return torch.stack([network(images) for network in self.networks], dim=1)


class NCL(Method):
    """See the head of this file."""

    Config = NCLOptions
    summary = "whole networks trained together; each learns from the labels and from the others"
    advice = "you can afford strong augmentation, a long schedule and several times the cost"
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
        logits = self.sub_model_logits(batch.images).float()  # [B, E, C]
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
        return self.sub_model_logits(images).mean(dim=1)

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return z_e, [B, E, C]."""
        logits: Tensor = self.together(images)
        return logits

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each network alone beside their mean."""
        names = [f"network {e + 1}" for e in range(self.config.networks)]
        return (alone_and_together(self.sub_model_logits, "networks", names, batches, self.groups),)

    def corrections(self) -> tuple[str, ...]:
        """Name the loss that corrects for the prior."""
        return ("balanced-softmax",)

    def _network(self, setting: Setting, num_classes: int) -> nn.Module:
        backbone = setting.build_backbone()
        told = BalancedSoftmaxOptions()
        return nn.Sequential(
            backbone, self.config.head.build(backbone.num_features, num_classes, told)
        )

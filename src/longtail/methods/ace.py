"""ACE: ally complementary experts (Cai et al., ICCV 2021, arXiv 2108.02385).

Idea: Experts on one trunk that each know fewer and rarer classes: all, those that are not frequent, the rare
ones. In its own classes no expert is disturbed by images of more frequent ones, and the fewer images an
expert has, the slower it learns. Each class is judged by the experts that know it.

Symbols:
    C_i   classes of expert i, nested: all; medium and few; few          i = 1..E
    N_i   training images of C_i
    z_i   W_i f_i + b_i, logits of expert i                               [B, C]

Loss (one stage), of each expert over the images with y in C_i alone:
    CE(z_i, y) + weight / C * sum over c outside of C_i of z_ic^2
with the learning rate of expert i times N_i / N_1; only expert 1 trains the trunk.
Prediction of class c: the mean over the experts with c in C_i of z_ic |W_1| / |W_i|.
An expert whose classes would be none, or those of the one before, is left out.

There is no published code that we could read (jrcai/ACE was not available). We assume:
- the weight of the squared logits is 1, divided by the number C of all classes (with a plain sum, training
  diverges at a learning rate of .1), and they are taken over the expert's own images, because an expert
  should not be disturbed by what it has never seen;
- the scale is the ratio of the norms of the classifiers, although the text could also mean their squares;
- experts have full width, and each has its own last two groups of layers (CIFAR), as in RIDE;
- the schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.groups import ShotGroups
from longtail.core.stage import Stage
from longtail.losses.softmax.adjusted_softmax import adjusted_cross_entropy
from longtail.methods.method import Method, Setting
from longtail.models.heads import LinearHead


class ACEOptions(Options):
    """What can be chosen."""

    name: Literal["ace"] = "ace"
    weight: float = Field(
        1.0,
        ge=0,
        description="weight of the squared logits of classes that an expert does not know, divided by C",
    )


class ACE(Method):
    """See the head of this file."""

    Config = ACEOptions
    summary = (
        "experts on one trunk for all, for medium- and few-shot, and for few-shot classes only"
    )
    advice = "you want experts in a single stage and can pay twice the cost"
    citation = (
        "Cai et al., ACE: Ally Complementary Experts for Solving Long-Tailed Recognition, ICCV 2021"
    )

    known: Tensor

    def __init__(self, config: ACEOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        counts = setting.class_counts
        known = nested_classes(setting.groups)  # C_i, bool [E, C]
        self.register_buffer("known", known)
        images = counts.tensor(torch.float64)
        self.pace = tuple(float(images[own].sum() / images.sum()) for own in known)  # N_i / N_1
        self.backbone = setting.build_experts(len(known), narrow=False)
        self.heads = nn.ModuleList(
            LinearHead(self.backbone.num_features, len(counts)) for _ in known
        )

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage, each expert at its own rate."""
        slowed = [(e, pace) for e, pace in enumerate(self.pace) if e > 0]
        rates = [(f"{part}.{e}", p) for e, p in slowed for part in ("backbone.tails", "heads")]
        return [Stage(name="joint", epochs=self.epochs, rates=tuple(rates))]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the sum of the experts' losses, and each of them for the log."""
        (batch,) = batches
        logits = self._expert_logits(batch.images)  # [B, E, C]
        each = [
            expert_loss(z, batch.labels, own, self.config.weight)
            for z, own in zip(logits.unbind(dim=1), self.known, strict=True)
        ]
        apart = {f"expert_{e + 1}_loss": value.detach() for e, value in enumerate(each)}
        return StepOutput(torch.stack(each).sum(), apart)

    def predict(self, images: Tensor) -> Tensor:
        """Return of each class the mean over the experts that know it."""
        lengths = torch.stack([head.get_parameter("weight").norm() for head in self.heads])  # [E]
        scaled = self._expert_logits(images) * (lengths[0] / lengths)[:, None]
        return torch.where(self.known, scaled, 0.0).sum(dim=1) / self.known.sum(dim=0)

    def corrections(self) -> tuple[str, ...]:
        """Name what is done for rare classes, if any is rare."""
        return ("experts for rarer classes",) if len(self.pace) > 1 else ()

    def _expert_logits(self, images: Tensor) -> Tensor:
        maps = self.backbone(images, led=True)
        pairs = zip(self.heads, maps, strict=True)
        return torch.stack([head(m.mean(dim=(2, 3))) for head, m in pairs], dim=1)


def nested_classes(groups: ShotGroups) -> Tensor:
    """Return the classes of each expert, bool [E, C]: all, then fewer and rarer ones, each set once."""
    everything = torch.ones(len(groups.assignment), dtype=torch.bool)
    found = [everything]
    for own in (~groups.mask("many"), groups.mask("few")):
        if own.any() and not torch.equal(own, found[-1]):
            found.append(own)
    return torch.stack(found)


def expert_loss(logits: Tensor, labels: Tensor, own: Tensor, weight: float) -> Tensor:
    """Return the loss of one expert, a scalar; 0 for a batch without an image of its classes.

    Args:
        logits: [B, C].
        labels: int64 [B].
        own: Its classes, bool [C].
        weight: Of squared logits outside of them, which are a mean over all C.
    """
    losses = adjusted_cross_entropy(logits, labels)  # [B]
    outside = logits.to(losses.dtype).masked_fill(own, 0.0).square().mean(dim=1)
    here = own[labels].to(losses.dtype)
    images = distributed.mean(here.sum())  # below 1 where some processes have none
    return (here * (losses + weight * outside)).sum() / images.where(images > 0, 1)

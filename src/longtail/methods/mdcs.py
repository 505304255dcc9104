"""MDCS: more diverse experts with consistency self-distillation (Zhao et al., ICCV 2023, arXiv 2308.09922).

Idea: Experts that are trained for other class distributions differ, the more the farther these are apart.
Each of them overfits what it is made for, so let it say of a strongly augmented image what it says of the
same image weakly augmented, where it is right about that one.

Symbols:
    z_e    logits of expert e, cosines times s, of a weak and a strong view         [B, C], e = 1..E
    a_e    z_e + lam_e log n, n images per class: lam < 0 for frequent classes, > 1 for rare ones
    R_e    images whose weak view expert e assigns to their label

Loss (one stage):
    sum_e CE(a_e, y) on both views
    + .6 r sum_e mean over R_e of KL( softmax(a_e of the weak view) || softmax(a_e of the strong view) )
    r grows from 1 / 20 to 1 in the first 20 epochs; no gradient reaches the weak view

Prediction is the mean of z_e.

Where paper and released code disagree, and what we do:
- As in the code, a batch of 64 images has 128 views, which BatchNorm normalises together.
- The code also has heads, a small network and centres that nothing uses; they are left out here.
- Its README names no schedule; its configuration drops the rate at epochs 200, 320 and 380 of 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Stage, epochs_of
from longtail.ensembles.alone_and_together import alone_and_together
from longtail.losses import cross_entropy, distillation
from longtail.methods.ingredients import CrossEntropyOptions, HeadOptions, ViewName
from longtail.methods.method import Facts, FitBatches, Method, Setting


class MDCSOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["mdcs"] = "mdcs"
    strengths: tuple[float, ...] = Field(
        (-0.5, 1.0, 2.5),
        min_length=1,
        max_length=8,
        description="lambda of each expert; their number is the number of experts",
    )
    weight: float = Field(0.6, ge=0, description="weight of the consistency of the two views")
    rise: float = Field(20.0, ge=0, description="duration in which that weight grows to its full")
    head: Annotated[HeadOptions, ByName] = HeadOptions(name="cosine")
    narrow: bool = Field(
        True, description="whether the experts' own layers are 3/4 as wide as the network's"
    )
    views: tuple[ViewName, ViewName] = Field(
        ("default", "autoaugment-cutout"),
        description="augmentation of the weak and the strong view",
    )


class MDCS(Method):
    """See the head of this file."""

    Config = MDCSOptions
    summary = "experts for very different class distributions, each consistent over two views"
    advice = (
        "accuracy matters more than the cost of two views through three experts, in a long schedule"
    )
    citation = (
        "Zhao et al., MDCS: More Diverse Experts with Consistency Self-distillation for Long-tailed "
        "Recognition, ICCV 2023"
    )

    shifts: Tensor

    def __init__(self, config: MDCSOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.groups = config, setting.epochs, setting.groups
        counts = setting.class_counts
        self.backbone = setting.build_experts(len(config.strengths), narrow=config.narrow)
        plain = CrossEntropyOptions()
        self.heads = nn.ModuleList(
            config.head.build(self.backbone.num_features, len(counts), plain)
            for _ in config.strengths
        )
        strengths = torch.tensor(config.strengths, dtype=torch.float64)
        log_n = counts.tensor(torch.float64).log()
        self.register_buffer("shifts", (strengths[:, None] * log_n).float())  # [E, C]

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        return [Stage(name="joint", epochs=self.epochs, views=self.config.views)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of labels on both views, and what tells the strong view from the weak one."""
        (batch,) = batches
        adjusted = self.sub_model_logits(torch.cat(batch.views)).float() + self.shifts
        labels = batch.labels.repeat(2)
        told = torch.stack([cross_entropy(a, labels) for a in adjusted.unbind(dim=1)]).sum()
        weak, strong = adjusted.chunk(2)
        pairs = zip(weak.unbind(dim=1), strong.unbind(dim=1), strict=True)
        apart = torch.stack([_consistency(w, s, batch.labels) for w, s in pairs]).sum()
        rise = max(1, epochs_of(self.config.rise, at.epochs))
        share = min((at.epoch + 1) / rise, 1.0)
        scalars = {"label_loss": told.detach(), "consistency": apart.detach()}
        return StepOutput(told + self.config.weight * share * apart, scalars)

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean of z_e."""
        return self.sub_model_logits(images).mean(dim=1)

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return z_e, [B, E, C]."""
        maps = self.backbone(images)  # E times [B, D, h, w]
        pairs = zip(self.heads, maps, strict=True)
        return torch.stack([head(m.mean(dim=(2, 3))) for head, m in pairs], dim=1)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each expert alone beside their mean."""
        names = [f"expert {e + 1}, lambda {s:g}" for e, s in enumerate(self.config.strengths)]
        return (alone_and_together(self.sub_model_logits, "experts", names, batches, self.groups),)

    def corrections(self) -> tuple[str, ...]:
        """Name what the experts are trained for."""
        return ("logit-adjusted",)


def _consistency(weak: Tensor, strong: Tensor, labels: Tensor) -> Tensor:
    """Return the mean divergence of the images whose weak view is recognised; 0 if there are none.

    Of several processes, each has the sum of its images over the mean number that they recognise, so that
    gradients are those of one process with the joint batch.
    """
    right = (weak.argmax(dim=1) == labels).to(weak.dtype)
    number = distributed.mean(right.sum())
    return (distillation(strong, weak) * right).sum() / number.clamp_min(1e-6)

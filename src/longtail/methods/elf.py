"""ELF: the early-exiting framework (Duggal et al., 2020, arXiv 2006.11979).

Idea: Within a class, some images are easier than others. Give the network a classifier after every group of
layers, and let an image leave at the first one that gets it right and is sure of it. What leaves early adds
few terms to the loss, so the network turns to hard images.

Symbols:
    z_k    30 cos(x_k, w_kc), with x_k the mean of the maps of group k: logits of exit k = 1..E    [B, C]
    p_k    softmax of z_k
    t      threshold
    k(i)   in training the first exit with argmax z_k = y and max p_k > t, else E

Loss (one stage), with l the LDAM loss and w_y class weights from `start` on (DRW):
    sum_i w_y sum over k <= k(i) of l(z_k, y) / sum_i w_y
Prediction: z_k of the first exit with max p_k > t, else z_E; whether it is right is not known then.

No published code was found, and this is assumed:
- an exit after each group of layers, with nothing between the mean of its maps and its classifier;
- t = .9;
- the weight of an image counts once in the divisor, so the loss of an image grows with its exits;
- the schedule of LDAM-DRW.
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
from longtail.core.groups import GROUP_NAMES
from longtail.core.precision import at_least_float32
from longtail.core.stage import Stage
from longtail.losses import LDAM, CrossEntropy, LabelLoss
from longtail.methods.ingredients import ClassWeightOptions
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import CosineHead, LinearHead
from longtail.models.residual_groups import SideExits


class ELFOptions(Options):
    """What can be chosen; defaults are those of ELF (LDAM) with DRW."""

    name: Literal["elf"] = "elf"
    loss: Literal["ldam", "cross-entropy"] = Field(
        "ldam",
        description="loss of each exit: ldam on cosines, or cross-entropy on linear classifiers",
    )
    max_margin: float = Field(0.5, gt=0, le=2, description="for ldam: margin of the rarest class")
    scale: float = Field(30.0, gt=0, description="for ldam: scale of the cosines")
    class_weights: Annotated[ClassWeightOptions | None, ByName] = ClassWeightOptions(start=0.8)
    threshold: float = Field(
        0.9,
        ge=0,
        le=1,
        description="probability above which an image leaves; with 1, no image leaves early",
    )


class ELF(Method):
    """See the head of this file."""

    Config = ELFOptions
    summary = "a classifier after every group of layers; easy images leave early and count less"
    advice = "some images of a class are much harder than others, and you want a single stage of training"
    citation = "Duggal et al., ELF: An Early-Exiting Framework for Long-Tailed Classification, 2020"

    weights: Tensor | None

    def __init__(self, config: ELFOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        self.counts, self.groups = setting.class_counts, setting.groups
        self.backbone = SideExits(setting.build_backbone(), "ELF leaves after groups")
        num_classes, margins = len(self.counts), config.loss == "ldam"
        self.heads = nn.ModuleList(
            CosineHead(width, num_classes, config.scale)
            if margins
            else LinearHead(width, num_classes, initialisation="kaiming")
            for width in self.backbone.widths
        )
        self.loss: LabelLoss = (
            LDAM(self.counts, config.max_margin, config.scale) if margins else CrossEntropy()
        )
        weighting = config.class_weights
        self.register_buffer("weights", weighting.build(self.counts) if weighting else None)

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        return [Stage(name="joint", epochs=self.epochs)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the losses of every image up to the exit where it leaves, and how many get to each."""
        (batch,) = batches
        labels, logits = batch.labels, self.exit_logits(batch.images)
        losses = torch.stack([self.loss.per_image(z, labels) for z in logits.unbind(1)], dim=1)
        right = logits.argmax(dim=2) == labels[:, None]
        here = reached(right & (confidence(logits) > self.config.threshold)).to(losses.dtype)
        weighting = self.config.class_weights
        weights = torch.ones_like(losses[:, 0])
        if weighting and weighting.has_started(at):
            assert self.weights is not None
            weights = self.weights.to(losses.dtype)[labels]
        total = (weights[:, None] * here * losses).sum()
        shares = {f"reach_exit_{k + 1}": share for k, share in enumerate(here.mean(dim=0)) if k}
        return StepOutput(total / distributed.mean(weights.sum()), shares)

    def predict(self, images: Tensor) -> Tensor:
        """Return z of the first exit that is sure.

        All exits are computed, so that a prediction costs the same for every image and can be exported.
        """
        logits = self.exit_logits(images)
        chosen = self.exits(logits)[:, None, None].expand(-1, 1, logits.shape[2])
        return logits.gather(1, chosen).squeeze(1)

    def exit_logits(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to the logits of every exit, [B, E, C]."""
        pairs = zip(self.heads, self.backbone(images), strict=True)
        return torch.stack([head(pooled) for head, pooled in pairs], dim=1)

    def exits(self, logits: Tensor) -> Tensor:
        """Return where images with logits [B, E, C] leave in prediction, int64 [B], 0 for the first exit."""
        sure = confidence(logits) > self.config.threshold
        return reached(sure).sum(dim=1) - 1

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the share of images that leave at each exit, by shot group."""
        counted = torch.zeros(len(self.counts), len(self.heads))
        for images, labels in batches:
            places = labels * len(self.heads) + self.exits(self.exit_logits(images))
            counted += torch.bincount(places.cpu(), minlength=counted.numel()).view_as(counted)
        empty = self.groups.empty_groups()
        named = {"all": torch.ones(len(counted), dtype=torch.bool)} | {
            name: self.groups.mask(name) for name in GROUP_NAMES if name not in empty
        }
        sums = {name: counted[mask].sum(dim=0) for name, mask in named.items()}
        return (
            FigureData(
                title="Where images leave",
                text="Share of the images whose prediction is that of each exit, by shot group of the class "
                f"(threshold {self.config.threshold:g}). The earlier an exit, the fewer layers it needs.",
                x="exit", y="share of images", kind="bars", percent=True,
                places=[f"exit {k + 1}" for k in range(len(self.heads))],
                series={name: (s / s.sum().clamp_min(1)).tolist() for name, s in sums.items()},
            ),
        )  # fmt: skip

    def corrections(self) -> tuple[str, ...]:
        """Name the loss and weights."""
        config = self.config
        named = ("ldam",) if config.loss == "ldam" else ()
        weighting = config.class_weights
        return (*named, f"{weighting.name} class weights") if weighting else named


def confidence(logits: Tensor) -> Tensor:
    """Return the largest probability of logits [B, E, C], [B, E], in at least float32."""
    return at_least_float32(logits).softmax(dim=2).amax(dim=2)


def reached(leaves: Tensor) -> Tensor:
    """Return which exits images get to if they leave at the first one where they may, int64 [B, E].

    Args:
        leaves: bool [B, E]; whatever it says of the last exit, there is none behind it.
    """
    stays = (~leaves[:, :-1]).long().cumprod(dim=1)
    return torch.cat([torch.ones_like(stays[:, :1]), stays], dim=1)

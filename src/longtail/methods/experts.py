"""Experts on one trunk, each told another truth about the classes: RIDE, SADE and BalPoE.

Idea: Networks that share their first layers and differ in the last ones err in different places, so their
mean is better than each. They are kept apart by a term that rewards disagreement (RIDE), or by losses for
other class distributions: as it is, uniform, reversed (SADE), or any row of them (BalPoE).

Symbols:
    z_e      logits of expert e, cosines times s     [B, C], e = 1..E
    z        mean of z_e, what the user gets         [B, C]
    pi       class frequencies n_c / N               [C]; R(pi): in reverse order
    tau_e    strength of the adjustment of expert e
    T        temperatures of RIDE's divergence       [C]

Loss:
    RIDE    sum_e [ LDAM(z_e, y) - lam mean(T)^2 KL( softmax(z / T) || softmax(z_e / T) ) ], with class
            weights in LDAM and T below 1 for rare classes from 80 % of the epochs on
    SADE    CE(z_1, y) + CE(z_2 + log pi, y) + CE(z_3 + log pi - tau log R(pi), y)
    BalPoE  mean_e CE(z_e + tau_e log pi, y), with mixup; the mean z is a product of experts, unbiased where
            the mean of tau_e is 1

Papers: RIDE, Wang et al., ICLR 2021, arXiv 2010.01809; SADE (TADE), Zhang et al., NeurIPS 2022, arXiv
2107.09249; BalPoE, Sanchez Aimar et al., CVPR 2023, arXiv 2206.05260.

Where papers and released codes disagree, and what we do:
    divergence   RIDE's text: between all pairs; code: of each expert from the mean. We follow the code.
    T            text: shifted by 1 - max; code: divided by the max. Both are at most 1. We follow the code.
    BalPoE       the theory requires a mean tau of 1; the ImageNet-LT recipe has 1.25, which favours rare
                 classes by log pi / 4. Our recipe is as published.
Not included: RIDE's second stage (a router that skips experts for easy images) and its distillation from six
experts. SADE's weights of the experts from all test images (transductive) are in `longtail ensemble RUN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Sampling, Stage
from longtail.ensembles.alone_and_together import alone_and_together
from longtail.losses import diversity, diversity_temperature
from longtail.methods.ingredients import (
    BalancedSoftmaxOptions,
    ClassWeightOptions,
    CrossEntropyOptions,
    HeadOptions,
    InverseSoftmaxOptions,
    LossOptions,
    MixingOptions,
    assumed,
    losses_that_correct,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
    refuse_without_cosines,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting


class ExpertsOptions(Options):
    """What can be chosen; defaults are SADE's on CIFAR-100-LT."""

    name: Literal["experts"] = "experts"
    losses: tuple[LossOptions, ...] = Field(
        (CrossEntropyOptions(), BalancedSoftmaxOptions(), InverseSoftmaxOptions()),
        description="one loss of method=single-head per expert; their number is the number of experts",
    )  # fmt: skip
    total: Literal["sum", "mean"] = Field(
        "sum", description="how the losses of the experts are combined; mean in BalPoE"
    )
    narrow: bool = Field(
        True,
        description="whether the experts' own layers are 3/4 as wide as the network's; false in BalPoE, and "
        "with pretrained weights",
    )
    head: Annotated[HeadOptions, ByName] = HeadOptions(name="cosine")
    class_weights: Annotated[ClassWeightOptions | None, ByName] = None
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight lambda of RIDE's diversity term: .45 on CIFAR, .2 on large data sets, 0 to "
        "switch it off",
    )
    tilt: float = Field(
        0.05, ge=0, lt=1,
        description="g of RIDE's temperatures, if there are class weights: .05 on CIFAR, .02 on ImageNet-LT, "
        ".015 on iNaturalist",
    )  # fmt: skip
    mixing: Annotated[MixingOptions | None, ByName] = None
    backbone_rate: float = Field(
        1.0, gt=0, description="factor for the learning rate of everything but the heads"
    )

    @field_validator("losses")
    @classmethod
    def _at_least_one(cls, value: tuple[LossOptions, ...]) -> tuple[LossOptions, ...]:
        if not value:
            raise ValueError("needs at least one loss, one per expert")
        return value

    @model_validator(mode="after")
    def _cosines_where_needed(self) -> ExpertsOptions:
        refuse_without_cosines(self.losses, self.head)
        return self


class MultiExpert(Method):
    """See the head of this file."""

    Config = ExpertsOptions
    summary = "experts with different losses on a shared trunk, averaged: RIDE, SADE, BalPoE"
    advice = "accuracy is worth twice the cost: BalPoE for all classes, SADE for few-shot classes"
    citation = "RIDE, ICLR 2021; SADE, NeurIPS 2022; BalPoE, CVPR 2023; see the recipe"

    weights: Tensor | None
    temperature: Tensor

    def __init__(self, config: ExpertsOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.groups = config, setting.epochs, setting.groups
        counts, scale = setting.class_counts, config.head.scale
        self.counts = counts
        self.backbone = setting.build_experts(len(config.losses), narrow=config.narrow)
        width = self.backbone.num_features
        self.heads = nn.ModuleList(
            config.head.build(width, len(counts), loss) for loss in config.losses
        )
        self.losses = nn.ModuleList(loss.build(counts, scale) for loss in config.losses)
        weighting = config.class_weights
        self.register_buffer("weights", weighting.build(counts) if weighting else None)
        self.register_buffer("temperature", diversity_temperature(counts, config.tilt))

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        rate = self.config.backbone_rate
        rates = () if rate == 1 else (("backbone", rate),)
        samplings = (Sampling(), *mixing_streams(self.config.mixing))
        return [Stage(name="joint", epochs=self.epochs, samplings=samplings, rates=rates)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the sum (or mean) of the experts' losses, and each of them for the log."""
        batch = batches[0]
        mixed = mixed_batch(self.config.mixing, batches, at)
        logits = self.sub_model_logits(mixed.images if mixed else batch.images)  # [B, E, C]
        weighting = self.config.class_weights
        weighted = weighting is not None and weighting.has_started(at)

        def label_loss(labels: Tensor) -> Tensor:
            weights = self.weights if weighted else None
            each = [
                loss(z, labels, weights)
                for loss, z in zip(self.losses, logits.unbind(dim=1), strict=True)
            ]
            return torch.stack(each)  # [E]

        each = mixed.loss(label_loss) if mixed else label_loss(batch.labels)
        loss = each.sum()
        if self.config.diversity:
            temperature = self.temperature if weighted else torch.ones_like(self.temperature)
            loss = loss - self.config.diversity * diversity(logits, temperature)
        if self.config.total == "mean":
            loss = loss / len(each)
        apart = {f"expert_{e + 1}_loss": value for e, value in enumerate(each.detach().unbind())}
        return StepOutput(loss, apart)

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        return self.sub_model_logits(images).mean(dim=1)

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return z_e, [B, E, C]."""
        maps = self.backbone(images)  # E times [B, D, h, w]
        pairs = zip(self.heads, maps, strict=True)
        return torch.stack([head(m.mean(dim=(2, 3))) for head, m in pairs], dim=1)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each expert alone beside their mean."""
        names = [f"expert {e + 1}, {loss.name}" for e, loss in enumerate(self.config.losses)]
        return (alone_and_together(self.sub_model_logits, "experts", names, batches, self.groups),)

    def corrections(self) -> tuple[str, ...]:
        """Name the losses and weights that correct for the prior."""
        named = losses_that_correct(self.config.losses)
        if self.config.class_weights:
            named += (f"{self.config.class_weights.name} class weights",)
        return named + mixing_corrections(self.config.mixing)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the geometric mean of what the experts assume; RIDE's divergence is no likelihood."""
        config = self.config
        if config.diversity:
            return None
        return assumed(
            self.counts, at, losses=config.losses, weighting=config.class_weights,
            mixing=config.mixing,
        )  # fmt: skip
